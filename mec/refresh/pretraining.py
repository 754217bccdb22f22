"""The refresh_pretrain step: the small model on new rows, rotated into the space that is in service."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from mec.alignment import Alignment, align, align_rows, shared_weights
from mec.bundle import Bundle, open_bundle, write_bundle
from mec.checkpoints import Checkpoints
from mec.config import PretrainConfig, RefreshConfig
from mec.ctr_model import CtrModel
from mec.data.dataset import EncodedDataset
from mec.data.layout import FieldLayout
from mec.data.vocabulary import Vocabularies
from mec.devices import find_device
from mec.embeddings.full import FullEmbedding
from mec.errors import ConfigError, SpaceError
from mec.fold_training import count_rows
from mec.pretraining import build_pretrained, fill_unseen
from mec.quantize.pretrained_tables import TABLES_FILE
from mec.refresh.anchoring import AnchoredModel
from mec.refresh.replay import write_training_rows
from mec.refresh.vocabulary import new_counts
from mec.steps import step
from mec.training import FitResult, fit

STEP = "refresh_pretrain"
BIAS_FILE = "bias.safetensors"
TRAINED_FILE = "trained.safetensors"

Counts = Mapping[str, NDArray[np.int64]]


def refresh_pretrain_step(
    *,
    refresh: RefreshConfig,
    pretrain: PretrainConfig,
    dataset: Path,
    replay: Sequence[Path],
    vocabulary: Path,
    pretrained: Path,
    seed: int,
    checkpoints: Path | None,
    out: Path,
) -> None:
    """Train the small model on new rows, align it with the space, and write the next "pretrained" bundle of that space.

    Values of the extended vocabulary that no training row held keep the vector that they had, to the bit; those that
    never had one get the mean of the others. Unless the start is fresh, new values begin at the mean of their
    vocabulary's old rows, shrunk as these are, plus noise. ``pretrain.folds`` is not used: no backbone will be trained
    on these tables.

    With ``refresh.finish_on_new`` the training has two parts: old and new rows together, which keeps what little moved,
    then the new ones alone, which unlearns what no longer holds. Each stops by itself.

    Args:
        refresh: Start, shrink, learning_rate_factor, replay, finish_on_new, anchor.
        pretrain: Model, D and optimizer, as in the train run.
        dataset: "dataset" bundle of the new rows, encoded with ``vocabulary``; its valid split stops the training.
        replay: "dataset" bundles of earlier periods, for ``refresh.replay`` other than ``none``; else not read.
        vocabulary: "vocabulary" bundle, extended.
        pretrained: "pretrained" bundle of the generation in service.
        seed: Of first vectors, the replayed sample and shuffling.
        checkpoints: Directory for resuming a killed run; None keeps none.
        out: Directory of the bundle; ``space`` is that of ``pretrained``, ``alignment`` how well they agree.
            ``trained.safetensors`` has, per vocabulary, how many of the training rows held each value.

    Raises:
        ConfigError: Another D or model than the space's, or a start from old vectors of a model with dense weights.
        SpaceError: Datasets, tables and vocabulary do not belong together.
        DataError: No rows to replay, or too few values in both periods to fit a rotation.
        TrainingError: A loss term is not finite.
    """
    with step(STEP, out) as record:
        find_device(pretrain.device, "pretrain.device")
        new, vocabularies = EncodedDataset.open(dataset), Vocabularies.open(vocabulary)
        old = open_bundle(pretrained, "pretrained")
        _check(pretrain, new, vocabularies, old)
        old_tables = load_file(old.file(TABLES_FILE))
        mixed = out.with_name(f"{out.name}.rows")
        rows = new
        if refresh.replay != "none":
            earlier = [EncodedDataset.open(path, verify=False) for path in replay]
            rows = write_training_rows(new, earlier, refresh, seed, mixed)
        key = [rows.bundle.uuid, old.uuid, _settings(refresh), pretrain.model_dump(mode="json"), seed]
        kept = [None if checkpoints is None else Checkpoints(checkpoints, STEP, [*key, part]) for part in (1, 2)]
        model, fits = _train(refresh, pretrain, new, rows, old, old_tables, seed, kept)
        assert isinstance(model.embedding, FullEmbedding)
        trained = count_rows(rows)
        tables = {name: table.detach().cpu() for name, table in model.embedding.tables().items()}
        tables = fill_unseen(tables, trained, vocabularies.types)
        aligned, alignment = _into_space(tables, old_tables, trained, vocabularies)
        parents: dict[str, Bundle | str] = {"dataset": new.bundle, "rows": rows.bundle.uuid}
        parents |= {"vocabulary": vocabularies.bundle.uuid, "parent": old}
        config = {
            "refresh": _settings(refresh),
            "pretrain": pretrain.model_dump(mode="json"),
            "seed": seed,
        }
        with write_bundle(out, "pretrained", parents=parents, config=config) as draft:
            save_file({name: table.contiguous() for name, table in aligned.items()}, draft.path / TABLES_FILE)
            save_file({"bias": model.bias.detach().cpu().reshape(1)}, draft.path / BIAS_FILE)
            save_file({name: torch.from_numpy(n.copy()) for name, n in trained.items()}, draft.path / TRAINED_FILE)
            draft.extra = {
                "space": old.extra["space"],
                "embedding_dim": pretrain.embedding_dim,
                "model": pretrain.model,
                "layout": new.layout.to_json(),
                "fit": fits[0].to_json(),
                "finish": fits[1].to_json() if len(fits) > 1 else None,
                "folds": {"num": 0, "seed": seed, "fits": []},
                "alignment": alignment.to_json(),
                "rows": {"new": new.num_rows("train"), "replayed": rows.num_rows("train") - new.num_rows("train")},
            }
        for checkpoint in filter(None, kept):
            checkpoint.clear()
        shutil.rmtree(mixed, ignore_errors=True)
        found, epochs = draft.extra["rows"], " + ".join(f"{fitted.best_epoch:g}" for fitted in fits)
        record.summary = (
            f"{refresh.start} start on {found['new']} new and {found['replayed']} old rows: valid AUC "
            f"{fits[-1].best_auc:.4f} after {epochs} epochs, {alignment.overall.explained_after:.0%} of the "
            "old vectors explained"
        )


def _settings(refresh: RefreshConfig) -> list[object]:
    """What shapes the training beside its rows."""
    return [refresh.start, refresh.shrink, refresh.learning_rate_factor, refresh.anchor, refresh.finish_on_new]


def _train(
    refresh: RefreshConfig,
    pretrain: PretrainConfig,
    new: EncodedDataset,
    rows: EncodedDataset,
    old: Bundle,
    old_tables: Mapping[str, Tensor],
    seed: int,
    kept: Sequence[Checkpoints | None],
) -> tuple[CtrModel, list[FitResult]]:
    """The small model, trained; its vectors are not in the old space yet.

    Args:
        refresh, pretrain, old, old_tables, seed: As of the step.
        new: The new rows.
        rows: New and old ones.
        kept: One for each of the two parts.

    Returns:
        The model, and how each part of its training went.
    """
    model, weight = build_pretrained(rows, pretrain, seed), pretrain.l2
    assert isinstance(model.embedding, FullEmbedding)
    if refresh.start != "fresh":
        if any(p.requires_grad for p in model.backbone.parameters()):
            raise ConfigError(
                f"to start {pretrain.model} from old vectors needs its dense weights, which the space does not keep",
                found=f"refresh.start {refresh.start}",
                fix="set refresh.start to fresh, or pre-train spaces with pretrain.model fm",
            )
        warm_tables(model.embedding.tables(), old_tables, refresh.shrink if refresh.start == "shrunk" else 1.0)
        model.bias.data.copy_(load_file(old.file(BIAS_FILE))["bias"][0])
    if refresh.anchor > 0:
        anchored = AnchoredModel(rows.layout, model.embedding, model.backbone, old_tables, pretrain.l2, refresh.anchor)
        anchored.bias, weight = model.bias, anchored.weight
        model = anchored
    l2_at = _l2_schedule(weight, pretrain.l2_warmup_epochs if refresh.start == "fresh" else 0.0)
    num_parts = 2 if refresh.finish_on_new and refresh.replay != "none" else 1
    shared: dict[str, Any] = {"name": STEP, "seed": seed}
    faster = refresh.learning_rate_factor if refresh.start == "shrunk" and refresh.replay != "none" else 1.0
    fast = pretrain.model_copy(update={"learning_rate": pretrain.learning_rate * faster})
    fits = [fit(model, rows, fast, **shared, l2_at=l2_at, checkpoints=kept[0], part=(1, num_parts))]
    if num_parts > 1:
        # no warm-up of the L2: the vectors have their size
        shared |= {"l2_at": lambda _: weight, "checkpoints": kept[1], "part": (2, 2), "start_auc": fits[0].best_auc}
        fits.append(fit(model, new, pretrain, **shared))
    return model, fits


@torch.no_grad()
def warm_tables(tables: Mapping[str, Tensor], old: Mapping[str, Tensor], factor: float) -> None:
    """Put old rows into new tables: known values their own, appended ones the mean of those plus what stands there.

    A factor below 1 keeps directions and lets sizes be learned again: a model that goes on from a converged one
    generalises worse than one that was shrunk first (Ash & Adams, 2020, "On Warm-Starting Neural Network Training").

    Args:
        tables: Vocabulary -> (V, D + 1) rows drawn at random; changed in place.
        old: Vocabulary -> (V_old, D + 1), V_old <= V.
        factor: What is left of old rows, above 0, at most 1.
    """
    for name, table in tables.items():
        num_old = len(old[name])
        table[num_old:] += factor * old[name].double().mean(dim=0).float()
        table[:num_old] = factor * old[name]


def _l2_schedule(weight: float, warmup_epochs: float) -> Callable[[float], float]:
    """A start from old vectors needs no warm-up: it holds small vectors at zero only where they begin there."""
    return lambda epoch: weight * min(1.0, epoch / warmup_epochs) if warmup_epochs else weight


def _into_space(
    tables: Mapping[str, Tensor], old: Mapping[str, Tensor], trained: Counts, vocabularies: Vocabularies
) -> tuple[dict[str, Tensor], Alignment]:
    """Rotate onto the old tables; values that no row held take their old rows, which are in the space already."""
    before: dict[str, NDArray[np.int64]] = {}
    for name, rows in old.items():
        counts = vocabularies.counts(name) - new_counts(vocabularies, name)
        before[name] = counts[: len(rows)]
    weights = {name: shared_weights(before[name], trained[name]) for name in old}
    alignment = align(old, tables, weights, before)
    aligned = {name: align_rows(rows, alignment.rotation) for name, rows in tables.items()}
    for name, rows in old.items():
        untouched = torch.from_numpy(trained[name][: len(rows)] == 0)
        aligned[name][: len(rows)][untouched] = rows[untouched]
    return aligned, alignment


def _check(pretrain: PretrainConfig, new: EncodedDataset, vocabularies: Vocabularies, old: Bundle) -> None:
    for key, wanted in (("embedding_dim", pretrain.embedding_dim), ("model", pretrain.model)):
        if old.extra[key] != wanted:
            raise ConfigError(
                f"the space of {old.path} has {key} {old.extra[key]}",
                found=f"pretrain.{key} {wanted}",
                fix=f"set pretrain.{key} as it was, or train a new space with the train pipeline",
            )
    encoded_with = new.bundle.manifest.parents["vocabulary"]
    if encoded_with != vocabularies.bundle.uuid:
        raise SpaceError(
            f"the rows of {new.bundle.path} were encoded with another vocabulary than {vocabularies.bundle.path}",
            found=encoded_with,
            fix=f"encode them with {vocabularies.bundle.uuid}",
        )
    layout, sizes = FieldLayout.from_json(old.extra["layout"]), dict(new.layout.vocabularies)
    extends = layout.fields == new.layout.fields and all(sizes[name] >= size for name, size in layout.vocabularies)
    if not extends:
        raise SpaceError(
            f"the rows of {new.bundle.path} do not have the fields and vocabularies of the space of {old.path}",
            found=sizes,
            fix="keep the config's fields as they were, or train a new space with the train pipeline",
        )
