"""AMTL: Yan et al., "Learning effective and efficient embedding via an adaptively-masked twins-based layer", CIKM 2021.

Every value keeps a prefix of its row, whose length a small network reads off how frequent the value is:

    logits = a h(s) + (1 - a) l(s),  a = sigmoid(norm(n))      h, l: twin MLPs, s: frequency statistics
    p      = softmax((logits - price length) / temperature)    over lengths 1 to D + 1
    mask   = 1 up to the most likely length                    backward: that of P(length >= column)
    e(x)   = E[x] * mask

h learns from frequent values and l from rare ones; norm(n) is log(1 + n), standardised. Without ``twins`` there is one
network for all values, the paper's AML: logits = h(s). Columns include the first-order weight, column 0, which every
value keeps. Without ``straight_through`` training uses the soft mask itself.

The paper leaves the mean length to training. Here it is set, since bytes must be known before: ``price`` falls where
lengths are shorter than ``mean_length`` and rises where they are longer, and ``finish`` meets it to the float.

Bytes per vocabulary: mean_length V floats, and the lengths, see ``mec.embeddings.ragged``; networks are not served.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mec.embeddings.exact_rows import draw, fill_unseen
from mec.embeddings.export import Array
from mec.embeddings.full import RowSparseTable
from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.popularity import by_count
from mec.embeddings.ragged import ragged_arrays, ragged_bytes, ragged_rows
from mec.embeddings.table_method import Table, TableMethod, TableSettings
from mec.embeddings.two_forms import TwoFormTable
from mec.errors import ConfigError
from mec.lookup import rows_at
from mec.quantize.storage import Floats

_STEPS = 16  # sizes per unit of the mean length
_PRICE_STEP = 0.05
_BISECTIONS = 60


class AMTLSettings(TableSettings):
    """Settings of AMTL."""

    mean_length: float = Field(4.0, ge=1, description="floats per value, the first-order weight among them")
    twins: bool = Field(True, description="two networks, mixed by frequency; false: one for all values (AML)")
    straight_through: bool = Field(True, description="train with the hard mask; false: with the soft one (no STE)")
    temperature: float = Field(1.0, gt=0, description="divides the logits of lengths in the softmax")
    hidden_units: int = Field(16, ge=1, le=1024, description="of each network")


class AMTLTable(TwoFormTable):
    """Full rows, and the networks that say how much of them is kept; one vocabulary.

    Args:
        counts: (V,) training counts.
        width: D + 1.
        num_floats: How many floats are kept in all.
        settings: Of the method.
        generator: Of first values.
    """

    seen: Tensor
    group: Tensor
    sizes: Tensor
    features: Tensor
    price: Tensor

    def __init__(
        self,
        counts: NDArray[np.int64],
        width: int,
        num_floats: int,
        settings: AMTLSettings,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._served_lengths: Tensor | None = None
        self.width, self.num_floats, self.settings = width, num_floats, settings
        self.table = RowSparseTable(len(counts), width)
        draw(self.table.weight, settings.init_std, generator)
        groups = by_count(counts)
        self.register_buffer("seen", torch.from_numpy(counts > 0), persistent=False)
        self.register_buffer("group", torch.from_numpy(groups.of_value), persistent=False)
        self.register_buffer("sizes", torch.from_numpy(groups.sizes), persistent=False)
        self.register_buffer("features", groups.features, persistent=False)
        self.high = _network(settings.hidden_units, width, generator)
        self.low = _network(settings.hidden_units, width, generator) if settings.twins else None
        self.register_buffer("price", torch.tensor(self._fair_prices()[0]))

    def train(self, mode: bool = True) -> Self:
        """See ``nn.Module.train``; lengths that are served are worked out anew in every stretch of eval mode."""
        self._served_lengths = None
        return super().train(mode)

    def trained_rows(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1); in eval mode with the lengths that are served."""
        rows: Tensor = self.table(ids)
        if self.training:
            return rows * rows_at(self.masks(), self.group[ids])
        if self._served_lengths is None:
            self._served_lengths = torch.from_numpy(self.lengths()).to(rows.device)
        return rows * (self._lengths_of_columns() <= self._served_lengths[ids][:, None])

    def masks(self) -> Tensor:
        """(G, D + 1), the mask in training of each group of values of about one count."""
        logits = self.logits() - self.price * self._lengths_of_columns()
        hard = (self._lengths_of_columns() <= 1 + logits.argmax(dim=1, keepdim=True)).to(logits.dtype)
        chances = torch.softmax(logits / self.settings.temperature, dim=1)
        soft = chances.flip(1).cumsum(1).flip(1)  # P(length >= column)
        return hard + soft - soft.detach() if self.settings.straight_through else soft

    def logits(self) -> Tensor:
        """(G, D + 1) of lengths 1 to D + 1, before the price."""
        found: Tensor = self.high(self.features)
        if self.low is None:
            return found
        share = torch.sigmoid(self.features[:, :1])
        mixed: Tensor = share * found + (1 - share) * self.low(self.features)
        return mixed

    @torch.no_grad()
    def move_price(self) -> None:
        """One step of the price towards the mean length that is wanted."""
        wanted = self.num_floats / len(self.group)
        self.price += _PRICE_STEP * (self._num_kept(self._lengths(self.price)) / len(self.group) - wanted)

    def settle(self, floats: Floats) -> None:
        """Mask every row, and fill those that training never touched with the mean of the others."""
        rows, lengths = self.table.weight, torch.from_numpy(self.lengths()).to(self.table.weight.device)
        rows *= self._lengths_of_columns() <= lengths[:, None]
        fill_unseen(rows, self.seen)

    def build(self) -> dict[str, Array]:
        """See ``mec.embeddings.ragged``."""
        lengths = self.lengths()
        return ragged_arrays(self.table.weight, lengths - 1, range(1, self.width + 1))

    def release(self) -> None:
        """The full rows and the networks."""
        del self.table, self.high, self.low

    def facts(self) -> dict[str, Any]:
        """The width."""
        return {"width": self.width}

    @torch.no_grad()
    def lengths(self) -> NDArray[np.int64]:
        """(V,) lengths, ``num_floats`` in all.

        Those at the lowest price that keeps no more; what is left goes to values in order of id, up to their lengths
        at the highest price that keeps as much or more. Those differ, as a rule, for values of one count alone.
        """
        high, low = self._fair_prices()
        group = self.group.long()
        short, long = (self._lengths(torch.tensor(p, device=group.device))[group].cpu().numpy() for p in (high, low))
        gaps = np.maximum(long - short, 0)
        before = np.cumsum(gaps) - gaps
        lengths: NDArray[np.int64] = short + np.clip(self.num_floats - short.sum() - before, 0, gaps)
        assert lengths.sum() == self.num_floats
        return lengths

    @torch.no_grad()
    def _fair_prices(self) -> tuple[float, float]:
        """Two prices that all but meet: one that keeps no more than wanted, one that keeps as much or more."""
        # beyond the logits' range a price decides alone
        high = float(self.logits().aminmax().max - self.logits().aminmax().min) + 1
        low = -high
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            kept = self._num_kept(self._lengths(torch.tensor(middle, device=self.features.device)))
            low, high = (low, middle) if kept <= self.num_floats else (middle, high)
        return high, low

    def _lengths(self, price: Tensor) -> Tensor:
        """(G,) the most likely lengths."""
        return 1 + (self.logits() - price * self._lengths_of_columns()).argmax(dim=1)

    def _num_kept(self, lengths: Tensor) -> int:
        return int((lengths * self.sizes).sum())

    def _lengths_of_columns(self) -> Tensor:
        return torch.arange(1, self.width + 1, device=self.group.device)

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        return ragged_rows(arrays, range(1, facts["width"] + 1), ids, facts["width"])[0]


def _network(hidden_units: int, width: int, generator: torch.Generator) -> nn.Sequential:
    """(G, 2) -> (G, D + 1)."""
    layers = nn.Sequential(nn.Linear(2, hidden_units), nn.Tanh(), nn.Linear(hidden_units, width))
    for layer in (layers[0], layers[2]):
        assert isinstance(layer, nn.Linear)
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    return layers


@METHODS.register("amtl")
class AMTL(TableMethod[AMTLSettings]):
    """Prefixes of rows by frequency; a size is a mean length.

    Raises:
        ConfigError: The mean length is more than D + 1.
    """

    name = "amtl"
    Settings = AMTLSettings
    table_type = AMTLTable
    size_settings = ("mean_length",)

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: AMTLSettings) -> dict[str, int]:
        """rows: mean_length V floats, index: the lengths."""
        num_floats, size = cls._num_floats(vocabulary, inputs, settings), inputs.layout.size(vocabulary)
        return ragged_bytes(size, num_floats, inputs.width, settings.float_bytes)

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: AMTLSettings) -> Table:
        """See ``TableMethod.make_table``."""
        num_floats = self._num_floats(vocabulary, inputs, settings)
        counts, generator = inputs.counts[vocabulary], inputs.generator(vocabulary)
        return AMTLTable(counts, inputs.width, num_floats, settings, generator)

    def after_step(self, step: int) -> None:
        """Move the prices of length."""
        for table in self.tables:
            assert isinstance(table, AMTLTable)
            table.move_price()

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: AMTLSettings) -> int:
        """Steps of 1/16 float per value, from 1 to D + 1."""
        return _STEPS * inputs.embedding_dim + 1

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: AMTLSettings, size: int) -> AMTLSettings:
        """The mean length 1 + (size - 1) / 16."""
        return with_settings(base, mean_length=1 + (size - 1) / _STEPS)

    @classmethod
    def _num_floats(cls, vocabulary: str, inputs: MethodInputs, settings: AMTLSettings) -> int:
        if settings.mean_length > inputs.width:
            raise ConfigError(
                f"amtl keeps more floats per value than the {inputs.width} there are",
                found=f"mean_length={settings.mean_length}",
                fix=f"set mean_length to {inputs.width} or less",
            )
        return round(settings.mean_length * inputs.layout.size(vocabulary))
