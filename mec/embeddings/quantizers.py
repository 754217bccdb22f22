"""The two quantizers of Chen, Li and Sun, "Differentiable product quantization for end-to-end embedding compression",
ICML 2020: rows go in, codewords come out, and gradients pass.

Both give K responses per part m of a row, and choose the largest. The authors' code normalises responses, each
codeword's over the batch, without scale and shift, so that codewords far from all rows are chosen too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mec.embeddings.code_plan import decode
from mec.models.batch_norm import BatchNorm
from mec.quantize.product import column_parts


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

    def forward(self, rows: Tensor, num_codewords: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """In training: (N, W), see ``codes`` -> (N, W) of codewords, and a scalar loss term if there is one."""
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

    def forward(self, rows: Tensor, num_codewords: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, W), see ``codes`` -> (N, W) and the term."""
        with torch.no_grad():
            codes = self.codes(rows, num_codewords)
        picked = decode(self.codewords, codes)
        codebook, commitment = self.weights
        term = codebook * (picked - rows.detach()).square().mean()
        if commitment:
            term = term + commitment * (picked.detach() - rows).square().mean()
        return rows + (picked - rows).detach(), term

    def responses(self, rows: Tensor) -> Tensor:
        """-|row - codeword|^2 of each part."""
        found = []
        for part in self.parts:
            x, c = rows[:, part], self.codewords[:, part]
            found.append(2 * x @ c.T - c.square().sum(1) - x.square().sum(1, keepdim=True))
        return self._normalised(found)


class SoftmaxQuantizer(Quantizer):
    """DPQ-SX: the response is the product with a key, what comes out is a value.

        p = softmax(response / temperature)
        forward:  value of the largest response
        backward: that of sum_k p_k value_k for rows and keys, of the chosen value for values

    ``codewords`` are the values; keys are training's alone.

    Args:
        temperature: Of the softmax.
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
        temperature: float,
    ) -> None:
        super().__init__(width, num_codes, num_codewords, init_std, batch_norm, generator)
        self.keys = nn.Parameter(torch.randn(num_codewords, width, generator=generator))
        self.temperature = temperature

    def forward(self, rows: Tensor, num_codewords: Tensor | None = None) -> tuple[Tensor, None]:
        """(N, W), see ``codes`` -> (N, W), and no term."""
        responses = allowed(self.responses(rows), num_codewords)
        picked = decode(self.codewords, responses.detach().argmax(dim=2))
        soft = torch.softmax(responses / self.temperature, dim=2)  # (N, M, K)
        values = self.codewords.detach()
        mean = torch.cat([soft[:, m] @ values[:, part] for m, part in enumerate(self.parts)], dim=1)
        return picked + (mean - mean.detach()), None

    def responses(self, rows: Tensor) -> Tensor:
        """row . key of each part."""
        return self._normalised([rows[:, part] @ self.keys[:, part].T for part in self.parts])


def allowed(responses: Tensor, num_codewords: Tensor | None) -> Tensor:
    """(N, M, K) responses, (N,) first codewords that each row may choose or None for all -> the others' are -inf."""
    if num_codewords is None:
        return responses
    beyond = torch.arange(responses.shape[2], device=responses.device) >= num_codewords[:, None]  # (N, K)
    return responses.masked_fill(beyond[:, None], -torch.inf)
