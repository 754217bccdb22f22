"""Deep hash embedding: Kang et al., "Learning to embed categorical features without embedding tables for
recommendation", KDD 2021.

A value's row is computed: its k universal hashes (section 4.1), scaled to [-1, 1] or to a normal distribution, go
through an MLP with batch normalization and Mish (section 4.2). Each vocabulary has a network and hashes of its own.

    h_i(x) = ((a_i x + b_i) mod p) mod m,  p = 2^31 - 1, m = 10^6

a and b come from splitmix64 of one salt, so that they are the same in every process and on every machine.

Bytes per vocabulary: other (k + 1) H + (L - 1) (H + 1) H + (H + 1) (D + 1) floats for L hidden layers of H units,
however many values there are: with few of them, exact rows take less (``min_values``). Normalization is folded into
the layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mec.embeddings.export import Array
from mec.embeddings.hash_functions import mix
from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.table_method import Table, TableMethod, TableSettings
from mec.models.batch_norm import BatchNorm
from mec.quantize.storage import Floats

Encoding = Literal["uniform", "normal"]

PRIME = 2**31 - 1
NUM_BUCKETS = 1_000_000
LARGEST_HIDDEN = 1024


class DHESettings(TableSettings):
    """Settings of deep hash embedding."""

    num_hashes: int = Field(1024, ge=2, le=4096, multiple_of=2, description="k, hash functions")
    encoding: Encoding = Field("uniform", description="how hashes are distributed: on [-1, 1], or normally")
    hidden: int = Field(64, ge=1, le=LARGEST_HIDDEN, description="H, units of each hidden layer")
    num_layers: int = Field(3, ge=1, le=16, description="L, hidden layers")


def hash_constants(salt: int, num_hashes: int) -> tuple[Tensor, Tensor]:
    """(k,) int64 a in [1, p) and b in [0, p), from a salt in [0, 2^62)."""
    keys = salt + torch.arange(2 * num_hashes, dtype=torch.int64)
    numbers = mix(keys) & ((1 << 62) - 1)
    return 1 + numbers[:num_hashes] % (PRIME - 1), numbers[num_hashes:] % PRIME


def encode(ids: Tensor, constants: tuple[Tensor, Tensor], encoding: Encoding) -> Tensor:
    """Dense encoding of ids.

    Args:
        ids: (N,) int64 in [0, 2^31 - 1).
        constants: a and b, (k,).
        encoding: uniform: h / (m - 1) on [-1, 1]; normal: pairs of hashes by Box and Muller (1958).

    Returns:
        (N, k) float32.
    """
    a, b = (constant.to(ids.device) for constant in constants)
    hashes = (ids[:, None] * a + b) % PRIME % NUM_BUCKETS  # (N, k)
    if encoding == "uniform":
        return hashes.float() * (2 / (NUM_BUCKETS - 1)) - 1
    radius, angle = ((hashes.float() + 0.5) / NUM_BUCKETS).chunk(2, dim=1)
    radius, angle = (-2 * radius.log()).sqrt(), 2 * torch.pi * angle
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)


class DHETable(Table):
    """Hashes and network of one vocabulary.

    Args:
        vocabulary: Its name.
        inputs: D, seed.
        settings: Of the network.
    """

    def __init__(self, vocabulary: str, inputs: MethodInputs, settings: DHESettings) -> None:
        super().__init__()
        self.salt = inputs.salt("dhe", vocabulary) >> 1
        self.encoding: Encoding = settings.encoding
        self.constants = hash_constants(self.salt, settings.num_hashes)
        widths = [settings.num_hashes, *[settings.hidden] * settings.num_layers]
        self.layers = nn.ModuleList(nn.Linear(own, units, bias=False) for own, units in pairwise(widths))
        self.norms = nn.ModuleList(BatchNorm(settings.hidden) for _ in range(settings.num_layers))
        self.output = nn.Linear(settings.hidden, inputs.width)
        self._num_folded = 0
        generator = inputs.generator(vocabulary)
        with torch.no_grad():
            for layer in self.layers:
                assert isinstance(layer, nn.Linear)
                layer.weight.normal_(0.0, layer.in_features**-0.5, generator=generator)
            self.output.weight.normal_(0.0, settings.init_std * settings.hidden**-0.5, generator=generator)
            self.output.weight[0] = 0.0
            self.output.bias.zero_()

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1)."""
        if self._num_folded or not self.training:
            return network(ids, self.constants, self.encoding, self._layers())
        unique, inverse = torch.unique(ids, return_inverse=True)
        # the first layer, which costs most, once per value; statistics are of the batch's rows
        units = self.layers[0](encode(unique, self.constants, self.encoding))[inverse]  # (N, H)
        for number, norm in enumerate(self.norms):
            units = functional.mish(norm(units if number == 0 else self.layers[number](units)))
        rows: Tensor = self.output(units)
        return rows

    def arrays(self) -> dict[str, Array]:
        """``weight_l`` (units out, units in) and ``bias_l``, from the first layer to the output."""
        named = {f"{what}_{i}": part[j] for i, part in enumerate(self._layers()) for j, what in enumerate(_PARTS)}
        return {key: Array("other", tensor) for key, tensor in named.items()}

    def facts(self) -> dict[str, Any]:
        """The salt, and how hashes are distributed."""
        return {"salt": self.salt, "encoding": self.encoding}

    def finish(self, floats: Floats) -> None:
        """Fold normalization into the layers, round, and let the layers go."""
        layers = self._layers()
        for i, layer in enumerate(layers):
            for part, tensor in zip(_PARTS, layer, strict=True):
                self.register_buffer(f"{part}_{i}", tensor.detach().clone())
        self._num_folded = len(layers)
        del self.layers, self.norms, self.output
        super().finish(floats)

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of each layer without normalization, the output last."""
        if self._num_folded:
            return [(self.get_buffer(f"weight_{i}"), self.get_buffer(f"bias_{i}")) for i in range(self._num_folded)]
        return [*map(_fold, self.layers, self.norms), (self.output.weight, self.output.bias)]

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        num_layers = sum(key.startswith("weight_") for key in arrays)
        layers = [(arrays[f"weight_{i}"].float(), arrays[f"bias_{i}"].float()) for i in range(num_layers)]
        constants = hash_constants(facts["salt"], layers[0][0].shape[1])
        return network(ids, constants, facts["encoding"], layers)


_PARTS = ("weight", "bias")


def network(
    ids: Tensor, constants: tuple[Tensor, Tensor], encoding: Encoding, layers: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """(N,) ids through folded layers -> (N, D + 1), each distinct id once."""
    unique, inverse = torch.unique(ids, return_inverse=True)
    units = encode(unique, constants, encoding)  # (U, k)
    for weight, bias in layers[:-1]:
        units = functional.mish(functional.linear(units, weight, bias))
    return functional.linear(units, *layers[-1])[inverse]


def _fold(layer: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer that does what the layer and its normalization do in eval mode."""
    assert isinstance(layer, nn.Linear)
    assert isinstance(norm, BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # (H,)
    return layer.weight * scale[:, None], norm.bias - norm.running_mean * scale


@METHODS.register("dhe")
class DHE(TableMethod[DHESettings]):
    """A network in place of each large vocabulary's table; a size is a number of hidden units."""

    name = "dhe"
    Settings = DHESettings
    table_type = DHETable
    size_settings = ("hidden",)

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: DHESettings) -> dict[str, int]:
        """other: the network's floats."""
        units = settings.hidden
        hidden = (settings.num_hashes + 1) * units + (settings.num_layers - 1) * (units + 1) * units
        return {"other": (hidden + (units + 1) * inputs.width) * settings.float_bytes}

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: DHESettings) -> Table:
        """See ``TableMethod.make_table``."""
        return DHETable(vocabulary, inputs, settings)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: DHESettings) -> int:
        """1024; a wider network is no longer a small one."""
        return LARGEST_HIDDEN

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: DHESettings, size: int) -> DHESettings:
        """H = size."""
        return with_settings(base, hidden=size)
