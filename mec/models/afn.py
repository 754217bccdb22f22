"""AFN: Cheng et al., "Adaptive Factorization Network: Learning Adaptive-Order Feature Interactions", AAAI 2020.

Each of O logarithmic neurons is a product of powers of the field embeddings v_f, whose exponents are learned;
all operations are elementwise, over the D dimensions:

    y_o = exp(sum_f w_fo BN(ln max(|v_f|, epsilon))) = prod_f v_f^w_fo, up to the batch norm
    logit = deep(concat over o of BN(y_o))

A batch norm follows the logarithm (a channel per field), the exponential (a channel per neuron) and, in the
authors' order, the activation of every hidden layer. Exponents start as N(0, 0.1^2).

AFN+ adds a deep network: logit = c_1 afn + c_2 deep, c = (.5, .5) at the start. The paper gives that network an
embedding table of its own and fits c on top of the two networks, each with a loss of its own. A backbone has one
table and one logit, so here both networks read the same embeddings and everything is trained by the one loss.
"""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from mec.models.base import BACKBONES, mlp, output_layer
from mec.models.batch_norm import BatchNorm
from mec.models.wide import WideBackbone, WideSettings

MAX_EXPONENT = 30.0  # e^30 squared, in the variance of a batch, is still a float32


class AFNSettings(WideSettings):
    """Settings of AFN."""

    logarithmic_neurons: int = Field(128, ge=1, description="O; each is one cross feature of learned order")
    epsilon: float = Field(1e-7, gt=0, lt=1, description="absolute values below are raised to it before the logarithm")
    hidden_units: tuple[PositiveInt, ...] = Field((128, 64), min_length=1, description="units of each hidden layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="after each hidden layer")
    batch_norm: bool = Field(True, description="normalize each hidden layer after its activation")


class AFNPlusSettings(AFNSettings):
    """Settings of AFN+; ``batch_norm`` is for both networks."""

    dnn_hidden_units: tuple[PositiveInt, ...] = Field(
        (128, 64), min_length=1, description="units of each hidden layer of the deep network beside AFN"
    )
    dnn_dropout: float = Field(0.0, ge=0, lt=1, description="after each hidden layer of that network")


class LogarithmicLayer(nn.Module):
    """The logarithmic transformation layer.

    Args:
        num_fields: F.
        num_neurons: O.
        epsilon: Least absolute value.
    """

    def __init__(self, num_fields: int, num_neurons: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.log_norm = BatchNorm(num_fields)
        # without a bias: it would scale a neuron, and the batch norm after it undoes scales
        self.weight = nn.Parameter(torch.empty(num_fields, num_neurons))  # w (F, O)
        self.exp_norm = BatchNorm(num_neurons)
        nn.init.normal_(self.weight, std=0.1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, F, D) -> (B, D * O)."""
        batch_size, _, dim = embeddings.shape
        positive = embeddings.transpose(1, 2).flatten(0, 1).abs().clamp(min=self.epsilon)  # (B * D, F)
        exponents = self.log_norm(positive.log()) @ self.weight  # (B * D, O)
        crossed: Tensor = self.exp_norm(exponents.clamp(max=MAX_EXPONENT).exp())
        return crossed.reshape(batch_size, dim * crossed.shape[1])


def network(num_inputs: int, hidden_units: tuple[int, ...], dropout: float, batch_norm: bool) -> nn.Sequential:
    """Hidden layers and output: (B, num_inputs) -> (B, 1)."""
    hidden: list[nn.Module] = []
    for units in hidden_units:
        linear, activation, *rest = mlp(num_inputs, (units,), dropout)
        hidden += [linear, activation, *([BatchNorm(units)] if batch_norm else []), *rest]
        num_inputs = units
    if batch_norm:
        norm = next(layer for layer in reversed(hidden) if isinstance(layer, BatchNorm))
        norm.register_parameter("bias", None)  # nothing but the output follows: it would be a second bias of the model
    return nn.Sequential(nn.Sequential(*hidden), output_layer(num_inputs))


@BACKBONES.register("afn")
class AFN(WideBackbone):
    """A deep network over logarithmic neurons."""

    settings_type = AFNSettings
    interaction_orders = frozenset({1, 2, 3})
    field_order_matters = True

    def __init__(self, num_fields: int, embedding_dim: int, settings: AFNSettings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        self.logarithmic = LogarithmicLayer(num_fields, settings.logarithmic_neurons, settings.epsilon)
        num_inputs = settings.logarithmic_neurons * embedding_dim
        self.network = network(num_inputs, settings.hidden_units, settings.dropout, settings.batch_norm)

    def interact(self, embeddings: Tensor) -> Tensor:
        """(B, F, D) -> (B,)."""
        logits: Tensor = self.network(self.logarithmic(embeddings))
        return logits.squeeze(1)


@BACKBONES.register("afn_plus")
class AFNPlus(WideBackbone):
    """AFN and a deep network over the same embeddings, their logits weighted and added."""

    settings_type = AFNPlusSettings
    interaction_orders = frozenset({1, 2, 3})
    field_order_matters = True

    def __init__(self, num_fields: int, embedding_dim: int, settings: AFNPlusSettings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        self.afn = AFN(num_fields, embedding_dim, settings)
        num_inputs = num_fields * embedding_dim
        self.deep = network(num_inputs, settings.dnn_hidden_units, settings.dnn_dropout, settings.batch_norm)
        self.combination = nn.Parameter(torch.full((2,), 0.5))  # c

    def interact(self, embeddings: Tensor) -> Tensor:
        """(B, F, D) -> (B,)."""
        afn, deep = self.afn(embeddings, None), self.deep(embeddings.flatten(1)).squeeze(1)  # (B,), (B,)
        logits: Tensor = self.combination[0] * afn + self.combination[1] * deep
        return logits
