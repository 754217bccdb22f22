"""The terms of the MEC objective (arXiv 2502.15355), each a mean over a batch.

Batches are drawn in proportion to the popularity weights, so a batch mean estimates a weighted mean.

=============== ============================ =========================================
term            formula                      moves
=============== ============================ =========================================
reconstruction  |e - dec(q)|^2 / W           encoder, decoder; codewords if no encoder
codebook        sum_m |sg(z_m) - q_m|^2 / W  codewords
commitment      sum_m |z_m - sg(q_m)|^2 / W  encoder
entropy         1 - H(mean_i p_i) / ln K     encoder, codewords
contrastive     InfoNCE of cosines           encoder, decoder, codewords
=============== ============================ =========================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from mec.config import MecConfig
from mec.quantize.mec_network import Coding, MecNetwork


def loss_terms(
    network: MecNetwork, rows: Tensor, coding: Coding, settings: MecConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """Weighted terms of one batch; those of weight 0 are left out, and not computed.

    Args:
        network: What is trained.
        rows: (B, W) float32.
        coding: Of the rows.
        settings: Weights and temperatures.
        generator: Of the negatives, on the CPU.

    Returns:
        Term -> scalar.
    """
    terms: dict[str, Tensor] = {}
    if settings.reconstruction:
        terms["reconstruction"] = settings.reconstruction * reconstruction(rows, coding)
    if settings.codebook:
        terms["codebook"] = settings.codebook * codebook(coding)
    if settings.commitment_weight:
        terms["commitment"] = settings.commitment_weight * commitment(coding)
    if settings.entropy:
        terms["entropy"] = settings.entropy * lack_of_entropy(network, coding, settings.entropy_temperature)
    if settings.contrastive:
        negatives = altered_codes(
            coding.codes, settings.negatives, settings.replace_probability, network.num_codewords, generator
        )
        value = contrastive(network, rows, coding, negatives, settings.contrastive_temperature)
        terms["contrastive"] = settings.contrastive * value
    return terms


def reconstruction(rows: Tensor, coding: Coding) -> Tensor:
    """Mean squared error per float of the decoded rows; straight-through where there is an encoder."""
    return (rows - coding.decoded).square().mean()


def codebook(coding: Coding) -> Tensor:
    """How far codewords are from what they code, which stands still: |sg(z) - q|^2."""
    return _squared_distance([z.detach() for z in coding.latents], coding.codewords, coding.decoded.shape[1])


def commitment(coding: Coding) -> Tensor:
    """How far the encoder's output is from codewords, which stand still: |z - sg(q)|^2."""
    return _squared_distance(coding.latents, [q.detach() for q in coding.codewords], coding.decoded.shape[1])


def lack_of_entropy(network: MecNetwork, coding: Coding, temperature: float) -> Tensor:
    """1 - H / ln K of the batch's mean soft assignment softmax(-|z - c|^2 / (w tau)), averaged over codebooks."""
    lacks = []
    for z, codewords in zip(coding.latents, network.codebooks, strict=True):
        # |z|^2 is the same for all codewords, and softmax does not see it; scaling z costs less than scaling (B, K)
        scale = 1 / (temperature * z.shape[1])
        logits = torch.addmm(codewords.square().sum(1) * -scale, z * (2 * scale), codewords.T)  # (B, K)
        shares = logits.softmax(1).mean(0)  # (K,)
        entropy = -torch.special.xlogy(shares, shares.clamp(min=1e-30)).sum()
        lacks.append(1 - entropy / math.log(network.num_codewords))
    return torch.stack(lacks).mean()


def altered_codes(
    codes: Tensor, num_negatives: int, replace_probability: float, num_codewords: int, generator: torch.Generator
) -> Tensor:
    """Semi-synthetic negatives: each row's own code, each index replaced by another with probability rho.

    Args:
        codes: (B, M) int64.
        num_negatives: n, per row.
        replace_probability: rho.
        num_codewords: K; a replacement is uniform over the K - 1 others, so that 1 - rho of the indices stay.
        generator: Source of the draws, on the CPU.

    Returns:
        (B, n, M) int64; different draws for every row and negative.
    """
    shape = (len(codes), num_negatives, codes.shape[1])
    replaced = torch.rand(shape, generator=generator) < replace_probability
    shifts = torch.randint(1, num_codewords, shape, generator=generator) * replaced
    return (codes[:, None] + shifts.to(codes.device)) % num_codewords


def contrastive(network: MecNetwork, rows: Tensor, coding: Coding, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE: each row must be nearer, by cosine, to its own decoded code than to altered ones.

    Args:
        network: Decodes.
        rows: (B, W), the anchors.
        coding: Of the rows; q passes its gradient to the codewords and, straight-through, to the encoder.
        negatives: (B, n, M) codes; those equal to the row's own are left out.
        temperature: Divides the cosines.
    """
    positives = network.decode(
        [q + (z - z.detach()) for q, z in zip(coding.codewords, coding.latents, strict=True)]
        if network.has_encoder
        else coding.codewords
    )
    decoded = network.look_up(network.decoded_codebooks(), negatives)  # (B, n, W)
    candidates = torch.cat([positives[:, None], decoded], dim=1)  # (B, 1 + n, W)
    cosines = (normalize(candidates, dim=2) @ normalize(rows, dim=1)[:, :, None])[:, :, 0]  # (B, 1 + n)
    unaltered = (negatives == coding.codes[:, None]).all(2)  # (B, n)
    mask = torch.cat([torch.zeros_like(unaltered[:, :1]), unaltered], dim=1)
    logits = (cosines / temperature).masked_fill(mask, -torch.inf)
    return cross_entropy(logits, torch.zeros(len(rows), dtype=torch.int64, device=rows.device))


def _squared_distance(these: Sequence[Tensor], those: Sequence[Tensor], width: int) -> Tensor:
    """Mean over the batch of the codebooks' summed squared distances, per float of the row."""
    distances = [(a - b).square().sum(1).mean() for a, b in zip(these, those, strict=True)]
    return torch.stack(distances).sum() / width
