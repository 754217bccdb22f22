"""What the quantize step reads: each vocabulary's pre-trained rows, training counts and weights, all checked."""

from __future__ import annotations

import numpy as np
import torch
from numpy import int64
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from mec.bundle import Bundle
from mec.config import QuantizeConfig
from mec.data.layout import FieldLayout
from mec.data.vocabulary import Vocabularies
from mec.errors import BundleError, ConfigError, TrainingError
from mec.fold_training import FoldTables
from mec.quantize.reliability import popularity_ranges, reliability, sample_ranges
from mec.quantize.weights import popularity_weights

TABLES_FILE = "tables.safetensors"
_LARGEST = 1e15  # squares of larger values overflow float32 when summed


class PretrainedTables:
    """Tables and counts of one space, one vocabulary at a time.

    Args:
        bundle: "pretrained" bundle.
        vocabularies: With the training counts.
        quantize: How values are weighted, and how many rows are checked at a time.
    """

    def __init__(self, bundle: Bundle, vocabularies: Vocabularies, quantize: QuantizeConfig) -> None:
        self.bundle = bundle
        self.vocabularies = vocabularies
        self.layout = FieldLayout.from_json(bundle.extra["layout"])
        self.embedding_dim = int(bundle.extra["embedding_dim"])
        self.width = self.embedding_dim + 1
        self.sizes = dict(self.layout.vocabularies)
        self._quantize = quantize
        self._shares: dict[str, NDArray[np.float64]] = {}

    def rows(self, name: str) -> Tensor:
        """(V, W) float32 rows, the caller's own.

        Raises:
            BundleError: No such table, or of another shape.
            TrainingError: Rows that are not finite, or too large to be squared.
        """
        size = self.sizes[name]
        with safe_open(self.bundle.file(TABLES_FILE), framework="pt") as file:
            if name not in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                raise BundleError(
                    f"{self.bundle.path} has no table of vocabulary {name!r}",
                    found=sorted(file.keys()),
                    fix="run the pretrain step again",
                )
            rows: Tensor = file.get_tensor(name)
        if rows.shape != (size, self.width):
            raise BundleError(
                f"the table of vocabulary {name!r} in {self.bundle.path} is not ({size}, {self.width})",
                found=tuple(rows.shape),
                fix="run the pretrain step again",
            )
        # in chunks, for a temporary of the whole table would double the memory
        parts = torch.split(rows, self._quantize.chunk_rows)
        num_bad = size - sum(int((part.abs() <= _LARGEST).all(dim=1).sum()) for part in parts)
        if num_bad:
            raise TrainingError(
                f"the pre-trained table of vocabulary {name!r} has rows that cannot be coded",
                found=f"{num_bad} of {size} rows with NaN, infinity or values beyond {_LARGEST:g}",
                fix="pre-train again with a smaller pretrain.learning_rate",
            )
        return rows.float()

    def counts(self, name: str) -> NDArray[int64]:
        """(V,) training counts.

        Raises:
            BundleError: The vocabulary is of another size.
        """
        counts = self.vocabularies.counts(name)
        if len(counts) != self.sizes[name]:
            raise BundleError(
                f"vocabulary {name!r} has {len(counts)} values, but its pre-trained table another number",
                found=self.sizes[name],
                fix="pass the vocabulary that the tables were trained with",
            )
        return counts

    def weights(self, name: str) -> Tensor:
        """(V,) float32 weights of the values' squared errors, the caller's own; not all 0.

        Raises:
            BundleError: The vocabulary is of another size.
            TrainingError: None of its values was seen in training.
        """
        counts = self.counts(name)
        if not counts.any():
            raise TrainingError(
                f"no value of vocabulary {name!r} was seen in training",
                found="counts of 0",
                fix="count the training split again",
            )
        weights = popularity_weights(counts, self._quantize.weights)
        found = self.reliability(name)
        if found is not None:
            ranges, shares = found
            weights[ranges >= 0] *= shares[ranges[ranges >= 0]].astype(np.float32)
        return torch.from_numpy(weights)

    def reliability(self, name: str) -> tuple[NDArray[int64], NDArray[np.float64]] | None:
        """(V,) popularity range of each value, -1 for unseen ones, and (R,) reliability; None where it is not used.

        Raises:
            ConfigError: It is wanted, and the tables were pre-trained without folds.
        """
        wanted, folds = self._quantize.reliability, FoldTables.of(self.bundle)
        if folds is None and wanted:
            raise ConfigError(
                "quantize.reliability compares models trained without a fold each, and there are none",
                found="pretrain.folds: 0",
                fix="set pretrain.folds to 2, or quantize.reliability to null",
            )
        if folds is None or wanted is False:
            return None
        ranges = popularity_ranges(self.counts(name))
        if name not in self._shares:
            index = sample_ranges(ranges, self._quantize.max_points)
            numbers = range(folds.folds.num)
            known = np.logical_and.reduce([folds.counts(number, name)[index] > 0 for number in numbers])
            fold_rows = [folds.rows(number, name)[index] for number in numbers]
            self._shares[name] = reliability(fold_rows, ranges[index], known)
        return ranges, self._shares[name]
