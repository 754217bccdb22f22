"""The recode step: the next generation of codes, from refreshed tables of the same space."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.config import QuantizeConfig, RefreshConfig
from mec.data.vocabulary import Vocabularies
from mec.errors import BundleError, SpaceError
from mec.progress import Progress
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.pretrained_tables import PretrainedTables
from mec.quantize.storage import stored
from mec.refresh.next_codes import NextCodes, Recounted, growing_plan, recode_vocabulary, renew_vocabulary
from mec.refresh.pretraining import TRAINED_FILE
from mec.refresh.rewriting import limit_rewritten
from mec.serving.building import copy_bundle
from mec.steps import step

STEP = "recode"


def recode_step(
    *,
    refresh: RefreshConfig,
    quantize: QuantizeConfig,
    pretrained: Path,
    codebook: Path,
    codes: Path,
    vocabulary: Path,
    seed: int,
    out_codebook: Path,
    out_codes: Path,
) -> None:
    """Code refreshed tables: with the codebooks in service, value by value, or with codebooks fitted anew.

    Frozen: ``out_codebook`` is a copy of ``codebook``, same uuid. A value without new training rows keeps its code, or
    its exact row. Exact rows, of heads and of vocabularies without codes, are in the codes bundle.
    Renewed: a new codebook of the same space and shapes, and all codes are new; publish under the new codebook's
    name and switch scorers as a whole. Either way the backbone stays, and head and tail stay the same values.

    Args:
        refresh: ``codebooks``, ``hysteresis`` and ``max_rewritten``.
        quantize: As in the train run: weights, rows coded at a time, and how renewed codebooks are fitted. Shapes,
            head, tail and ``floats`` are those in service.
        pretrained: "pretrained" bundle of ``refresh_pretrain_step``.
        codebook: "codebook" bundle in service.
        codes: "codes" bundle in service.
        vocabulary: "vocabulary" bundle that ``pretrained`` was trained with.
        seed: Of renewed codebooks.
        out_codebook: Where the "codebook" bundle goes.
        out_codes: Where the "codes" bundle goes; ``generation`` is one more, ``recoded`` counts what changed.

    Raises:
        SpaceError: The bundles are not of one space, or codes and codebook do not belong together.
        BundleError: Tables and vocabulary differ in size, or do not extend the codes.
        ConfigError: A float cannot be stored as the codebook stores floats.
        TrainingError: A row is not finite.
    """
    with step(STEP, out_codes) as record:
        book_bundle, old_bundle = open_bundle(codebook, "codebook"), open_bundle(codes, "codes")
        old = Codes.open(old_bundle, Codebooks.open(book_bundle))
        bundle, vocabularies = open_bundle(pretrained, "pretrained"), Vocabularies.open(vocabulary)
        _check(bundle, vocabularies, old)
        # refreshed tables have no folds to compare, and floats are stored as they were
        settings = quantize.model_copy(update={"floats": old.codebooks.floats, "reliability": False})
        tables = PretrainedTables(bundle, vocabularies, settings)
        parents = {"vocabulary": vocabularies.bundle, "pretrained": bundle, "parent": old_bundle}
        config = {"refresh": [refresh.codebooks, refresh.hysteresis, refresh.max_rewritten], "seed": seed}
        config |= {"quantize": settings.model_dump(mode="json")}
        if refresh.codebooks == "frozen":
            following = _frozen(tables, old, refresh, settings)
            if out_codebook.exists():
                shutil.rmtree(out_codebook)
            copy_bundle(book_bundle, out_codebook)
        else:
            following = _renewed(tables, old, settings, seed)
            renewed_from = {"pretrained": bundle, "vocabulary": vocabularies.bundle, "parent": book_bundle}
            with write_bundle(out_codebook, "codebook", parents=renewed_from, config=config) as draft:
                following.codes.codebooks.write(draft, following.oov_codes, following.diagnostics)
                draft.extra["weights"] = settings.weights
        written = open_bundle(out_codebook, "codebook")
        new = replace(following.codes, codebooks=replace(following.codes.codebooks, uuid=written.uuid))
        with write_bundle(out_codes, "codes", parents={"codebook": written, **parents}, config=config) as draft:
            new.write(draft)
            draft.extra["recoded"] = {name: found.to_json() for name, found in following.recounted.items()}
        counted = following.recounted.values()
        changed, held, added = (sum(getattr(found, key) for found in counted) for key in ("changed", "held", "added"))
        record.summary = (
            f"generation {new.generation}, {refresh.codebooks} codebooks: {changed} codes changed, {held} held, "
            f"{added} values added"
        )


@dataclass
class _Following:
    """The next generation, before its codebook has a uuid."""

    codes: Codes
    recounted: Mapping[str, Recounted]
    oov_codes: Mapping[str, list[int]] = field(default_factory=dict)
    diagnostics: Mapping[str, dict[str, object]] = field(default_factory=dict)


def _frozen(tables: PretrainedTables, old: Codes, refresh: RefreshConfig, settings: QuantizeConfig) -> _Following:
    books, exact = old.codebooks, {}
    coded: dict[str, NextCodes] = {}
    progress = Progress(STEP, sum(tables.sizes.values()))
    for name, size in tables.sizes.items():
        rows, trained = tables.rows(name), _trained(tables.bundle, name, size)
        if name in books.exact:
            before = old.exact.get(name, books.exact[name])
            exact[name] = stored(rows, books.floats, f"a row of vocabulary {name!r}").clone()
            kept = torch.nonzero(trained[: len(before)] == 0)[:, 0]
            exact[name][kept] = before[kept]
        else:
            weights = tables.weights(name)
            coded[name] = recode_vocabulary(name, rows, weights, trained, old, refresh.hysteresis, settings.chunk_rows)
        progress.update(size, f"{name}: coded")
    coded = limit_rewritten(coded, old, int(refresh.max_rewritten * sum(old.size(name) for name in coded)))
    sizes = {name: tables.sizes[name] for name in books.coded}
    plans = {name: growing_plan(old, name, size) for name, size in sizes.items()}
    codes = replace(
        old,
        packed={name: found.packed for name, found in coded.items()},
        head={name: found.head for name, found in coded.items() if len(found.head)},
        exact=exact,
        sizes=sizes,
        bases={name: plan.base for name, plan in plans.items() if plan.base},
        generation=old.generation + 1,
        parent_generation=old.generation,
        uuid="",
    )
    return _Following(codes, {name: found.recounted for name, found in coded.items()})


def _renewed(tables: PretrainedTables, old: Codes, settings: QuantizeConfig, seed: int) -> _Following:
    books, exact = {}, {}
    packed, head, bases, recounted, oov_codes, diagnostics = {}, {}, {}, {}, {}, {}
    progress = Progress(STEP, 2 * sum(tables.sizes.values()))
    for name, size in tables.sizes.items():
        if name in old.codebooks.exact:
            exact[name] = stored(tables.rows(name), settings.floats, f"a row of vocabulary {name!r}")
            progress.update(2 * size, f"{name}: exact")
        else:
            plan, own_seed = growing_plan(old, name, size), _vocabulary_seed(seed, name)
            table = renew_vocabulary(name, tables.rows(name), tables.weights(name), plan, settings, own_seed, progress)
            books[name], packed[name], oov_codes[name] = table.book, table.packed, table.oov_code
            diagnostics[name] = table.quality.to_json()
            if len(table.head):
                head[name] = table.head
            if plan.base:
                bases[name] = plan.base
            added = size - old.size(name)
            recounted[name] = Recounted(changed=size - added, held=0, added=added)
    new_books = Codebooks(old.codebooks.space, tables.layout, tables.embedding_dim, books, exact, settings.floats)
    codes = Codes(
        new_books,
        packed,
        old.generation + 1,
        old.generation,
        head=head,
        tail_start=dict(old.tail_start),
        sizes={name: tables.sizes[name] for name in books},
        bases=bases,
    )
    return _Following(codes, recounted, oov_codes, diagnostics)


def _trained(bundle: Bundle, name: str, size: int) -> Tensor:
    """(V,) int64, how many of the rows that trained the tables held each value."""
    with safe_open(bundle.file(TRAINED_FILE), framework="pt") as file:
        counts: Tensor = file.get_tensor(name)
    if counts.shape != (size,):
        raise BundleError(
            f"{bundle.path} does not say of each of {size} values of vocabulary {name!r} whether it was trained",
            found=tuple(counts.shape),
            fix="run the refresh_pretrain step again",
        )
    return counts


def _vocabulary_seed(seed: int, vocabulary: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/renewed/{vocabulary}".encode()).digest()[:6], "little")


def _check(bundle: Bundle, vocabularies: Vocabularies, old: Codes) -> None:
    if bundle.extra["space"] != old.codebooks.space:
        raise SpaceError(
            f"the tables {bundle.path} are not of the space of the codes in service, {old.codebooks.space}",
            found=bundle.extra["space"],
            fix="refresh the tables of that space",
        )
    trained_with = bundle.manifest.parents["vocabulary"]
    if trained_with != vocabularies.bundle.uuid:
        raise SpaceError(
            f"the tables {bundle.path} were not trained with the vocabulary {vocabularies.bundle.path}",
            found=trained_with,
            fix=f"pass the vocabulary {trained_with}",
        )
    sizes = {name: old.size(name) for name, _ in old.codebooks.layout.vocabularies if name in old.codebooks.coded}
    sizes |= {name: len(old.exact.get(name, rows)) for name, rows in old.codebooks.exact.items()}
    short = {name: vocabularies.sizes.get(name, 0) for name in sizes if vocabularies.sizes.get(name, 0) < sizes[name]}
    if short:
        raise BundleError(
            f"the vocabulary {vocabularies.bundle.path} does not extend that of the codes, of sizes {sizes}",
            found=short,
            fix="pass the extended vocabulary",
        )
