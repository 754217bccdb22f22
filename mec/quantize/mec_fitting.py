"""Fit a codebook to the MEC objective (arXiv 2502.15355), from the k-means codebook on.

The published code differs from the paper in ways that keep it from learning; here the encoder gets a straight-through
gradient, codewords are drawn to what they code, negatives differ row by row, soft assignments give the entropy a
gradient, and the checkpoint is chosen by reconstruction. A step's cost depends on the batch, M, K and W, not on V.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mec.config import MecConfig
from mec.quantize.fit_watch import FitWatch
from mec.quantize.mec_training import MecTrainer, PlainCodebook
from mec.quantize.product import ProductCodebook
from mec.quantize.residual import ResidualCodebook


def fit_mec(
    points: Tensor, weights: Tensor, start: PlainCodebook, settings: MecConfig, *, seed: int, watch: FitWatch
) -> PlainCodebook:
    """Train on from a codebook, on the points' device; on the CPU, the same arguments give the same codewords.

    Args:
        points: (N, W) float32, finite.
        weights: (N,) float32, above 0, on the points' device.
        start: The k-means codebook of these points, on their device.
        settings: Terms, encoder, optimizer.
        seed: Of batches, negatives, restarts and first encoder weights.
        watch: Its facts become: weighted distortion of the points, coded by the nearest codewords, before
            (``kmeans_distortion``) and after (``mec_distortion``); ``epochs`` trained, ``kept_epoch``, and
            ``restarted`` codewords.

    Returns:
        A codebook of the same kind, on the points' device: that of the epoch after which the weighted distortion was
        least, or of the last one. The start is not among them: where k-means is near an optimum, the terms beside
        reconstruction would always lose against it, and the objective would be k-means by another name.

    Raises:
        TrainingError: A loss term is not finite.
    """
    center, scale = _center_and_scale(points, weights)
    points = (points - center).div_(scale)
    generator = torch.Generator().manual_seed(seed)
    trainer = MecTrainer(points, weights, _moved(start, -center / scale, 1 / scale), settings, generator)
    before = float(weights @ trainer.errors())
    best, best_distortion, kept_epoch = trainer.codebook(), math.inf, 0
    for epoch in range(settings.epochs):
        if settings.patience and epoch - kept_epoch >= settings.patience:
            break
        if epoch and settings.restart:
            trainer.restart_dead()
        for done in trainer.epoch():
            watch.progress((epoch + done) / settings.epochs, f"epoch {epoch + 1}/{settings.epochs}")
        distortion = float(weights @ trainer.errors())
        if distortion < best_distortion or settings.checkpoint == "last":
            best, best_distortion, kept_epoch = trainer.codebook(), distortion, epoch + 1
    watch.facts |= {
        "kmeans_distortion": before * scale**2,
        "mec_distortion": best_distortion * scale**2,
        "epochs": trainer.num_epochs,
        "kept_epoch": kept_epoch,
        "restarted": trainer.num_restarted,
    }
    return _moved(best, center, scale)


def _center_and_scale(points: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """Weighted mean (W,) and standard deviation per float, over all floats; 1 where all points are equal."""
    center = (weights @ points) / weights.sum()
    squares = (points - center).square_().sum(1).double() @ weights.double()
    variance = float(squares / weights.sum(dtype=torch.float64)) / points.shape[1]
    return center, math.sqrt(variance) or 1.0


def _moved(book: PlainCodebook, shift: Tensor, factor: float) -> PlainCodebook:
    """The codebook of points that are multiplied by a factor and then shifted by (W,)."""
    codewords = book.codewords * factor
    if isinstance(book, ProductCodebook):
        return ProductCodebook(codewords + shift, book.num_codes)
    codewords[0] += shift
    return ResidualCodebook(codewords)
