"""Batch normalization between the layers of a deep network: Ioffe and Szegedy, ICML 2015, algorithms 1 and 2."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class BatchNorm(nn.BatchNorm1d):
    """Batch normalization that also takes training batches of one row.

    One row has no variance, and an epoch's last batch may be that short: it is normalized by the
    running statistics, which it leaves as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C) -> (B, C)."""
        if self.training and len(input) == 1:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)


def with_batch_norm(network: nn.Sequential) -> nn.Sequential:
    """The same layers with batch normalization after each linear one, before its activation.

    The linear layers lose their biases, which subtracting the batch's mean would cancel (section 3.2).
    """
    layers: list[nn.Module] = []
    for layer in network:
        layers.append(layer)
        if isinstance(layer, nn.Linear):
            layer.register_parameter("bias", None)
            layers.append(BatchNorm(layer.out_features))
    return nn.Sequential(*layers)
