"""What a compression method is, and the registry of methods.

A method maps (B, S) ids to (B, S, D + 1) rows, whose column 0 is the first-order weight. It knows its bytes before it
is trained, is trained by the one training loop with any backbone, and is served from its export alone. Most methods
treat one vocabulary like another: they are ``mec.embeddings.table_method.TableMethod``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mec.config import OptimizerConfig, Settings
from mec.data.layout import FieldLayout
from mec.embeddings.export import Export
from mec.embeddings.sizing import largest_within
from mec.errors import ConfigError
from mec.models.plugins import PluginRegistry
from mec.quantize.storage import DTYPES, Floats

if TYPE_CHECKING:
    from mec.checkpoints import Checkpoints
    from mec.ctr_model import CtrModel
    from mec.data.dataset import EncodedDataset
    from mec.fold_training import FoldTables


@dataclass(frozen=True)
class MethodInputs:
    """What every method is built from.

    Attributes:
        layout: Fields and vocabularies.
        embedding_dim: D of the full table that is compressed.
        counts: Vocabulary -> (V,) int64 training counts by id, id 0's included.
        pretrained: Vocabulary -> (V, D + 1) float32 rows of a trained full table; None without one.
        seed: Of first values and hash functions.
        folds: Out-of-fold tables in the space of ``pretrained``, for methods that train on them; None without.
    """

    layout: FieldLayout
    embedding_dim: int
    counts: Mapping[str, NDArray[np.int64]]
    pretrained: Mapping[str, Tensor] | None = None
    seed: int = 0
    folds: FoldTables | None = None

    def __post_init__(self) -> None:
        for name, size in self.layout.vocabularies:
            assert self.counts[name].shape == (size,), name
            assert self.pretrained is None or self.pretrained[name].shape == (size, self.width), name

    @property
    def width(self) -> int:
        """D + 1, floats per row."""
        return self.embedding_dim + 1

    def salt(self, *purpose: object) -> int:
        """A number in [0, 2^63) that depends on the seed and what it is for, and on nothing else."""
        text = "/".join(map(str, (self.seed, *purpose)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

    def generator(self, *purpose: object) -> torch.Generator:
        """A generator of first values, one for each purpose: their order of making changes nothing."""
        return torch.Generator().manual_seed(self.salt("generator", *purpose))


class MethodSettings(Settings):
    """Settings that every method has."""

    floats: Floats = Field("float16", description="how floats are stored and served: float16 or float32")
    init_std: float = Field(0.01, gt=0, description="standard deviation of the first vectors")

    @property
    def float_bytes(self) -> int:
        """Bytes per stored float."""
        return DTYPES[self.floats].itemsize


SettingsT = TypeVar("SettingsT", bound=MethodSettings)


class Method(nn.Module, Generic[SettingsT]):
    """Base of all compression methods.

    Attributes:
        name: As registered.
        Settings: The settings it is built from, a subclass of ``MethodSettings``.
        needs_pretrained: Whether ``MethodInputs.pretrained`` must be given.
        size_settings: Names of the settings that a budget decides, whatever they are set to.
        embedding_dim: D of its rows, which the backbone is built with; another than the full table's for some.

    Raises:
        ConfigError: It needs pre-trained tables and there are none.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[MethodSettings]]
    needs_pretrained: ClassVar[bool] = False
    size_settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, inputs: MethodInputs, settings: SettingsT) -> None:
        super().__init__()
        if self.needs_pretrained and inputs.pretrained is None:
            raise ConfigError(
                f"the method {self.name!r} compresses pre-trained tables",
                found="none",
                fix="give it a pretrained bundle",
            )
        self.layout = inputs.layout
        self.settings = settings
        self.embedding_dim = inputs.embedding_dim
        self._bytes = self.planned_bytes(inputs, settings)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, S) int32 ids -> (B, S, D + 1) float32 rows: first-order weight, then the vector.

        A ``RowSparseTable`` is called once per forward at most: it keeps the gradient of its last call.
        """
        raise _undefined(self, "forward")

    @property
    def frozen(self) -> bool:
        """Whether coded rows stay as they were built: the model then learns how much each field's count."""
        return False

    def serving_bytes(self) -> dict[str, int]:
        """Bytes that a server must hold, by part: codes, codebooks, rows, index, other."""
        return dict(self._bytes)

    @classmethod
    def planned_bytes(cls, inputs: MethodInputs, settings: SettingsT) -> dict[str, int]:
        """``serving_bytes`` of a method that is not built yet, by a closed formula."""
        raise _undefined(cls, "planned_bytes")

    def finish(self) -> None:
        """Make what was trained what is served; called once, after training and before evaluation and export.

        Floats are rounded to the width they are stored at, rows that training never touched are filled, and what
        only training needs may go. From then on ``forward`` in eval mode gives the bits that a server gives.
        """
        raise _undefined(self, "finish")

    def export(self) -> Export:
        """What a server holds; its bytes are ``serving_bytes``, part by part.

        Raises:
            ConfigError: A float is beyond float16's range.
        """
        raise _undefined(self, "export")

    @classmethod
    def serve(cls, export: Export) -> nn.Module:
        """A module of frozen buffers that maps (B, S) ids to rows as ``forward`` does, from the export alone."""
        raise _undefined(cls, "serve")

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: SettingsT) -> int:
        """How many sizes ``at_size`` knows, one at least."""
        raise _undefined(cls, "num_sizes")

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: SettingsT, size: int) -> SettingsT:
        """The settings of the size'th size, from 1; the planned bytes never fall from one to the next.

        Args:
            inputs: What the method will be built from.
            base: All other settings.
            size: In [1, ``num_sizes``].
        """
        raise _undefined(cls, "at_size")

    @classmethod
    def for_budget(cls, inputs: MethodInputs, budget_bytes: int, base: SettingsT | None = None) -> SettingsT:
        """The settings with the most serving bytes at or under a budget.

        A method that spends a budget in its own way overrides this, and has one size.

        Args:
            inputs: What the method will be built from.
            budget_bytes: Of all parts together.
            base: Settings beside the size; the defaults where None.

        Raises:
            BudgetError: The smallest size is over the budget; it is named.
        """
        settings = base if base is not None else cast(SettingsT, cls.Settings())
        size = largest_within(
            budget_bytes,
            cls.num_sizes(inputs, settings),
            lambda size: sum(cls.planned_bytes(inputs, cls.at_size(inputs, settings, size)).values()),
            cls.name,
        )
        return cls.at_size(inputs, settings, size)

    def regulariser(self, rows: Tensor) -> Tensor | None:
        """A term of the training loss beside cross-entropy and L2, or None.

        Args:
            rows: (B, S, D + 1) of the batch, what ``forward`` has just given.

        Returns:
            A scalar, weighted; the trainer adds it and stops where it is not finite.
        """
        return None

    def after_step(self, step: int) -> None:
        """Called after every optimizer step, counted from 1; what it changes belongs in buffers, for checkpoints."""

    def search(
        self, model: CtrModel, dataset: EncodedDataset, settings: OptimizerConfig, checkpoints: Checkpoints | None
    ) -> Self:
        """Run the paper's search before training, and return the method to be trained; by default, this one.

        Args:
            model: This method with a fresh backbone; its weights may be trained and are thrown away.
            dataset: ``train`` and ``valid`` may be read, ``test`` never.
            settings: Of the training that follows: batch size, step size, device, epochs at most.
            checkpoints: Where a long search keeps its state; None keeps none.

        Returns:
            A method with freshly initialised weights, with ``serving_bytes`` of what was found.
        """
        return self


def _undefined(owner: object, what: str) -> TypeError:
    name = owner.__name__ if isinstance(owner, type) else type(owner).__name__
    return TypeError(f"{name} defines no {what}")


def with_settings(base: SettingsT, **changes: Any) -> SettingsT:
    """The settings with some of them changed, checked again."""
    return type(base).model_validate(base.model_dump() | changes)


METHODS: PluginRegistry[Method[Any]] = PluginRegistry("compression method", "method", "mec.methods", Method)
