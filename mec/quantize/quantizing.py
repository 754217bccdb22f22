"""The quantize step: pre-trained tables to codebooks and packed codes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from mec.bundle import open_bundle, write_bundle
from mec.config import QuantizeConfig
from mec.data.vocabulary import Vocabularies
from mec.progress import Progress, note
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.coding import CodedTable, code_table
from mec.quantize.diagnostics import CodingQuality, diagnostics_json, explained
from mec.quantize.fit_watch import FitWatch
from mec.quantize.neighbours import sample_values
from mec.quantize.plan import VocabularyPlan
from mec.quantize.planning import choose_plans
from mec.quantize.pretrained_tables import PretrainedTables
from mec.quantize.reliability import reliability_json
from mec.quantize.storage import stored
from mec.quantize.value_probe import ValueProbe
from mec.steps import step

STEP = "quantize"
_WORSE = 1e-3  # of the variance: less is what two codebooks differ in by chance


def quantize_step(
    *, quantize: QuantizeConfig, pretrained: Path, vocabulary: Path, seed: int, out_codebook: Path, out_codes: Path
) -> None:
    """Code every large vocabulary's pre-trained rows, and keep the small ones exact.

    Args:
        quantize: A byte budget, or structure, M, K, head and tail of all; weights, and how floats are stored.
        pretrained: "pretrained" bundle with the tables.
        vocabulary: "vocabulary" bundle with the training counts.
        seed: Of samples and first codewords.
        out_codebook: Where the "codebook" bundle goes.
        out_codes: Where the "codes" bundle goes.

    Raises:
        ConfigError: M, K and D do not go together, the budget is too small, floats cannot be stored as set, or there
            is no such device.
        TrainingError: A table holds rows that are not finite, or none of its values was seen in training.
        BundleError: Tables and vocabulary differ in size, or head or tail is wanted and ids are not by popularity.
    """
    with step(STEP, out_codebook) as record:
        bundle, vocabularies = open_bundle(pretrained, "pretrained"), Vocabularies.open(vocabulary)
        tables = PretrainedTables(bundle, vocabularies, quantize)
        # a vocabulary's values count once for the budget, once for the fit and once for coding
        progress = Progress(STEP, (2 if quantize.budget is None else 3) * sum(tables.sizes.values()))
        plans, allocation = choose_plans(
            tables, quantize, seed=seed, report=_share_progress(progress, sum(tables.sizes.values()))
        )
        _note_kept_exact(plans, tables.sizes, quantize)
        done: dict[str, CodedTable] = {}
        diagnostics: dict[str, dict[str, object]] = {}
        exact: dict[str, Tensor] = {}
        for name, size in tables.sizes.items():
            plan, end = plans[name], progress.done + 2 * size
            if plan is None:
                exact[name] = stored(tables.rows(name), quantize.floats, f"a row of vocabulary {name!r}")
                progress.set(end, f"{name}: exact")
                continue
            watch = FitWatch(_share_progress(progress, size, f"{name}: "))
            counts = tables.counts(name)
            probe = ValueProbe(counts, sample_values(counts), tables.width)
            done[name] = code_table(
                name,
                tables.rows(name),
                tables.weights(name),
                plan,
                quantize,
                seed=_vocabulary_seed(seed, name),
                watch=watch,
                coded=_count_progress(progress, f"{name}: coded"),
                probe=probe,
            )
            values = partial(vocabularies.values, name)
            diagnostics[name] = diagnostics_json(done[name].quality, probe, counts, values)
            if progress.done < end:  # head and tail are not coded one by one
                progress.set(end, f"{name}: coded")
            _note_if_worse(name, watch.facts, done[name].quality.variance)
        books = {name: table.book for name, table in done.items()}
        codebooks = Codebooks(bundle.extra["space"], tables.layout, tables.embedding_dim, books, exact, quantize.floats)
        parents = {"pretrained": bundle, "vocabulary": vocabularies.bundle}
        config = {"quantize": quantize.model_dump(mode="json"), "seed": seed}
        with write_bundle(out_codebook, "codebook", parents=parents, config=config) as draft:
            oov_codes = {name: table.oov_code for name, table in done.items()}
            codebooks.write(draft, oov_codes, diagnostics)
            draft.extra["weights"] = quantize.weights
            if allocation:
                draft.extra["allocation"] = allocation
            if trust := _trust(tables, tables.sizes if allocation else done):
                draft.extra["reliability"] = trust
            draft.extra["pretrain_folds"] = bundle.extra["folds"]  # for a report on the codes
        written = open_bundle(out_codebook, "codebook")
        codes_parents = {"codebook": written, "vocabulary": vocabularies.bundle}
        codes = Codes(
            replace(codebooks, uuid=written.uuid),
            {name: table.packed for name, table in done.items()},
            head={name: table.head for name, table in done.items() if len(table.head)},
            tail_start={n: p.tail_start for n, p in plans.items() if p is not None and p.has_tail(tables.sizes[n])},
        )
        with write_bundle(out_codes, "codes", parents=codes_parents, config=config) as draft:
            codes.write(draft)
        record.summary = _summary(plans, codebooks, {name: table.quality for name, table in done.items()})


def _trust(tables: PretrainedTables, names: Iterable[str]) -> dict[str, list[dict[str, float]]]:
    """Reliability by popularity range of the vocabularies whose values are weighted by it."""
    found = {name: tables.reliability(name) for name in names}
    return {name: reliability_json(tables.counts(name), *own) for name, own in found.items() if own is not None}


def _share_progress(progress: Progress, num_units: int, what: str = "") -> Callable[[float, str], None]:
    """What turns shares of some units into progress from where it is now."""
    start = progress.done
    return lambda share, text: progress.set(start + int(share * num_units), what + text)


def _count_progress(progress: Progress, text: str) -> Callable[[int], None]:
    return lambda num: progress.update(num, text)


def _note_kept_exact(
    plans: Mapping[str, VocabularyPlan | None], sizes: Mapping[str, int], quantize: QuantizeConfig
) -> None:
    """Name the vocabularies that are large enough for codes, but would not be smaller for them."""
    names = [name for name, plan in plans.items() if plan is None and sizes[name] >= quantize.min_values]
    if names and quantize.budget is None:
        note(STEP, f"{', '.join(names)}: all rows kept exact, for codes, codebook and head would take no fewer bytes")


def _note_if_worse(name: str, facts: Mapping[str, float], variance: float) -> None:
    if "mec_distortion" not in facts:
        return
    lost = facts["mec_distortion"] - facts["kmeans_distortion"]
    if lost > _WORSE * variance > 0:
        more = f"by {100 * lost / variance:.1f} % of the variance"
        note(STEP, f"{name}: the MEC objective ends with more weighted distortion than k-means, {more}")


def _vocabulary_seed(seed: int, vocabulary: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{vocabulary}".encode()).digest()[:6], "little")


def _summary(
    plans: Mapping[str, VocabularyPlan | None], codebooks: Codebooks, quality: Mapping[str, CodingQuality]
) -> str:
    num_bytes = sum(q.code_bytes + q.codebook_bytes + q.row_bytes for q in quality.values())
    num_bytes += sum(rows.nbytes for rows in codebooks.exact.values())
    total = f"{len(quality)} of {len(plans)} vocabularies coded"
    if not quality:
        return f"{total}: all rows are exact, {num_bytes / 2**20:.2f} MiB"
    share = explained(sum(q.distortion for q in quality.values()), sum(q.variance for q in quality.values()))
    shapes = sorted({f"{p.structure} {p.num_codes}x{p.num_codewords}" for p in plans.values() if p is not None})
    shape = shapes[0] if len(shapes) == 1 else f"{len(shapes)} shapes"
    return f"{total}, {shape}, {100 * share:.0f} % of variance, {num_bytes / 2**20:.2f} MiB"
