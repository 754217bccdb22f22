"""DPQ-SX's quantizer: Chen, Li and Sun, "Differentiable product quantization for end-to-end embedding compression",
ICML 2020, equations 4 to 6, with the authors' normalisation.

Responses are products, N M K of them in a batch; they are made tile by tile and never held together, but for the
softmax, which the backward pass reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mec.embeddings.quantizers import TILE_SCORES, Quantizer, beyond, largest
from mec.quantize.product import join_parts, part_of


class SoftmaxQuantizer(Quantizer):
    """DPQ-SX: the response is the product with a key, what comes out is a value.

        p = softmax(response / temperature)
        forward:  value of the largest response
        backward: that of sum_k p_k value_k for rows and keys, of the chosen value for values

    ``codewords`` are the values; keys are training's alone. Keys start as N(0, 1) and values as ``init_std`` times
    their keys: so the gradient of a row, which reaches it through the choice alone, points from the first step on where
    the value should go.

    Args:
        temperature: Of the softmax.
    """

    part_of: Tensor
    same_part: Tensor

    def __init__(
        self,
        width: int,
        num_codes: int,
        num_codewords: int,
        init_std: float,
        batch_norm: bool,
        generator: torch.Generator,
        *,
        temperature: float,
    ) -> None:
        super().__init__(width, num_codes, num_codewords, init_std, batch_norm, generator)
        # values that have nothing to do with their keys would send a row's first steps anywhere
        self.keys = nn.Parameter(self.codewords.detach() / init_std)
        self.temperature = temperature
        self.register_buffer("part_of", part_of(width, num_codes), persistent=False)  # (W,)
        same = self.part_of[:, None] == self.part_of
        self.register_buffer("same_part", same.float(), persistent=False)  # (W, W)

    def forward(
        self, rows: Tensor, num_codewords: Tensor | None = None, times: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """See ``Quantizer.forward``; there is no term."""
        points, keys, bias = self._normalised_products(rows, times)
        excluded = None if num_codewords is None else beyond(num_codewords, self.num_codewords)
        nothing, codes = _BestKeys.apply(  # type: ignore[no-untyped-call]
            points, keys, self.codewords.detach(), self.parts, self.temperature, bias, excluded
        )
        return join_parts(self.codewords, codes) + nothing, None

    def responses(self, rows: Tensor) -> Tensor:
        """row . key of each part."""
        return self._normalised([rows[:, part] @ self.keys[:, part].T for part in self.parts])

    def _normalised_products(self, rows: Tensor, times: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Points (N, W) and keys (K, W) whose products, with a bias (M, K) or None, are the normalised responses.

        Responses are linear, so that their means and variances follow from those of the rows, W and W^2 numbers, and
        no response is looked at: r_k = (x - mean x) . k / sqrt(k' Cov(x) k + eps).
        """
        norm, keys = self.norm, self.keys
        if norm is None:
            return rows, keys, None
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weights = rows.new_ones(len(rows)) if times is None else times.to(rows.dtype)  # (N,)
        num_rows = float(weights.sum())
        shape = (self.num_codes, self.num_codewords)
        if num_rows < 2 or not self.training:  # as ``BatchNorm``: one row has no variance
            scale = (norm.running_var + norm.eps).rsqrt().view(shape)
            return rows, keys * scale.T[:, self.part_of], -norm.running_mean.view(shape) * scale
        center = weights @ rows / num_rows  # (W,)
        centered = rows - center
        covariance = centered.T @ (centered * weights[:, None]) / num_rows * self.same_part  # (W, W)
        of_part = functional.one_hot(self.part_of, self.num_codes).to(rows.dtype)  # (W, M)
        variance = ((keys @ covariance * keys) @ of_part).clamp(min=0)  # (K, M), which rounding may leave below 0
        with torch.no_grad():
            momentum = norm.momentum or 0.0
            norm.running_mean.lerp_(((keys * center) @ of_part).T.flatten(), momentum)
            norm.running_var.lerp_(variance.T.flatten() * (num_rows / (num_rows - 1)), momentum)
        return centered, keys * (variance + norm.eps).rsqrt()[:, self.part_of], None


class _BestKeys(torch.autograd.Function):
    """The best keys of each part, and zeros whose gradient is that of sum_k p_k value_k.

    p = softmax((x key' + bias) / temperature). The sum itself is never needed: it would be added and taken away.

    Args:
        points: (N, W).
        keys: (K, W).
        values: (K, W), which get no gradient.
        parts: Columns of the M parts.
        temperature: Of the softmax.
        bias: (M, K), which gets no gradient, or None.
        excluded: (N, K) bool, keys that are not to be chosen, or None.

    Returns:
        (N, W) zeros and (N, M) int64.
    """

    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        keys: Tensor,
        values: Tensor,
        parts: list[slice],
        temperature: float,
        bias: Tensor | None,
        excluded: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        num_rows, num_codewords = len(points), len(keys)
        probabilities = points.new_empty(len(parts), num_rows, num_codewords)
        codes = torch.empty(num_rows, len(parts), dtype=torch.int64, device=points.device)
        scaled = keys / temperature
        for tile in _tiles(num_rows, num_codewords):
            for m, part in enumerate(parts):
                logits = points[tile, part] @ scaled[:, part].T  # (n, K)
                if bias is not None:
                    logits += bias[m] / temperature
                if excluded is not None:
                    logits.masked_fill_(excluded[tile], -torch.inf)
                codes[tile, m] = largest(logits)
                torch.softmax(logits, dim=1, out=probabilities[m, tile])
        ctx.save_for_backward(points, scaled, values, probabilities)
        ctx.parts, ctx.temperature = parts, temperature
        ctx.mark_non_differentiable(codes)
        return torch.zeros_like(points), codes

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        points, scaled, values, probabilities = ctx.saved_tensors
        to_points, to_keys = torch.empty_like(points), torch.zeros_like(scaled)
        for tile in _tiles(len(points), len(scaled)):
            for m, part in enumerate(ctx.parts):
                own = probabilities[m, tile]  # (n, K)
                to_logits = (gradient[tile, part] @ values[:, part].T).mul_(own)
                to_logits.addcmul_(own, to_logits.sum(dim=1, keepdim=True), value=-1)
                # few columns: written this way round, products are 5 times as fast
                to_points[tile, part] = (scaled[:, part].T.contiguous() @ to_logits.T).T
                to_keys[:, part] += (points[tile, part].T.contiguous() @ to_logits).T
        return to_points, to_keys.div_(ctx.temperature), None, None, None, None, None


def _tiles(num_rows: int, num_codewords: int) -> list[slice]:
    step = max(16, TILE_SCORES // num_codewords)
    return [slice(start, start + step) for start in range(0, num_rows, step)]
