"""The arrivals step: is all of the new data there, and is it new; asked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from mec.bundle import open_bundle, write_bundle, write_json
from mec.config import DataConfig, RefreshConfig
from mec.config.loading import explain
from mec.data.readers import open_source
from mec.errors import ConfigError
from mec.refresh.arrivals import Expected, check_arrived
from mec.refresh.overlap import find_overlap, write_row_hashes
from mec.refresh.refreshable import check_refreshable
from mec.steps import step

ARRIVALS = "arrivals.json"


def new_rows(data: DataConfig, path: str | tuple[str, ...], refresh: RefreshConfig) -> DataConfig:
    """The data section for the new rows: the same columns, their own path and split.

    Args:
        data: Of the train run.
        path: File, directory or pattern of the new rows, or several of these.
        refresh: Its split, if it has one.

    Raises:
        ConfigError: The train run's section says nothing of a file's columns, as that of generated rows.
    """
    changed = data.model_dump() | {"path": path, "synthetic": None}
    if refresh.split is not None:
        changed["split"] = refresh.split.model_dump()
    try:
        return DataConfig.model_validate(changed)
    except ValidationError as error:
        raise ConfigError(
            "the data section of the train run does not say how to read the new rows",
            found="; ".join(explain(error, DataConfig)),
            fix="refresh with the config of a train run on files, which names their columns",
        ) from None


def arrivals_step(
    *,
    refresh: RefreshConfig,
    data: DataConfig,
    model: Path,
    earlier: Sequence[Path],
    seed: int,
    out: Path,
    out_hashes: Path,
) -> None:
    """Refuse new data that is incomplete or not new, and a model that cannot be refreshed.

    Args:
        refresh: What must have arrived.
        data: Of the new rows, see ``new_rows``.
        model: "model" bundle in service; its codewords must be frozen.
        earlier: "row_hashes" bundles of all periods that were trained on, in any order; empty checks no overlap.
        seed: Of the random split, as in the count step.
        out: Directory of the "arrivals" bundle: ``arrivals.json``, rows per file and value, and the overlap.
        out_hashes: Directory of the "row_hashes" bundle of the new training rows, ``earlier`` for later refreshes.

    Raises:
        DataError: Files, values or rows are missing, or too many rows are in an earlier period; they are named.
        ConfigError: The model was trained with codewords of its own.
    """
    with step("arrivals", out) as record:
        check_refreshable(open_bundle(model, "model"))
        source = open_source(data, seed=seed)
        wanted = refresh.arrivals
        expected = Expected(wanted.files, wanted.column, wanted.values, wanted.min_rows, wanted.min_part_rows)
        arrived = check_arrived(source, expected)
        # the champion step has compared their checksums: to do so here again would cost the history a second time
        known = [open_bundle(path, "row_hashes", verify=False) for path in earlier]
        overlap = find_overlap(source, known)
        overlap.refuse(wanted.max_overlap)
        hashes = write_row_hashes(source, out_hashes)
        facts = {
            "file_rows": dict(arrived.file_rows),
            "value_rows": dict(arrived.value_rows),
            "overlap": asdict(overlap) | {"share": overlap.share, "repeated_share": overlap.repeated_share},
        }
        config = {"arrivals": wanted.model_dump(mode="json"), "seed": seed}
        with write_bundle(out, "arrivals", parents={"row_hashes": hashes}, config=config) as draft:
            write_json(draft.path / ARRIVALS, facts)
        rows = sum(arrived.file_rows.values())
        record.summary = f"{rows} rows in {len(arrived.file_rows)} files, {100 * overlap.share:.2f} % seen before"
