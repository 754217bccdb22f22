"""Terms of the MEC objective: what each moves, straight-through gradients, negatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mec.config import MecConfig
from mec.quantize.mec_losses import altered_codes, contrastive, lack_of_entropy, loss_terms
from mec.quantize.mec_network import MecNetwork
from mec.quantize.product import ProductCodebook
from mec.quantize.residual import ResidualCodebook

STRUCTURES = ["product", "residual"]
OFF = {"reconstruction": 0.0, "codebook": 0.0, "entropy": 0.0, "contrastive": 0.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_network(structure: str, *, encoder: bool, num_codes: int = 2, hidden_units: int = 3) -> MecNetwork:
    """Width 5, 4 codewords; the encoders' and decoders' last layers moved off 0."""
    shape = (4, 5) if structure == "product" else (num_codes, 4, 5)
    codewords = torch.randn(shape, generator=generator(1))
    network = MecNetwork(codewords, structure, num_codes, hidden_units if encoder else None, generator(2))
    for parameter in [*network.encoders.parameters(), *network.decoders.parameters()]:
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator(parameter.numel()))
    return network


def some_rows(num_rows: int = 40) -> Tensor:
    return torch.randn(num_rows, 5, generator=generator(3))


def moved(network: MecNetwork, loss: Tensor) -> set[str]:
    """The parameter groups that a loss has a gradient to."""
    network.zero_grad()
    loss.backward()
    return {
        name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and bool(p.grad.abs().any())
    }


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(
    ("encoder", "term", "expected"),
    [
        ("mlp", "reconstruction", {"encoders", "decoders"}),
        ("mlp", "codebook", {"codebooks"}),
        ("mlp", "commitment", {"encoders"}),
        ("mlp", "entropy", {"encoders", "codebooks"}),
        ("mlp", "contrastive", {"encoders", "decoders", "codebooks"}),
        ("none", "reconstruction", {"codebooks"}),
        ("none", "codebook", {"codebooks"}),
        ("none", "entropy", {"codebooks"}),
        ("none", "contrastive", {"codebooks"}),
    ],
)
def test_each_term_moves_what_it_should_and_nothing_else(
    structure: str, encoder: str, term: str, expected: set[str]
) -> None:
    settings = MecConfig.model_construct(**{**MecConfig(encoder=encoder).model_dump(), **OFF, "commitment": 0.0})
    settings = settings.model_copy(update={term: 1.0})
    network = make_network(structure, encoder=encoder == "mlp")
    rows = some_rows()
    terms = loss_terms(network, rows, network(rows), settings, generator())
    assert list(terms) == [term]
    assert moved(network, terms[term]) == expected


@pytest.mark.parametrize("structure", STRUCTURES)
def test_terms_of_later_codebooks_do_not_reach_earlier_ones(structure: str) -> None:
    network = make_network(structure, encoder=True)
    coding = network(some_rows())
    (coding.latents[1] - coding.codewords[1]).square().sum().backward()
    touched = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().any()}
    assert touched
    assert all(name.split(".")[1] == "1" for name in touched)


def test_weights_scale_their_terms() -> None:
    network, rows = make_network("residual", encoder=True), some_rows()
    coding = network(rows)
    one = loss_terms(network, rows, coding, MecConfig(encoder="mlp"), generator())
    doubled = MecConfig(encoder="mlp", reconstruction=2, codebook=2, commitment=0.5, entropy=2e-4, contrastive=4e-3)
    two = loss_terms(network, rows, coding, doubled, generator())
    assert list(one) == ["reconstruction", "codebook", "commitment", "entropy", "contrastive"]
    for term, value in one.items():
        assert float(two[term].detach()) == pytest.approx(2 * float(value.detach()), rel=1e-5)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_straight_through_gradient_is_that_of_the_relaxed_objective(structure: str) -> None:
    network = make_network(structure, encoder=True).double()
    rows = some_rows(12).double()
    coding = network(rows)
    (rows - coding.decoded).square().mean().backward()

    offsets = [(q - z).detach() for q, z in zip(coding.codewords, coding.latents, strict=True)]
    first = network.decoders[0](coding.codewords[0]).detach()
    targets = [rows[:, :3], rows[:, 3:]] if structure == "product" else [rows, rows - first]

    def relaxed() -> float:
        """The codeword taken is z plus a constant: what the discrete choice looks like from close by."""
        parts = [
            network.decoders[m](network.encoders[m](targets[m]) + offsets[m]).detach() for m in range(len(targets))
        ]
        decoded = torch.cat(parts, 1) if structure == "product" else parts[0] + parts[1]
        return float((rows - decoded).square().mean())

    step = 1e-6
    for parameter in [*network.encoders.parameters(), *network.decoders.parameters()]:
        flat, gradient = parameter.data.view(-1), parameter.grad
        assert gradient is not None
        for i, found in enumerate(gradient.view(-1).tolist()):
            value = float(flat[i])
            flat[i] = value + step
            above = relaxed()
            flat[i] = value - step
            below = relaxed()
            flat[i] = value
            assert found == pytest.approx((above - below) / (2 * step), abs=1e-7)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("encoder", [True, False])
def test_decoded_codewords_look_up_to_what_was_trained(structure: str, encoder: bool) -> None:
    network, rows = make_network(structure, encoder=encoder), some_rows()
    coding = network(rows)
    plain = network.plain_codewords()
    book = ProductCodebook(plain, 2) if structure == "product" else ResidualCodebook(plain)
    assert torch.allclose(book.decode(coding.codes), coding.decoded, atol=1e-5)
    assert torch.allclose(network.look_up(network.decoded_codebooks(), coding.codes), coding.decoded, atol=1e-5)


def test_an_encoder_starts_as_the_identity() -> None:
    codewords, rows = torch.randn(4, 5, generator=generator()), some_rows()
    network = MecNetwork(codewords, "product", 2, 8, generator())
    coding = network(rows)
    assert torch.equal(torch.cat(coding.latents, 1), rows)
    assert torch.equal(coding.codes, ProductCodebook(codewords, 2).encode(rows))
    assert torch.equal(network.plain_codewords(), codewords)


@pytest.mark.parametrize("rho", [0.1, 0.5, 1.0])
def test_negatives_keep_1_minus_rho_of_their_indices_and_differ_row_by_row(rho: float) -> None:
    codes = torch.randint(0, 64, (2000, 4), generator=generator())
    negatives = altered_codes(codes, 8, rho, 64, generator(1))
    assert negatives.shape == (2000, 8, 4)
    assert int(negatives.min()) >= 0
    assert int(negatives.max()) < 64
    kept = (negatives == codes[:, None]).float()
    error = 5 * math.sqrt(rho * (1 - rho) / kept.numel())
    assert float(kept.mean()) == pytest.approx(1 - rho, abs=error + 1e-9)
    changes = (negatives - codes[:, None]) % 64
    assert len(changes.flatten(1).unique(dim=0)) > 1900
    replaced = negatives[kept == 0]
    assert len(replaced.unique()) == 64


def test_the_same_code_has_other_negatives_in_other_rows() -> None:
    codes = torch.full((500, 2), 7)
    negatives = altered_codes(codes, 4, 0.5, 32, generator())
    assert len(negatives.flatten(1).unique(dim=0)) > 450


def test_contrastive_is_the_cross_entropy_of_cosines() -> None:
    network, rows = make_network("residual", encoder=False), some_rows(3)
    coding = network(rows)
    negatives = altered_codes(coding.codes, 2, 1.0, 4, generator())
    found = float(contrastive(network, rows, coding, negatives, 0.5).detach())
    expected = 0.0
    for i, row in enumerate(rows):
        candidates = [coding.codes[i], *negatives[i]]
        decoded = [network.codebooks[0][c[0]] + network.codebooks[1][c[1]] for c in candidates]
        scores = torch.stack([torch.cosine_similarity(row, d, dim=0) / 0.5 for d in decoded])
        expected -= float(scores.log_softmax(0)[0].detach()) / 3
    assert found == pytest.approx(expected, rel=1e-5)


def test_negatives_equal_to_the_code_do_not_count() -> None:
    network, rows = make_network("product", encoder=False), some_rows()
    coding = network(rows)
    unaltered = coding.codes[:, None].repeat(1, 3, 1)
    loss = contrastive(network, rows, coding, unaltered, 0.1)
    assert float(loss.detach()) == 0
    assert moved(network, loss) == set()


def test_lack_of_entropy_is_between_even_and_collapsed() -> None:
    codewords = 10 * torch.eye(4)[None]
    network = MecNetwork(codewords, "residual", 1, None, generator())
    even = lack_of_entropy(network, network(codewords[0]), 0.1)
    assert float(even.detach()) == pytest.approx(0, abs=1e-5)
    collapsed = lack_of_entropy(network, network(codewords[0, :1].repeat(8, 1)), 0.1)
    assert float(collapsed.detach()) == pytest.approx(1, abs=1e-5)
    half = lack_of_entropy(network, network(codewords[0, :2]), 0.1)
    assert float(half.detach()) == pytest.approx(0.5, abs=1e-5)


def test_terms_that_are_off_are_not_computed() -> None:
    network, rows = make_network("residual", encoder=False), some_rows()
    draws = generator()
    state = draws.get_state()
    settings = MecConfig(entropy=0, contrastive=0, codebook=0)
    assert list(loss_terms(network, rows, network(rows), settings, draws)) == ["reconstruction"]
    assert torch.equal(draws.get_state(), state)
