"""The quantizers of Chen, Li and Sun, "Differentiable product quantization for end-to-end embedding compression",
ICML 2020: rows go in, codewords come out, and gradients pass.

``VectorQuantizer`` is here, ``SoftmaxQuantizer`` in ``mec.embeddings.softmax_quantizer``. Both give K responses per
part m of a row, and choose the largest. The authors' code normalises responses, each codeword's over the batch, without
scale and shift, so that codewords far from all rows are chosen too.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mec.models.batch_norm import BatchNorm
from mec.quantize.product import column_parts, join_parts

TILE_SCORES = (
    1 << 17
)  # held at a time: what does not fit the cache, or is asked from the system anew, is 3 times slower


class Quantizer(nn.Module):
    """Base of both.

    Args:
        width: D + 1.
        num_codes: M, at most D + 1.
        num_codewords: K.
        init_std: Standard deviation of first codewords.
        batch_norm: Whether responses are normalised.
        generator: Of first values.
    """

    def __init__(
        self,
        width: int,
        num_codes: int,
        num_codewords: int,
        init_std: float,
        batch_norm: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.num_codewords = num_codewords
        self.parts = column_parts(width, num_codes)
        self.codewords = nn.Parameter(init_std * torch.randn(num_codewords, width, generator=generator))
        self.norm = BatchNorm(num_codes * num_codewords, affine=False) if batch_norm else None

    def responses(self, rows: Tensor) -> Tensor:
        """(N, W) -> (N, M, K), larger for codewords that fit better; normalised."""
        raise TypeError(f"{type(self).__name__} defines no responses")

    def codes(self, rows: Tensor, num_codewords: Tensor | None = None) -> Tensor:
        """Choose codewords.

        Args:
            rows: (N, W).
            num_codewords: (N,) int64, of which first codewords each row may choose; None: of all.

        Returns:
            (N, M) int64.
        """
        return allowed(self.responses(rows), num_codewords).argmax(dim=2)

    def forward(
        self, rows: Tensor, num_codewords: Tensor | None = None, times: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """In training.

        Args:
            rows: (N, W).
            num_codewords: See ``codes``.
            times: (N,) int64, how often each row is in the batch; None: once. Means are over the batch.

        Returns:
            (N, W) of codewords, and a scalar loss term if there is one.
        """
        raise TypeError(f"{type(self).__name__} defines no forward")

    def _normalised(self, responses: list[Tensor]) -> Tensor:
        """M times (N, K) -> (N, M, K)."""
        flat = torch.cat(responses, dim=1)  # (N, M K)
        flat = flat if self.norm is None else self.norm(flat)
        return flat.view(len(flat), self.num_codes, self.num_codewords)


class VectorQuantizer(Quantizer):
    """DPQ-VQ: the response is the negative squared distance.

        forward:  q = codeword of the largest response
        backward: dL/drow = dL/dq (straight-through)
        term:     codebook mean |q - sg(row)|^2 + commitment mean |sg(q) - row|^2

    Only the first half of the term moves codewords.

    Args:
        codebook: Weight of the first half.
        commitment: Weight of the second half.
    """

    def __init__(
        self,
        width: int,
        num_codes: int,
        num_codewords: int,
        init_std: float,
        batch_norm: bool,
        generator: torch.Generator,
        *,
        codebook: float,
        commitment: float,
    ) -> None:
        super().__init__(width, num_codes, num_codewords, init_std, batch_norm, generator)
        self.weights = (codebook, commitment)

    def forward(
        self, rows: Tensor, num_codewords: Tensor | None = None, times: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See ``Quantizer.forward``."""
        with torch.no_grad():
            codes = self._codes_in_training(rows, num_codewords, times)
        picked = join_parts(self.codewords, codes)
        codebook, commitment = self.weights
        term = codebook * _mean((picked - rows.detach()).square(), times)
        if commitment:
            term = term + commitment * _mean((picked.detach() - rows).square(), times)
        return rows + (picked - rows).detach(), term

    def _codes_in_training(self, rows: Tensor, num_codewords: Tensor | None, times: Tensor | None) -> Tensor:
        """``codes``, normalised over the whole batch."""
        if self.norm is None or times is None:
            return self.codes(rows, num_codewords)
        limits = None if num_codewords is None else num_codewords.repeat_interleave(times)
        return self.codes(rows.repeat_interleave(times, dim=0), limits)[times.cumsum(0) - 1]

    @torch.no_grad()
    def codes(self, rows: Tensor, num_codewords: Tensor | None = None) -> Tensor:
        """See ``Quantizer.codes``; the responses themselves are not held where nothing normalises them."""
        if self.norm is not None:
            return super().codes(rows, num_codewords)
        if num_codewords is None:
            return self._nearest(rows, self.num_codewords)
        codes = torch.empty(len(rows), self.num_codes, dtype=torch.int64, device=rows.device)
        for first in torch.unique(num_codewords).tolist():
            chosen = (num_codewords == first).nonzero()[:, 0]
            codes.index_copy_(0, chosen, self._nearest(rows[chosen], first))
        return codes

    def _nearest(self, rows: Tensor, first: int) -> Tensor:
        """(N, W) -> (N, M) of the first so many codewords."""
        codes = torch.empty(len(rows), self.num_codes, dtype=torch.int64, device=rows.device)
        one = rows.new_ones(len(rows), 1)
        tile_rows = max(16, TILE_SCORES // first)
        scores = rows.new_empty(min(tile_rows, len(rows)), first)
        for m, part in enumerate(self.parts):
            codewords = self.codewords[:first, part]
            extended = torch.cat([codewords.T, codewords.square().sum(1)[None] / -2])  # (w + 1, first)
            points = torch.cat([rows[:, part], one], dim=1)  # (N, w + 1)
            for start in range(0, len(rows), tile_rows):
                tile = points[start : start + tile_rows]
                codes[start : start + tile_rows, m] = largest(torch.mm(tile, extended, out=scores[: len(tile)]))
        return codes

    def responses(self, rows: Tensor) -> Tensor:
        """-|row - codeword|^2 of each part."""
        found = []
        for part in self.parts:
            x, c = rows[:, part], self.codewords[:, part]
            found.append(2 * x @ c.T - c.square().sum(1) - x.square().sum(1, keepdim=True))
        return self._normalised(found)


def _mean(values: Tensor, times: Tensor | None) -> Tensor:
    """The mean of (N, W) over rows that are there (N,) times, and columns."""
    if times is None:
        return values.mean()
    return (times.to(values.dtype) @ values).sum() / (times.sum() * values.shape[1])


def largest(scores: Tensor) -> Tensor:
    """(N, K) -> (N,) int64, the first of equals; numpy's is vectorised, and several times as fast on the CPU."""
    if scores.device.type == "cpu":
        return torch.from_numpy(np.argmax(scores.detach().numpy(), axis=1))
    return scores.argmax(1)


def allowed(responses: Tensor, num_codewords: Tensor | None) -> Tensor:
    """(N, M, K) responses, (N,) first codewords that each row may choose or None for all -> the others' are -inf."""
    if num_codewords is None:
        return responses
    return responses.masked_fill(beyond(num_codewords, responses.shape[2])[:, None], -torch.inf)


def beyond(num_codewords: Tensor, total: int) -> Tensor:
    """(N,) first codewords -> (N, K) bool, all others."""
    return torch.arange(total, device=num_codewords.device) >= num_codewords[:, None]
