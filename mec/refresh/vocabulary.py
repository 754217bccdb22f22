"""The next generation of a vocabulary: known values keep their ids, new ones are appended by count.

Ids are in order of decreasing count only within the values of one generation, so nothing may take the order of ids
for that of popularity over a whole extended vocabulary: read ``Vocabularies.counts`` instead.

Beside the merged count, which is how popular a value is, the tables of an extended vocabulary have a column
``new_count``: in how many of the new rows it occurs, which tells the values that the refresh has learned about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.config import CountConfig
from mec.data.vocabulary import LINEAR, Vocabularies, extend
from mec.errors import DataError
from mec.refresh.counts import merged_counts
from mec.steps import step

NEW_COUNT = "new_count"


def extend_vocabulary_step(*, parent: Path, counts: Path, count: CountConfig, keep: float, out: Path) -> None:
    """Extend a vocabulary by the values of new rows and write the next generation's ``vocabulary`` bundle.

    A value that is new to the vocabulary and occurs ``min_count`` times in the new rows gets the next id, most
    frequent first, equal counts by value. What is rarer shares id 0 and is forgotten: a value that is below
    ``min_count`` in every period never gets an id. Linear fields keep the mean and deviation that the space was
    trained with, whatever those of the new rows are.

    Args:
        parent: Vocabulary bundle in service.
        counts: Bundle of the count step over the new rows.
        count: ``min_count``.
        keep: Share of old counts kept; see ``mec.refresh.counts``.
        out: Directory of the bundle. ``generation`` is the parent's plus 1; ``counted`` lists the counts bundles of
            all generations; ``rows`` are the new rows, as they are what is encoded with it.

    Raises:
        DataError: These rows are counted in the vocabulary already, or are not of the same vocabularies and types.
        ConfigError: ``keep`` is no share.
    """
    with step("extend_vocabulary", out) as record:
        known = Vocabularies.open(parent)
        new = open_bundle(counts, "counts")
        counted = counted_in(known)
        if new.uuid in counted:
            raise DataError(
                f"the rows of {counts} are counted in the vocabulary {parent} already",
                found=f"generation {known.generation}",
                fix="there is nothing to refresh; give rows that came after it",
            )
        _require_same(known, new)
        generation = known.generation + 1
        num_new, sizes = 0, {}
        settings = {"min_count": count.min_count, "keep": keep}
        parents = {"counts": new, "parent": known.bundle}
        with write_bundle(out, "vocabulary", parents=parents, config=settings) as draft:
            for name, kind in known.types.items():
                old = pq.read_table(known.bundle.file(f"{name}.parquet"))
                if kind == LINEAR:
                    table = _with_linear_counts(old, new.extra["numeric"][name])
                else:
                    counted_values = pq.read_table(new.file(f"{name}.parquet"))
                    table = extend(old, counted_values, min_count=count.min_count, generation=generation)
                table = _merged(old, table, name, keep=keep, generation=generation)
                # Nearly every value is its own: a dictionary would only grow the file.
                pq.write_table(table, draft.path / f"{name}.parquet", use_dictionary=False)
                sizes[name] = {"size": table.num_rows, "type": kind}
                num_new += table.num_rows - old.num_rows
            draft.extra = {
                "vocabularies": sizes,
                "generation": generation,
                "rows": new.extra["rows"],
                "numeric": _numeric(known.bundle.extra["numeric"], new.extra["numeric"]),
                "counted": [*counted, new.uuid],
            }
        num_ids = sum(fact["size"] for fact in sizes.values())
        record.summary = f"generation {generation}: {num_new} new values, {num_ids} ids"


def counted_in(vocabularies: Vocabularies) -> list[str]:
    """uuids of all counts bundles that are in a vocabulary's counts, oldest first."""
    bundle = vocabularies.bundle
    first = [bundle.manifest.parents["counts"]] if "counts" in bundle.manifest.parents else []
    return [str(u) for u in bundle.extra.get("counted", first)]


def new_counts(vocabularies: Vocabularies, name: str) -> NDArray[np.int64]:
    """(V,) how often each value occurs in the rows that made this generation, by id."""
    if vocabularies.generation == 0:
        return vocabularies.counts(name)
    table = pq.read_table(vocabularies.bundle.file(f"{name}.parquet"), columns=[NEW_COUNT])
    return np.asarray(table[NEW_COUNT], dtype=np.int64)


def _merged(old: pa.Table, extended: pa.Table, name: str, *, keep: float, generation: int) -> pa.Table:
    new = np.asarray(extended["count"], dtype=np.int64)
    known = np.asarray(old["count"], dtype=np.int64)
    merged = merged_counts(known, new, keep=keep, generation=generation, vocabulary=name)
    place = extended.schema.get_field_index("count")
    return extended.set_column(place, "count", pa.array(merged)).append_column(NEW_COUNT, pa.array(new))


def _with_linear_counts(old: pa.Table, fact: dict[str, Any]) -> pa.Table:
    place = old.schema.get_field_index("count")
    counts = pa.array([int(fact["num_nulls"]), int(fact["num_values"])], pa.int64())
    return old.set_column(place, "count", counts).select(["id", "value", "count", "first_generation"])


def _numeric(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Counts of the new rows under the old mean and deviation: the backbone knows numbers standardised by these."""
    return {name: new[name] | {"mean": fact["mean"], "std": fact["std"]} for name, fact in old.items()}


def _require_same(known: Vocabularies, new: Bundle) -> None:
    found = {name: str(fact["type"]) for name, fact in new.extra["vocabularies"].items()}
    found |= dict.fromkeys(new.extra["numeric"], LINEAR)
    if found != known.types:
        raise DataError(
            f"the new rows are not of the vocabularies that are in service: {known.types}",
            found=found,
            fix="keep the config's fields as they were, or train a new space with the train pipeline",
        )
