"""Gradient steps of the MEC objective, one epoch at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mec.config import MecConfig
from mec.errors import TrainingError
from mec.quantize.mec_losses import loss_terms
from mec.quantize.mec_network import MecNetwork
from mec.quantize.product import ProductCodebook
from mec.quantize.residual import ResidualCodebook
from mec.quantize.sampling import draw

PlainCodebook = ProductCodebook | ResidualCodebook

_HIDDEN_UNITS = 64
_CHUNK_ROWS = 1 << 13


class MecTrainer:
    """Points, network and Adam.

    Args:
        points: (N, W) float32, about unit variance per float.
        weights: (N,) float32, above 0; on the points' device.
        start: First codewords.
        settings: Terms, encoder, optimizer.
        generator: Of all draws, on the CPU.
    """

    def __init__(
        self,
        points: Tensor,
        weights: Tensor,
        start: PlainCodebook,
        settings: MecConfig,
        generator: torch.Generator,
    ) -> None:
        self.points, self.weights, self.settings, self.generator = points, weights, settings, generator
        structure = "product" if isinstance(start, ProductCodebook) else "residual"
        hidden_units = (settings.hidden_units or _HIDDEN_UNITS) if settings.encoder == "mlp" else None
        self.network = MecNetwork(start.codewords, structure, start.num_codes, hidden_units, generator)
        self.network.to(points.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate)
        self.epoch_rows = min(len(points), settings.epoch_rows)
        self.steps_per_epoch = math.ceil(self.epoch_rows / settings.batch_size)
        self.usage = torch.zeros(start.num_codes, start.num_codewords, dtype=torch.int64, device=points.device)
        self.num_epochs = self.num_restarted = 0

    def epoch(self) -> Iterator[float]:
        """Take the steps of one epoch: ``epoch_rows`` points, or N, drawn in proportion to their weights, in batches.

        The step size falls linearly, to 0 after ``settings.epochs``.

        Yields:
            The share of the epoch done, after each step.

        Raises:
            TrainingError: A loss term is not finite; raised before the step.
        """
        self.usage.zero_()
        drawn = draw(self.weights, self.epoch_rows, self.generator)
        drawn = drawn[torch.randperm(len(drawn), generator=self.generator).to(drawn.device)]
        for i, batch in enumerate(torch.split(drawn, self.settings.batch_size)):
            share = (self.num_epochs + i / self.steps_per_epoch) / self.settings.epochs
            self.optimizer.param_groups[0]["lr"] = self.settings.learning_rate * (1 - share)
            self.step(self.points[batch], where=f"epoch {self.num_epochs + 1}, batch {i + 1}")
            yield (i + 1) / self.steps_per_epoch
        self.num_epochs += 1

    def step(self, rows: Tensor, where: str) -> None:
        """One step on a batch of (B, W) rows; ``where`` names it in an error."""
        coding = self.network(rows)
        for used, codes in zip(self.usage, coding.codes.unbind(1), strict=True):
            used += torch.bincount(codes, minlength=len(used))
        terms = loss_terms(self.network, rows, coding, self.settings, self.generator)
        values = torch.stack(list(terms.values()))
        for term, value in zip(terms, values.tolist(), strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss term {term} of quantize.mec is not finite in {where}",
                    found=value,
                    fix="lower quantize.mec.learning_rate",
                )
        self.optimizer.zero_grad()
        values.sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    @torch.no_grad()
    def restart_dead(self) -> None:
        """Move codewords that coded nothing in the last epoch onto points, drawn by weight and squared error."""
        chances = self.weights * self.errors()
        if not chances.any():
            return
        for m, codebook in enumerate(self.network.codebooks):
            dead = (self.usage[m] == 0).nonzero()[:, 0]
            if not len(dead):
                continue
            chosen = self.points[draw(chances, len(dead), self.generator)]
            codebook[dead] = self.network(chosen).latents[m]
            for moment in ("exp_avg", "exp_avg_sq"):
                self.optimizer.state[codebook][moment][dead] = 0
            self.num_restarted += len(dead)

    def codebook(self) -> PlainCodebook:
        """What a server would look up now."""
        codewords = self.network.plain_codewords()
        if self.network.parts:
            return ProductCodebook(codewords, len(self.network.parts))
        return ResidualCodebook(codewords)

    @torch.no_grad()
    def errors(self) -> Tensor:
        """(N,) squared errors of the points under their nearest codewords of ``codebook()``."""
        book = self.codebook()
        chunks = torch.split(self.points, _CHUNK_ROWS)
        return torch.cat([(rows - book.decode(book.encode(rows))).square_().sum(1) for rows in chunks])
