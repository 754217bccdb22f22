"""Product quantization of a trained table: Jégou et al., "Product quantization for nearest neighbor search", 2011.

A pre-trained row of W = D + 1 floats is cut into M near-equal parts, each coded by the nearest of K codewords that
k-means finds for it. With ``weights`` other than none, squared errors are weighted by how often a value occurs:
frequency PQ. Codes stay as they are; codewords stay too, or are trained on with the backbone (``codewords: warm``).
Exact rows of small vocabularies start from the pre-trained ones and are trained.

Bytes per vocabulary: codes ceil(V M ceil(log2 K) / 8), codebooks K (D + 1) floats, with K <= V.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mec.config import QuantizeConfig
from mec.embeddings.export import Array
from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.table_method import Table, TableMethod, TableSettings
from mec.errors import ConfigError, TrainingError
from mec.quantize.coding import code_table
from mec.quantize.fit_watch import FitWatch
from mec.quantize.packing import bits_per_code, gather_codes, packed_bytes
from mec.quantize.plan import VocabularyPlan
from mec.quantize.product import ProductCodebook
from mec.quantize.weights import Weighting, popularity_weights


class ProductSettings(TableSettings):
    """Settings of product codes of pre-trained rows."""

    num_codes: int = Field(4, ge=1, le=64, description="M, codes per value")
    num_codewords: int = Field(64, ge=2, le=65_536, description="K, codewords per code; no more than V")
    iterations: int = Field(25, ge=1, le=10_000, description="k-means iterations at most")
    max_points: int = Field(262_144, ge=256, description="values drawn to fit codewords; all are coded")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.refuse_without_effect(["init_std"], "on rows that start from pre-trained ones")
        if self.num_codewords > self.max_points:
            raise ValueError(
                f"num_codewords={self.num_codewords} is more than max_points={self.max_points}, the values they are "
                "fitted on; raise max_points or lower num_codewords"
            )
        return self


class PQSettings(ProductSettings):
    """Settings of product quantization."""

    weights: Weighting = Field("none", description="weight of a value in k-means, from its training count n")
    codewords: Literal["frozen", "warm"] = Field("frozen", description="kept as they are fitted, or trained on")


ProductSettingsT = TypeVar("ProductSettingsT", bound=ProductSettings)


class ProductTable(Table):
    """Codes and codewords of one vocabulary.

    Args:
        codewords: (K, W) float32, as they are stored.
        packed: uint8 bit stream of (V, M) codes.
        num_codes: M.
        trained: Whether codewords are trained on.
        rotation: (W, W) float32 that rows were multiplied by before they were coded, as it is stored; None: none.
    """

    codewords: Tensor
    packed: Tensor
    rotation: Tensor | None

    def __init__(
        self, codewords: Tensor, packed: Tensor, num_codes: int, *, trained: bool, rotation: Tensor | None
    ) -> None:
        super().__init__()
        self.num_codes = num_codes
        if trained:
            self.codewords = nn.Parameter(codewords)
        else:
            self.register_buffer("codewords", codewords)
        self.register_buffer("packed", packed)
        self.register_buffer("rotation", rotation)

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1)."""
        return decode(self.codewords, self.packed, self.num_codes, self.rotation, ids)

    def arrays(self) -> dict[str, Array]:
        """``codes``, ``codewords`` (K, W), and ``rotation`` (W, W) if there is one."""
        rotation = {} if self.rotation is None else {"rotation": Array("other", self.rotation)}
        codes, codewords = Array("codes", self.packed), Array("codebooks", self.codewords)
        return {"codes": codes, "codewords": codewords, **rotation}

    def facts(self) -> dict[str, Any]:
        """M."""
        return {"num_codes": self.num_codes}

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        rotation = arrays["rotation"].float() if "rotation" in arrays else None
        return decode(arrays["codewords"].float(), arrays["codes"], facts["num_codes"], rotation, ids)


def decode(codewords: Tensor, packed: Tensor, num_codes: int, rotation: Tensor | None, ids: Tensor) -> Tensor:
    """(K, W) codewords, a bit stream, M, (W, W) or None, (N,) ids -> (N, W) rows."""
    book, bits = ProductCodebook(codewords, num_codes), bits_per_code(len(codewords))
    if rotation is None:
        return book.decode(gather_codes(packed, ids, num_codes, bits))
    # the bits of a matrix product depend on a row's place in the batch; so each value is multiplied once
    unique, inverse = torch.unique(ids, return_inverse=True)
    return (book.decode(gather_codes(packed, unique, num_codes, bits)) @ rotation.T)[inverse]


class ProductMethod(TableMethod[ProductSettingsT]):
    """Base of methods that code pre-trained rows by parts; a size is a number of codewords at the same M.

    Raises:
        ConfigError: No pre-trained tables, or more codes than floats in a row.
        TrainingError: No value of a vocabulary was seen in training.
    """

    table_type = ProductTable
    size_settings = ("num_codewords",)
    needs_pretrained = True

    def __init__(self, inputs: MethodInputs, settings: ProductSettingsT) -> None:
        if settings.num_codes > inputs.width:
            raise ConfigError(
                f"{self.name}: num_codes sub-vectors do not fit a row of {inputs.width} floats",
                found=settings.num_codes,
                fix=f"set num_codes to {inputs.width} at most",
            )
        super().__init__(inputs, settings)

    @classmethod
    def weighting(cls, settings: ProductSettingsT) -> Weighting:
        """How values are weighted when codewords are fitted."""
        return "none"

    @classmethod
    def trains_codewords(cls, settings: ProductSettingsT) -> bool:
        """Whether codewords are trained with the backbone."""
        return False

    @classmethod
    def rotation(cls, rows: Tensor, weights: Tensor, settings: ProductSettingsT, seed: int) -> Tensor | None:
        """(W, W) float32 as it is stored, which rows are multiplied by before they are coded; None for none."""
        return None

    @classmethod
    def first_rows(cls, inputs: MethodInputs, settings: ProductSettingsT) -> Mapping[str, Tensor] | None:
        """See ``TableMethod.first_rows``."""
        return inputs.pretrained

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: ProductSettingsT) -> dict[str, int]:
        """codes: V M ceil(log2 K) bits; codebooks: K (D + 1) floats."""
        size = inputs.layout.size(vocabulary)
        num_codewords = min(settings.num_codewords, size)
        codes = packed_bytes(size, settings.num_codes, bits_per_code(num_codewords))
        return {"codes": codes, "codebooks": num_codewords * inputs.width * settings.float_bytes}

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: ProductSettingsT) -> Table:
        """Fit and code one vocabulary."""
        assert inputs.pretrained is not None
        rows = inputs.pretrained[vocabulary].clone()  # code_table writes into it
        counts = inputs.counts[vocabulary]
        weights = torch.from_numpy(popularity_weights(counts, self.weighting(settings)))
        if not bool(weights.any()):
            raise TrainingError(
                f"no value of vocabulary {vocabulary!r} was seen in training",
                found="counts of 0",
                fix="count the training split again",
            )
        seed = inputs.salt("codebook", vocabulary) >> 16
        rotation = self.rotation(rows, weights, settings, seed)
        plan = VocabularyPlan("product", settings.num_codes, min(settings.num_codewords, len(rows)), 0, 0)
        coded = code_table(
            vocabulary,
            rows if rotation is None else rows @ rotation,
            weights,
            plan,
            quantize_config(settings),
            seed=seed,
            watch=FitWatch(),
            coded=lambda num: None,
        )
        packed, trained = torch.from_numpy(coded.packed), self.trains_codewords(settings)
        return ProductTable(coded.book.codewords, packed, settings.num_codes, trained=trained, rotation=rotation)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: ProductSettingsT) -> int:
        """2 to as many codewords as the largest vocabulary has values."""
        largest = max((inputs.layout.size(name) for name in cls.split(inputs, base)[0]), default=2)
        return min(largest, base.max_points, 65_536) - 1

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: ProductSettingsT, size: int) -> ProductSettingsT:
        """K = size + 1."""
        return with_settings(base, num_codewords=size + 1)


def quantize_config(settings: ProductSettings) -> QuantizeConfig:
    """The quantize step's settings of the same k-means."""
    return QuantizeConfig(
        structure="product",
        num_codes=settings.num_codes,
        num_codewords=settings.num_codewords,
        iterations=settings.iterations,
        max_points=settings.max_points,
        floats=settings.floats,
    )


PQSettingsT = TypeVar("PQSettingsT", bound=PQSettings)


class WeightedProduct(ProductMethod[PQSettingsT]):
    """Product codes of rows under the weights that are set, of codewords that are trained if set so."""

    @property
    def frozen(self) -> bool:
        """Where codewords are."""
        return self.settings.codewords == "frozen"

    @classmethod
    def weighting(cls, settings: PQSettingsT) -> Weighting:
        """As set."""
        return settings.weights

    @classmethod
    def trains_codewords(cls, settings: PQSettingsT) -> bool:
        """Where they are warm."""
        return settings.codewords == "warm"


@METHODS.register("pq")
class PQ(WeightedProduct[PQSettings]):
    """Product codes of pre-trained rows."""

    name = "pq"
    Settings = PQSettings
