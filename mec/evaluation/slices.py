"""Metrics by popularity: how a model does on rows whose values were rare, or new, in training.

A value is *head* if the values more frequent than it make up less than 50 % of its vocabulary's training
impressions, *torso* if less than 90 %, else *tail*; *unseen* if it has id 0 (out of vocabulary) or was not
counted. Values of equal count share a slice. A row belongs to the slice of its rarest value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mec.data.layout import OOV_ID, FieldLayout
from mec.evaluation import metrics
from mec.evaluation.metrics import Floats, Labels

POPULARITY = ("unseen", "tail", "torso", "head")
EMPTY = len(POPULARITY)  # rows that hold no value of the vocabularies at all
NAMES = (*POPULARITY, "empty")
HEAD_SHARE, TORSO_SHARE = 0.5, 0.9
RAREST, RAREST_CODED = "rarest value", "rarest coded value"


class Rows(Protocol):
    """The part of a batch that slices look at."""

    @property
    def ids(self) -> NDArray[np.int32]:  # (B, S)
        ...

    @property
    def weights(self) -> NDArray[np.float32] | None:  # (B, S), 0 where the slot is empty
        ...


@dataclass(frozen=True)
class Slicing:
    """One way to cut the rows: by the rarest of the values of some vocabularies."""

    by: str
    vocabularies: tuple[str, ...]
    row_slices: NDArray[np.uint8]  # (N,) index into NAMES


def value_slices(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Slice of every value of a vocabulary.

    Args:
        counts: (V,) training counts by id; id 0 is out of vocabulary.

    Returns:
        (V,) index into ``POPULARITY``.
    """
    ordered = counts[1:] if is_by_popularity(counts) else -np.sort(-counts[1:])
    total = int(ordered.sum())
    above = ordered.cumsum() - ordered  # impressions of the values before, the last of equal count decides for all
    slices = (counts > 0).astype(np.uint8)
    for share in (TORSO_SHARE, HEAD_SHARE):
        num_popular = int(np.count_nonzero(above < share * total))
        if num_popular:
            slices += counts >= max(int(ordered[num_popular - 1]), 1)
    slices[OOV_ID] = 0
    return slices


def is_by_popularity(counts: NDArray[np.int64]) -> bool:
    """Whether (V,) training counts do not rise from id to id, id 0 aside, as in every new vocabulary."""
    return bool((counts[2:] <= counts[1:-1]).all())


def slice_rows(
    batches: Iterable[Rows], layout: FieldLayout, counts: Mapping[str, NDArray[np.int64]], coded: Iterable[str]
) -> list[Slicing]:
    """Cut rows by their rarest coded value, and by each of the two largest vocabularies.

    Without coded vocabularies every vocabulary counts as one. A vocabulary that would only repeat
    the first cut is left out.

    Args:
        batches: Rows in file order.
        layout: Fields and vocabularies of the rows.
        counts: Vocabulary -> (V,) training counts.
        coded: Vocabularies whose values are coded.
    """
    linear = {field.vocabulary for field in layout.linear_fields}
    names = [name for name, _ in layout.vocabularies if name not in linear]
    chosen = set(coded)
    basis = tuple(name for name in names if name in chosen)
    first = (RAREST_CODED, basis) if basis else (RAREST, tuple(names))
    largest = sorted(names, key=lambda name: -layout.size(name))[:2]
    cuts = [first] + [(name, (name,)) for name in largest if (name,) != first[1]]
    classes = {name: value_slices(counts[name]) for name in names}
    slots = [field.vocabulary for field in layout.fields for _ in range(field.num_slots)]
    found: list[list[NDArray[np.uint8]]] = [[] for _ in cuts]
    for batch in batches:
        for pieces, (_, vocabularies) in zip(found, cuts, strict=True):
            rarest = np.full(len(batch.ids), EMPTY, dtype=np.uint8)
            for slot, name in enumerate(slots):
                if name in vocabularies:
                    slices = classes[name][batch.ids[:, slot]]
                    if batch.weights is not None:
                        slices = np.where(batch.weights[:, slot] == 0, np.uint8(EMPTY), slices)
                    np.minimum(rarest, slices, out=rarest)
            pieces.append(rarest)
    return [
        Slicing(by, vocabularies, np.concatenate(pieces) if pieces else np.zeros(0, np.uint8))
        for (by, vocabularies), pieces in zip(cuts, found, strict=True)
    ]


def slice_metrics(
    slicing: Slicing, labels: Labels, logits: Floats, full_logits: Floats | None = None
) -> list[dict[str, Any]]:
    """Metrics of every slice that holds rows, rarest first.

    Args:
        slicing: The cut.
        labels: (N,) 0 or 1.
        logits: (N,) calibrated logits.
        full_logits: (N,) calibrated logits of the full-table reference, if there is one.

    Returns:
        Per slice ``by``, ``name``, ``rows``, ``share``, ``label_mean``, ``logloss``, ``auc`` with
        ``auc_low`` and ``auc_high``; with a reference ``full_…`` of these and ``auc_difference``
        with ``_low`` and ``_high``. What one class does not define is None, with ``auc_reason``.
    """
    result: list[dict[str, Any]] = []
    for index, name in enumerate(NAMES):
        rows = np.flatnonzero(slicing.row_slices == index)
        if not len(rows):
            continue
        y = labels[rows]
        entry: dict[str, Any] = {
            "by": slicing.by,
            "name": name,
            "rows": len(rows),
            "share": len(rows) / len(labels),
            "label_mean": float(y.mean()),
        }
        entry |= _one_model("", y, logits[rows])
        if full_logits is not None:
            entry |= _one_model("full_", y, full_logits[rows])
            entry |= _difference(y, logits[rows], full_logits[rows])
        reason = _why_no_auc(y)
        if reason:
            entry["auc_reason"] = reason
        result.append(entry)
    return result


def _one_model(prefix: str, labels: Labels, logits: Floats) -> dict[str, float | None]:
    result: dict[str, float | None] = {f"{prefix}logloss": metrics.logloss(labels, logits)}
    result |= {f"{prefix}auc": None, f"{prefix}auc_low": None, f"{prefix}auc_high": None}
    fewest = int(np.bincount(labels, minlength=2).min())
    if fewest >= 2:
        area = metrics.auc_interval(labels, logits)
        result |= {f"{prefix}auc": area.value, f"{prefix}auc_low": area.low, f"{prefix}auc_high": area.high}
    elif fewest == 1:
        result[f"{prefix}auc"] = metrics.auc(labels, logits)
    return result


def _difference(labels: Labels, logits: Floats, full_logits: Floats) -> dict[str, float | None]:
    result: dict[str, float | None] = dict.fromkeys(("auc_difference", "auc_difference_low", "auc_difference_high"))
    fewest = int(np.bincount(labels, minlength=2).min())
    if fewest >= 2:
        paired, _ = metrics.auc_difference(labels, logits, full_logits)
        result |= {"auc_difference_low": paired.low, "auc_difference_high": paired.high, "auc_difference": paired.value}
    elif fewest == 1:
        result["auc_difference"] = metrics.auc(labels, logits) - metrics.auc(labels, full_logits)
    return result


def _why_no_auc(labels: Labels) -> str:
    classes = np.bincount(labels, minlength=2)
    if classes.min() == 0:
        return f"all rows have label {int(classes.argmax())}"
    return "one row of a label: no interval" if classes.min() == 1 else ""
