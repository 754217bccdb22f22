"""AutoEmb: Zhao et al., "AutoEmb: automated embedding dimensionality search in streaming recommendations", ICDM 2021
(arXiv 2002.11252).

Values of a vocabulary have different numbers of dimensions, by their popularity. In the search a small network, the
controller, reads from a value's popularity how the candidates are mixed, each a prefix of one row:

    e(x) = sum_d w_d(s) BN(E[x, :d] Q_d),  w = softmax(controller(s)),  s: popularity of x

E, Q and the backbone learn from training batches, the controller from validation batches; see
``mec.embeddings.prefix_supernet``. The paper serves the mix,
which saves nothing; here values whose counts have as many bits (0, 1, 2 to 3, 4 to 7 and so on) get one candidate, and
e(x) = P[x] Q_d, P[x] of d floats, is trained anew.

Bytes per vocabulary: sum_i d_i floats, d (D + 1) floats for each d in use, and the index of ``mec.embeddings.ragged``.
d counts the first-order weight's column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mec.embeddings.choosing import dim_candidates
from mec.embeddings.export import Array
from mec.embeddings.full import RowSparseTable
from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.popularity import CountGroups, by_doubling, doubling_sizes
from mec.embeddings.prefix_supernet import PrefixSupernet
from mec.embeddings.ragged import ragged_arrays, ragged_bytes, ragged_rows
from mec.embeddings.searched import Choice, SearchedMethod, SearchSettings, Supernet
from mec.embeddings.table_method import Table
from mec.embeddings.two_forms import TwoFormTable
from mec.lookup import rows_at
from mec.quantize.storage import Floats

_CHUNK_ROWS = 1 << 16


class AutoEmbSettings(SearchSettings):
    """Settings of AutoEmb."""

    dim: int = Field(4, ge=1, description="floats per value before the search; at most D + 1")
    candidates: tuple[int, ...] | None = Field(
        None, min_length=1, description="floats per value to choose from; null: powers of 2 below D + 1, and D + 1"
    )
    hidden_units: int = Field(16, ge=1, le=1024, description="of the controller")


class ControlledSupernet(PrefixSupernet):
    """Prefixes of one row, mixed by popularity.

    Args:
        groups: Values of about one popularity.
        width: D + 1.
        dims: Candidates, rising.
        settings: Of the method.
        generator: Of first values.
    """

    group: Tensor
    features: Tensor

    def __init__(
        self,
        groups: CountGroups,
        width: int,
        dims: list[int],
        settings: AutoEmbSettings,
        generator: torch.Generator,
    ) -> None:
        super().__init__(len(groups.of_value), width, dims, settings.init_std, generator)
        del self.logits
        self.register_buffer("group", torch.from_numpy(groups.of_value), persistent=False)
        self.register_buffer("features", groups.features, persistent=False)
        self.share = torch.from_numpy((groups.rows + 1) / (groups.rows + 1).sum())  # (G,)
        first, last = nn.Linear(2, settings.hidden_units), nn.Linear(settings.hidden_units, len(dims))
        nn.init.xavier_uniform_(first.weight, generator=generator)
        for zero in (first.bias, last.weight, last.bias):
            nn.init.zeros_(zero)
        self.controller = nn.Sequential(first, nn.Tanh(), last)

    def weights_of(self, ids: Tensor) -> Tensor:
        """(U,) -> (U, C)."""
        return rows_at(torch.softmax(self.controller(self.features), dim=1), self.group[ids])

    def architecture(self) -> list[nn.Parameter]:
        """The controller's weights."""
        return list(self.controller.parameters())

    def scores(self) -> Tensor:
        """(G, C) log-probabilities, each group's times its share of training rows."""
        with torch.no_grad():
            chances = torch.log_softmax(self.controller(self.features), dim=1)
        return chances * self.share.to(chances.device)[:, None]


class RaggedTable(TwoFormTable):
    """Rows of different lengths, and a projection for each length; one vocabulary.

    Args:
        groups: Values of about one popularity.
        dims: (G,) length of each group's rows.
        seen: (V,) bool, values that are in training.
        width: D + 1.
        init_std: Of the first vectors.
        generator: Of first values.
    """

    seen: Tensor
    classes: Tensor

    def __init__(
        self,
        groups: CountGroups,
        dims: Sequence[int],
        seen: Tensor,
        width: int,
        init_std: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.lengths = sorted(set(dims))
        class_of_group = np.array([self.lengths.index(dim) for dim in dims])
        self.register_buffer("seen", seen, persistent=False)
        self.register_buffer("classes", torch.from_numpy(class_of_group[groups.of_value]), persistent=False)
        self.table = RowSparseTable(len(seen), self.lengths[-1])
        with torch.no_grad():
            self.table.weight.normal_(0.0, init_std, generator=generator)
        self.projections = nn.ParameterList()
        for dim in self.lengths:
            orthonormal = torch.linalg.qr(torch.randn(width, dim, generator=generator))[0].T  # (d, D + 1)
            orthonormal[:, 0] = 0.0
            self.projections.append(nn.Parameter((width / dim) ** 0.5 * orthonormal))

    def trained_rows(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1)."""
        rows: Tensor = self.table(ids)
        return projected(rows, self.classes[ids], list(self.projections))

    def settle(self, floats: Floats) -> None:
        """Values that are not in training get the nearest to the others' mean that their lengths allow."""
        if bool(self.seen.all()) or not bool(self.seen.any()):
            return
        weight, projections = self.table.weight, list(self.projections)
        total = weight.new_zeros(projections[0].shape[1], dtype=torch.float64)
        seen = self.seen.nonzero()[:, 0]
        for ids in torch.split(seen, _CHUNK_ROWS):
            total += projected(weight[ids], self.classes[ids], projections).sum(dim=0, dtype=torch.float64)
        mean = (total / len(seen)).float()
        for i, projection in enumerate(projections):
            unseen = ((self.classes == i) & ~self.seen).nonzero()[:, 0]
            weight[unseen, : len(projection)] = mean @ torch.linalg.pinv(projection)

    def build(self) -> dict[str, Array]:
        """See ``mec.embeddings.ragged``; and ``projection_d`` (d, D + 1)."""
        arrays = ragged_arrays(self.table.weight, self._classes(), self.lengths)
        pairs = zip(self.lengths, self.projections, strict=True)
        return arrays | {f"projection_{dim}": Array("other", projection) for dim, projection in pairs}

    def release(self) -> None:
        """The full rows."""
        del self.table, self.projections

    def facts(self) -> dict[str, Any]:
        """The lengths."""
        return {"lengths": self.lengths}

    def _classes(self) -> NDArray[np.int64]:
        classes: NDArray[np.int64] = self.classes.cpu().numpy()
        return classes

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        lengths = facts["lengths"]
        rows, classes = ragged_rows(arrays, lengths, ids, lengths[-1])
        return projected(rows, classes, [arrays[f"projection_{dim}"].float() for dim in lengths])


def projected(rows: Tensor, classes: Tensor, projections: Sequence[Tensor]) -> Tensor:
    """(N, W) rows, (N,) classes, C times (d, D + 1) -> (N, D + 1): the first d floats through the class' projection."""
    result = rows.new_zeros(len(rows), projections[0].shape[1])
    for i, projection in enumerate(projections):
        chosen = (classes == i).nonzero()[:, 0]
        result = result.index_copy(0, chosen, rows[chosen, : len(projection)] @ projection)
    return result


@METHODS.register("autoemb")
class AutoEmb(SearchedMethod[AutoEmbSettings]):
    """Dimensions by popularity, by search; a size is one dimension for all values."""

    name = "autoemb"
    Settings = AutoEmbSettings
    table_type = RaggedTable
    size_settings = ("dim",)

    @classmethod
    def candidates(cls, vocabulary: str, inputs: MethodInputs, settings: AutoEmbSettings) -> list[Choice]:
        """Dimensions."""
        return [(dim,) for dim in dim_candidates(settings.candidates, inputs.width, cls.name)]

    @classmethod
    def unsearched(cls, vocabulary: str, inputs: MethodInputs, settings: AutoEmbSettings) -> Choice:
        """The setting."""
        return tuple(dim_candidates((settings.dim,), inputs.width, cls.name))

    @classmethod
    def num_items(cls, vocabulary: str, inputs: MethodInputs, settings: AutoEmbSettings) -> int:
        """Groups of values of about one popularity."""
        return len(doubling_sizes(inputs.counts[vocabulary]))

    @classmethod
    def item_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: AutoEmbSettings) -> NDArray[np.int64]:
        """d floats for each value of a group."""
        dims = [dim for (dim,) in cls.candidates(vocabulary, inputs, settings)]
        return np.outer(doubling_sizes(inputs.counts[vocabulary]), dims) * settings.float_bytes

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: AutoEmbSettings) -> dict[str, int]:
        """rows: sum_i d_i floats, other: d (D + 1) floats for each d in use, index: lengths and places."""
        sizes = doubling_sizes(inputs.counts[vocabulary]).tolist()
        dims = [dim for (dim,) in cls.choices(vocabulary, inputs, settings)]
        num_floats = sum(size * dim for size, dim in zip(sizes, dims, strict=True))
        held = ragged_bytes(sum(sizes), num_floats, len(set(dims)), settings.float_bytes)
        return held | {"other": sum(set(dims)) * inputs.width * settings.float_bytes}

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: AutoEmbSettings) -> Table:
        """See ``TableMethod.make_table``."""
        counts = inputs.counts[vocabulary]
        groups, seen = by_doubling(counts), torch.from_numpy(counts > 0)
        dims = [dim for (dim,) in self.choices(vocabulary, inputs, settings)]
        return RaggedTable(groups, dims, seen, inputs.width, settings.init_std, inputs.generator(vocabulary))

    def make_supernet(self, vocabulary: str, inputs: MethodInputs, settings: AutoEmbSettings) -> Supernet:
        """See ``SearchedMethod.make_supernet``."""
        dims = [dim for (dim,) in self.candidates(vocabulary, inputs, settings)]
        groups, generator = by_doubling(inputs.counts[vocabulary]), inputs.generator(vocabulary, "search")
        return ControlledSupernet(groups, inputs.width, dims, settings, generator)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: AutoEmbSettings) -> int:
        """D + 1."""
        return inputs.width

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: AutoEmbSettings, size: int) -> AutoEmbSettings:
        """The dimension before the search; what was found for another one is dropped."""
        return with_settings(base, dim=size, found=None)
