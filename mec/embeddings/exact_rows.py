"""Exact rows of some vocabularies: small ones under every method, and all of them in a full table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mec.data.layout import FieldLayout
from mec.embeddings.export import Array
from mec.embeddings.full import RowSparseTable
from mec.embeddings.method import MethodInputs
from mec.errors import ConfigError
from mec.quantize.storage import Floats, stored


class ExactRows(nn.Module):
    """One row per value of the named vocabularies, stacked into one ``RowSparseTable``.

    Vectors start from N(0, init_std^2) and first-order weights at 0, or both from given rows.

    Args:
        inputs: Layout, D, counts, seed.
        names: Vocabularies, in the layout's order.
        init_std: Standard deviation of the first vectors.
        start: Vocabulary -> (V, D + 1) first rows; None draws them.
    """

    offsets: Tensor
    seen: Tensor

    def __init__(
        self,
        inputs: MethodInputs,
        names: Sequence[str],
        init_std: float,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.names = list(names)
        self.sizes = [inputs.layout.size(name) for name in names]
        self.table = RowSparseTable(sum(self.sizes), inputs.width)
        for name, rows in self.rows().items():
            if start is None:
                draw(rows, init_std, inputs.generator(name))
            else:
                rows.copy_(start[name])
        first = dict(zip(names, np.cumsum([0, *self.sizes]).tolist(), strict=False))
        slots = slots_of(inputs.layout, names)
        offsets = torch.tensor([first[name] for name in slots.values()], dtype=torch.int64)
        self.register_buffer("offsets", offsets, persistent=False)
        seen = np.concatenate([np.zeros(0, bool), *(inputs.counts[name] > 0 for name in names)])
        self.register_buffer("seen", torch.from_numpy(seen), persistent=False)
        self._linear = {field.vocabulary for field in inputs.layout.linear_fields}

    def forward(self, ids: Tensor) -> Tensor:
        """(B, s) ids of these vocabularies' slots, in the layout's order -> (B, s, D + 1) rows."""
        rows: Tensor = self.table((ids + self.offsets).flatten())
        return rows.view(*ids.shape, -1)

    def rows(self) -> dict[str, Tensor]:
        """Views (V, D + 1) of each vocabulary's rows."""
        return dict(zip(self.names, torch.split(self.table.weight, self.sizes), strict=True))

    def arrays(self) -> dict[str, Array]:
        """``vocabulary/rows`` of each vocabulary, part ``rows``."""
        return {f"{name}/rows": Array("rows", rows) for name, rows in self.rows().items()}

    def finish(self, floats: Floats) -> None:
        """Fill rows that training never touched, and round to the stored width."""
        for (name, rows), seen in zip(self.rows().items(), torch.split(self.seen, self.sizes), strict=True):
            fill_unseen(rows, seen, zeros=name in self._linear)
        round_floats(self.arrays(), floats)


def slots_of(layout: FieldLayout, names: Sequence[str]) -> dict[int, str]:
    """Slot -> vocabulary, for the slots of the named vocabularies, in the layout's order."""
    wanted = set(names)
    return {
        slot: field.vocabulary
        for field in layout.fields
        if field.vocabulary in wanted
        for slot in range(field.first_slot, field.first_slot + field.num_slots)
    }


@torch.no_grad()
def draw(rows: Tensor, std: float, generator: torch.Generator, mean: float = 0.0) -> None:
    """(V, D + 1) first rows, in place: vectors from N(mean, std^2), first-order weights at ``mean``."""
    rows[:, 1:].normal_(mean, std, generator=generator)
    rows[:, 0].fill_(mean)


@torch.no_grad()
def fill_unseen(rows: Tensor, seen: Tensor, *, zeros: bool = False) -> None:
    """Give rows of values that are not in training the mean of the others, in place.

    As in pre-training: unweighted, the mean is mostly that of rare values, which an unknown value most likely is.

    Args:
        rows: (V, W).
        seen: (V,) bool.
        zeros: Fill with zeros: a linear field's null is what a number of average size adds.
    """
    if bool(seen.any()) and not bool(seen.all()):
        rows[~seen] = 0.0 if zeros else rows[seen].mean(dim=0)


@torch.no_grad()
def round_floats(arrays: Mapping[str, Array], floats: Floats) -> None:
    """Round float tensors in place to the width they are stored at.

    Raises:
        ConfigError: A float is beyond float16's range.
    """
    for name, array in arrays.items():
        if array.tensor.is_floating_point():
            array.tensor.copy_(_at_width(name, array.tensor, floats))


def at_stored_width(arrays: Mapping[str, Array], floats: Floats) -> dict[str, Array]:
    """Copies as they are stored: floats at their width, all else as it is.

    Raises:
        ConfigError: A float is beyond float16's range.
    """
    result = {}
    for name, array in arrays.items():
        tensor = array.tensor.detach()
        tensor = _at_width(name, tensor, floats) if tensor.is_floating_point() else tensor
        result[name] = Array(array.part, tensor.cpu().clone())
    return result


def _at_width(name: str, tensor: Tensor, floats: Floats) -> Tensor:
    try:
        return stored(tensor, floats, f"the trained {name}")
    except ConfigError as error:
        fix = "set the method's floats to float32, or train it with a smaller learning rate"
        raise ConfigError(error.problem, found=error.found, fix=fix) from None


def rows_bytes(counts: Mapping[str, NDArray[np.int64]], names: Sequence[str], width: int, float_bytes: int) -> int:
    """Bytes of the exact rows of the named vocabularies: sum V (D + 1) floats."""
    return sum(len(counts[name]) for name in names) * width * float_bytes
