"""What the MEC objective trains: codewords, and an encoder and decoder for each codebook.

Codebook m codes a target of its own: sub-vector m of the row (product), or what the codebooks before left of it
(residual). Encoder m maps the target to z, the nearest codeword q is taken, decoder m maps it back, and the decoded
parts stand side by side or add up. No decoder sees more than one codeword, so decoding a codebook once gives a plain
product or residual codebook: a server looks up, and concatenates or sums, whatever the encoder was. A decoder of the
whole row would not allow that, which is why there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from mec.quantize.kmeans import nearest
from mec.quantize.product import column_parts


@dataclass(frozen=True)
class Coding:
    """A batch, coded. Tuples have one item per codebook; w_m is W for residual codes and part m's width for product.

    Attributes:
        codes: (B, M) int64.
        latents: z, (B, w_m) each.
        codewords: q, the nearest codewords, (B, w_m) each, with a gradient to them.
        decoded: (B, W), as straight-through decodes it: the gradient goes to decoder and encoder, past q. Without
            an encoder there is nothing to pass it on to, and it goes to q.
    """

    codes: Tensor
    latents: tuple[Tensor, ...]
    codewords: tuple[Tensor, ...]
    decoded: Tensor


class SkipMlp(nn.Module):
    """x + MLP(x), whose last layer starts at 0: the identity, so that training starts at the k-means codebook.

    Args:
        width: Floats in and out.
        hidden_units: Of the one hidden layer.
        generator: Of the first layer's weights.
    """

    def __init__(self, width: int, hidden_units: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, hidden_units), nn.Linear(hidden_units, width)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu", generator=generator)
        for zeros in (self.first.bias, self.last.weight, self.last.bias):
            nn.init.zeros_(zeros)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, w) -> (B, w)."""
        changed: Tensor = self.last(self.first(rows).relu())
        return rows + changed


class MecNetwork(nn.Module):
    """M codebooks with their encoders and decoders.

    Args:
        codewords: First codewords; (K, W) for product, (M, K, W) for residual codes.
        structure: ``product`` or ``residual``.
        num_codes: M.
        hidden_units: Of encoders and decoders; None for none.
        generator: Of their first weights.
    """

    def __init__(
        self,
        codewords: Tensor,
        structure: str,
        num_codes: int,
        hidden_units: int | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.width, self.num_codewords = codewords.shape[-1], codewords.shape[-2]
        self.parts = column_parts(self.width, num_codes) if structure == "product" else None
        split = [codewords[:, p] for p in self.parts] if self.parts else codewords.unbind(0)
        self.codebooks = nn.ParameterList(nn.Parameter(c.clone().contiguous()) for c in split)
        self.has_encoder = hidden_units is not None

        def networks() -> nn.ModuleList:
            if hidden_units is None:
                return nn.ModuleList(nn.Identity() for _ in split)
            return nn.ModuleList(SkipMlp(c.shape[1], hidden_units, generator) for c in split)

        self.encoders, self.decoders = networks(), networks()

    def forward(self, rows: Tensor) -> Coding:
        """Code a batch of (B, W) rows.

        What is left of a row is taken as data: the terms of one codebook do not reach the codebooks before it.
        """
        codes, latents, codewords, decoded = [], [], [], []
        remainder = rows
        for m, codebook in enumerate(self.codebooks):
            target = rows[:, self.parts[m]] if self.parts else remainder
            z = self.encoders[m](target)  # (B, w_m)
            code = nearest(z.detach(), codebook.detach())  # (B,)
            q = embedding(code, codebook)  # (B, w_m)
            decoded.append(self.decoders[m](z + (q - z).detach() if self.has_encoder else q))
            remainder = remainder if self.parts else remainder - decoded[-1].detach()
            codes.append(code)
            latents.append(z)
            codewords.append(q)
        return Coding(torch.stack(codes, 1), tuple(latents), tuple(codewords), self._joined(decoded))

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Decoders of M latents, (..., w_m) each -> (..., W)."""
        return self._joined([decoder(z) for decoder, z in zip(self.decoders, latents, strict=True)])

    def decoded_codebooks(self) -> tuple[Tensor, ...]:
        """All codewords as rows: (K, w_m) each."""
        return tuple(decoder(codebook) for decoder, codebook in zip(self.decoders, self.codebooks, strict=True))

    def look_up(self, decoded_codebooks: Sequence[Tensor], codes: Tensor) -> Tensor:
        """(..., M) codes in ``decoded_codebooks()`` -> (..., W) rows."""
        return self._joined([embedding(codes[..., m], book) for m, book in enumerate(decoded_codebooks)])

    @torch.no_grad()
    def plain_codewords(self) -> Tensor:
        """Decoded codewords as a codebook stores them: (K, W) for product, (M, K, W) for residual codes."""
        books = self.decoded_codebooks()
        return torch.cat(books, dim=1) if self.parts else torch.stack(books)

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        if self.parts:
            return torch.cat(list(parts), dim=-1)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total
