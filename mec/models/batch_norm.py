"""Batch normalization between the layers of a deep network: Ioffe and Szegedy, ICML 2015, algorithms 1 and 2."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mec.distributed.processes import Processes, current


class BatchNorm(nn.BatchNorm1d):
    """Batch normalization that also takes training batches of one row.

    One row has no variance, and an epoch's last batch may be that short: it is normalized by the
    running statistics, which it leaves as they are. Where several processes train together, a batch's mean and
    variance are those of all their rows.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C) -> (B, C)."""
        processes = current()
        if not self.training:
            return super().forward(input)
        num_rows = processes.total(len(input))
        if num_rows == 1:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input) if processes.num == 1 else self._over_processes(input, num_rows, processes)

    def _over_processes(self, input: Tensor, num_rows: int, processes: Processes) -> Tensor:
        """Training's normalization by the mean and the variance of all processes' rows, B of them in all."""
        mean = processes.sum_with_gradient(input.sum(0)) / num_rows  # (C,)
        centred = input - mean
        variance = processes.sum_with_gradient(centred.square().sum(0)) / num_rows  # (C,)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (num_rows / (num_rows - 1)), self.momentum)
        scaled = centred * (variance + self.eps).rsqrt()
        for name, parameter in self.named_parameters():  # a layer after it may have taken the bias's place
            scaled = scaled * parameter if name == "weight" else scaled + parameter
        return scaled


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
