"""Logistic regression: Richardson et al., "Predicting Clicks: Estimating the Click-Through Rate for New Ads", WWW 2007.

The weakest baseline: no interactions at all. Equation 1: logit = bias + sum_f w_f, the bias being the model's.
"""

from __future__ import annotations

from torch import Tensor

from mec.config import Settings
from mec.models.base import BACKBONES, Backbone


class LRSettings(Settings):
    """Logistic regression has no settings of its own."""


@BACKBONES.register("lr")
class LR(Backbone):
    """The sum of the fields' first-order weights; no parameters beyond them."""

    settings_type = LRSettings
    interaction_orders = frozenset({1})

    def forward(self, embeddings: Tensor, first_order: Tensor | None) -> Tensor:
        """(B, F, D), (B,) -> (B,); the embeddings are ignored.

        Raises:
            ValueError: There are no first-order weights, so there is nothing to add up.
        """
        if first_order is None:
            raise ValueError(
                "the backbone 'lr' is nothing but first-order weights; found: first_order=None; "
                "fix: pass the (B,) sums of the fields' first-order weights, or choose another backbone"
            )
        return first_order
