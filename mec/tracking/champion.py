"""The champion's metrics on the challenger's test rows: as recorded if those were its own, else scored anew.

A dataset bundle holds ids of the new vocabulary only. To score the champion on them, ids are turned back
into values, which the champion's scorer looks up in its own codes. Values that are out of the new
vocabulary are out of the champion's too: what they were is not known any more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from numpy.typing import NDArray

from mec.bundle import Bundle, json_hash, open_bundle
from mec.data.dataset import Batch, EncodedDataset
from mec.data.layout import OOV_ID, FieldSlots
from mec.data.vocabulary import Vocabularies
from mec.errors import BundleError, MecError
from mec.evaluation.metrics import auc, logloss
from mec.publish.online_value import HeadRow
from mec.serving.schema import InputField
from mec.serving.scorer import Scorer
from mec.serving.sources import BundleCodes, CodesSource, FeastCodes, codes_settings, open_source
from mec.tracking.gate import Metrics
from mec.tracking.registry import ModelRegistry, Version

MAX_ROWS = 200_000  # test rows scored at most, spread evenly over the split
_BATCH_ROWS = 8_192
_UNKNOWN_INT = -(2**63)
_UNKNOWN_TEXT = "\0out of vocabulary"


@dataclass(frozen=True)
class Comparison:
    """Metrics for the gate, and what a person should know about how they came to be."""

    challenger: Metrics
    champion: Metrics
    note: str


@dataclass(frozen=True)
class TestRows:
    """The challenger's test rows: its dataset and vocabulary bundles."""

    dataset: Bundle
    vocabulary: Bundle

    __test__ = False  # no test class, whatever pytest thinks of its name

    def split_hash(self) -> str:
        """Identity of the test split whatever the vocabulary: a hash of its labels in order."""
        files = self.dataset.manifest.files
        return json_hash([files[name]["sha256"] for name in sorted(files) if name.startswith("test/label-")])[:16]


def version_tags(metrics: Metrics) -> dict[str, str]:
    """Metrics as tags of a model version; ``recorded_metrics`` reads them back."""
    return {
        "auc": repr(metrics.auc),
        "logloss": repr(metrics.logloss),
        "num_test_rows": str(metrics.num_rows),
        "data_version": metrics.data_version,
        "test_split": metrics.split,
    }


def recorded_metrics(version: Version) -> Metrics:
    """What a version's tags say; NaN where they say nothing, which the gate does not compare."""
    tags = version.tags
    try:
        return Metrics(
            auc=float(tags["auc"]),
            logloss=float(tags["logloss"]),
            num_rows=int(tags["num_test_rows"]),
            data_version=tags["data_version"],
            split=tags["test_split"],
        )
    except (KeyError, ValueError):
        return Metrics(math.nan, math.nan, 0, "", "")


def compare(
    challenger: Metrics,
    champion: Version,
    registry: ModelRegistry,
    *,
    scorer: Bundle,
    codes: FeastCodes | BundleCodes,
    rows: TestRows,
    max_rows: int = MAX_ROWS,
) -> Comparison:
    """Metrics of challenger and champion on the same rows, if it can be done.

    Args:
        challenger: Metrics on all of its test rows.
        champion: The version in service.
        registry: To download the champion from.
        scorer: The challenger's scorer bundle.
        codes: Where the challenger's codes are.
        rows: The challenger's test rows.
        max_rows: Rows scored at most; with more in the split, both are scored on the same sample.

    Returns:
        The champion's metrics as recorded where it was measured on the same rows, or where it cannot be
        scored on these; then the note says why, and the gate will find them not comparable.
    """
    recorded = recorded_metrics(champion)
    name = f"champion version {champion.number}"
    if recorded.same_rows(challenger):
        return Comparison(challenger, recorded, f"{name} was measured on the same rows")
    try:
        with TemporaryDirectory() as folder:
            theirs = _open_champion(registry.download(champion, Path(folder)))
            again = score_test_rows(theirs, rows, max_rows=max_rows)
        if again.num_rows < challenger.num_rows:
            challenger = score_test_rows(_open_scorer(scorer, codes), rows, max_rows=max_rows)
    except MecError as error:
        return Comparison(challenger, recorded, f"{name} could not be scored on this run's test rows: {error}")
    return Comparison(challenger, again, f"{name} was scored again on {again.num_rows} of this run's test rows")


def score_test_rows(scorer: Scorer, rows: TestRows, *, max_rows: int = MAX_ROWS) -> Metrics:
    """Metrics of a scorer on test rows that were encoded with another vocabulary.

    Raises:
        BundleError: The scorer needs a field that these rows do not hold in a form it can take.
        PublishError: The scorer's codes cannot be read.
    """
    dataset = EncodedDataset(rows.dataset)
    decoder = _Decoder(scorer.fields, dataset, rows.vocabulary)
    labels, logits = [], []
    for batch in _sampled(dataset, max_rows):
        labels.append(batch.label.astype(np.uint8))
        logits.append(scorer.logits_of_columns(decoder.columns(batch)))
    label, logit = np.concatenate(labels), np.concatenate(logits)
    return Metrics(
        auc=auc(label, logit),
        logloss=logloss(label, logit),
        num_rows=len(label),
        data_version=rows.dataset.manifest.data_version,
        split=rows.split_hash(),
    )


class _Decoder:
    """Batches of ids to the canonical columns of a scorer's fields.

    Args:
        fields: The scorer's.
        dataset: With ids of another vocabulary.
        vocabulary: That vocabulary's bundle.

    Raises:
        BundleError: A field is not in the dataset, or in another form.
    """

    def __init__(self, fields: Sequence[InputField], dataset: EncodedDataset, vocabulary: Bundle) -> None:
        slots = {f.name: f for f in dataset.layout.fields}
        self._fields = [(field, slots[field.name]) for field in fields if _same_form(field, slots.get(field.name))]
        self._numeric = vocabulary.extra["numeric"]
        opened = Vocabularies(vocabulary)
        self._values = {f.name: _values(opened.values(s.vocabulary), f) for f, s in self._fields if f.kind != "linear"}

    def columns(self, batch: Batch) -> dict[str, pa.Array]:
        return {field.name: self._column(field, slots, batch) for field, slots in self._fields}

    def _column(self, field: InputField, slots: FieldSlots, batch: Batch) -> pa.Array:
        part = slice(slots.first_slot, slots.first_slot + slots.num_slots)
        ids = batch.ids[:, part]  # (B, slots of the field)
        if field.kind == "linear":
            assert batch.weights is not None
            stats = self._numeric[field.name]
            x = batch.weights[:, slots.first_slot].astype(np.float64) * stats["std"] + stats["mean"]
            return pa.array(x, pa.float64(), mask=ids[:, 0] == OOV_ID)
        if field.kind != "sequence":
            return self._values[field.name].take(pa.array(ids[:, 0]))
        assert batch.weights is not None
        filled = batch.weights[:, part] > 0
        kept = filled & (np.cumsum(filled[:, ::-1], axis=1)[:, ::-1] <= field.max_length)
        offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), self._values[field.name].take(pa.array(ids[kept])))


def _values(values: pa.Array, field: InputField) -> pa.Array:
    """Values by id, in the type of the scorer's vocabulary; id 0 is a value that no vocabulary holds."""
    unknown = _UNKNOWN_INT if field.type == "int64" else _UNKNOWN_TEXT
    kind = pa.int64() if field.type == "int64" else pa.string()
    try:
        known = pc.cast(values.slice(OOV_ID + 1), kind)
    except pa.ArrowInvalid as error:
        raise BundleError(
            f"values of field {field.name!r} are no {field.type}, as they were for the champion", found=error
        ) from None
    return pa.concat_arrays([pa.array([unknown], kind), known])


def _same_form(field: InputField, slots: FieldSlots | None) -> bool:
    if slots is None:
        raise BundleError(f"this run's rows have no field {field.name!r}, which the champion needs")
    if slots.kind != field.kind:
        raise BundleError(f"field {field.name!r} is {slots.kind} in this run, {field.kind} for the champion")
    if slots.num_slots < field.max_length:
        raise BundleError(
            f"field {field.name!r} keeps {slots.num_slots} values in this run, {field.max_length} for the champion"
        )
    return True


def _sampled(dataset: EncodedDataset, max_rows: int) -> Iterator[Batch]:
    """Batches of the test split; with more than ``max_rows`` rows, that many, spread evenly."""
    num_rows = dataset.num_rows("test")
    seen = 0
    for batch in dataset.batches("test", _BATCH_ROWS):
        if num_rows > max_rows:
            place: NDArray[np.int64] = np.arange(seen, seen + batch.num_rows) * max_rows
            keep = (place + max_rows) // num_rows > place // num_rows
            seen += batch.num_rows
            weights = None if batch.weights is None else batch.weights[keep]
            batch = Batch(batch.ids[keep], weights, batch.label[keep])
        if batch.num_rows:
            yield batch


def _open_champion(folder: Path) -> Scorer:
    """The scorer in a downloaded version, with the codes that it is served with."""
    try:
        config = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))["flavors"]["python_function"]
        settings = codes_settings(config["config"]["codes"])
        path = folder / config["artifacts"]["scorer"]["path"]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise BundleError("it is no scorer of mec", found=f"{type(error).__name__}: {error}") from None
    return _open_scorer(open_bundle(path, "scorer"), settings)


def _open_scorer(scorer: Bundle, codes: FeastCodes | BundleCodes) -> Scorer:
    return Scorer(scorer, _Cached(open_source(codes, scorer.extra["codebook"])))


class _Cached:
    """A source that reads each key once."""

    def __init__(self, source: CodesSource) -> None:
        self._source = source
        self._found: dict[str, bytes | HeadRow | None] = {}

    def fetch(self, keys: Sequence[str]) -> list[bytes | HeadRow | None]:
        new = [key for key in dict.fromkeys(keys) if key not in self._found]
        if new:
            self._found.update(zip(new, self._source.fetch(new), strict=True))
        return [self._found[key] for key in keys]
