"""The wide part: first-order weights beside backbones whose papers have no place for them.

What is compressed is a row of a first-order weight and a vector, learned together by the small model: on data where
single values tell much, most of what it knows of them is in the weights, and a backbone that reads the vectors alone
does without it. So the weights are added to the logit, as in Cheng et al., "Wide & Deep Learning for Recommender
Systems", DLRS 2016, equation 3, unless ``wide`` is off: then the backbone is the paper's.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from mec.config import Settings
from mec.models.base import Backbone


class WideSettings(Settings):
    """What the settings of these backbones have in common."""

    wide: bool = Field(True, description="add the values' first-order weights to the logit; off: as in the paper")


class WideBackbone(Backbone):
    """A backbone that reads vectors alone; its settings are ``WideSettings``."""

    def forward(self, embeddings: Tensor, first_order: Tensor | None) -> Tensor:
        """(B, F, D), (B,) or None -> (B,) logits."""
        logits = self.interact(embeddings)
        assert isinstance(self.settings, WideSettings)
        return logits if first_order is None or not self.settings.wide else logits + first_order

    def interact(self, embeddings: Tensor) -> Tensor:
        """(B, F, D) -> (B,) logits, by the paper's equations."""
        raise TypeError(
            f"the backbone {type(self).__name__} defines no interact; fix: define interact(self, embeddings)"
        )
