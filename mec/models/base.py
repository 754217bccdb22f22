"""What a backbone is, and the registry of backbones.

A backbone maps field embeddings to a logit. It never sees an id, a code or a table, so every
backbone works with every compression method.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from mec.config import Settings
from mec.errors import ConfigError
from mec.models.dropout import Dropout
from mec.models.plugins import PluginRegistry


class Backbone(nn.Module):
    """Base of all backbones: built from F fields, D dimensions and its own settings.

    Attributes:
        settings_type: The settings it is built from.
        interaction_orders: Orders of interactions it can learn, of whichever fields; 1 for single fields.
        field_order_matters: Whether fields in another order are another model, even with the same weights.
        half_precision: Whether ``backbone.bfloat16()`` scores as well as bfloat16 can.

    Where settings decide over one of the last three, an instance says so in place of its class.
    ``mec.testing.check_backbone`` holds a backbone to what it says here.
    """

    settings_type: ClassVar[type[Settings]]
    interaction_orders: frozenset[int] = frozenset({1, 2})
    field_order_matters: bool = False
    half_precision: bool = True

    def __init__(self, num_fields: int, embedding_dim: int, settings: Settings) -> None:
        super().__init__()
        self.num_fields = num_fields
        self.embedding_dim = embedding_dim
        self.settings = settings

    def forward(self, embeddings: Tensor, first_order: Tensor | None) -> Tensor:
        """Score a batch.

        Args:
            embeddings: (B, F, D) float32, one vector per field.
            first_order: (B,) float32, the sum of the fields' first-order weights; None without them, which scores
                as weights of 0 do.

        Returns:
            (B,) logits.

        Raises:
            ValueError: ``first_order`` is None and the backbone is nothing without it; the message names it.
        """
        raise TypeError(
            f"the backbone {type(self).__name__} defines no forward; fix: define forward(self, embeddings, first_order)"
        )


BACKBONES: PluginRegistry[Backbone] = PluginRegistry("backbone", "train.model", "mec.backbones", Backbone)


def build_backbone(name: str, num_fields: int, embedding_dim: int, settings: dict[str, object]) -> Backbone:
    """Build a backbone by name.

    Raises:
        ConfigError: Unknown backbone, or settings that it does not have.
    """
    return BACKBONES.get(name)(num_fields, embedding_dim, check_backbone_settings(name, settings))


def check_backbone_settings(name: str, settings: dict[str, object]) -> Settings:
    """A backbone's settings, checked.

    Raises:
        ConfigError: Unknown backbone, or settings that it does not have.
    """
    return check_settings(BACKBONES.get(name), settings, name)


def check_settings(cls: type[Backbone], settings: dict[str, object], name: str) -> Settings:
    """The settings of one class of backbones, checked; ``name`` is for messages.

    Raises:
        ConfigError: The class has no settings model, or not these settings.
    """
    if not hasattr(cls, "settings_type"):
        raise ConfigError(
            f"the backbone {name!r} has no settings_type",
            found=cls.__qualname__,
            fix="set the class attribute settings_type to a subclass of mec.config.Settings",
        )
    try:
        return cls.settings_type.model_validate(settings)
    except ValidationError as error:
        bad = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        known = ", ".join(cls.settings_type.model_fields) or "none"
        raise ConfigError(
            f"bad settings of the backbone {name!r}", found=bad, fix=f"its settings are: {known}"
        ) from None


def mlp(num_inputs: int, hidden_units: tuple[int, ...], dropout: float) -> nn.Sequential:
    """Linear, ReLU, dropout per hidden layer: (B, num_inputs) -> (B, hidden_units[-1])."""
    layers: list[nn.Module] = []
    for units in hidden_units:
        linear = nn.Linear(num_inputs, units)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
        if dropout > 0:
            layers.append(Dropout(dropout))
        num_inputs = units
    return nn.Sequential(*layers)


def output_layer(num_inputs: int) -> nn.Linear:
    """(B, num_inputs) -> (B, 1), without a bias: the model adds the one bias there is."""
    linear = nn.Linear(num_inputs, 1, bias=False)
    nn.init.xavier_uniform_(linear.weight)
    return linear


def upper_triangle(num_fields: int) -> tuple[Tensor, Tensor]:
    """Indices (P,), (P,) of the P = F (F - 1) / 2 field pairs i < j."""
    pairs = torch.triu_indices(num_fields, num_fields, offset=1)
    return pairs[0], pairs[1]
