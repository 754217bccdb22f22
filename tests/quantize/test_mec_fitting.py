"""Training to the MEC objective: quality, checkpoints, restarts, determinism."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mec.config import MecConfig, QuantizeConfig
from mec.errors import ConfigError, TrainingError
from mec.quantize.fit_watch import FitWatch
from mec.quantize.fitting import Codebook, fit_codebook
from mec.quantize.kmeans import nearest
from mec.quantize.mec_fitting import fit_mec
from mec.quantize.mec_training import MecTrainer
from mec.quantize.plan import VocabularyPlan
from mec.quantize.residual import ResidualCodebook
from mec.quantize.sampling import draw
from tests.quantize.tables import clustered, zipf_counts

QUICK = {"epochs": 6, "batch_size": 256}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitted(
    rows: Tensor, weights: Tensor, mec: dict[str, Any] | None, *, seed: int = 0, **changes: Any
) -> tuple[Codebook, dict[str, float]]:
    objective = {"objective": "kmeans"} if mec is None else {"objective": "mec", "mec": {**QUICK, **mec}}
    settings = QuantizeConfig.model_validate({"num_codewords": 16, **objective, **changes})
    watch = FitWatch()
    plan = VocabularyPlan(settings.structure, settings.num_codes, settings.num_codewords)
    return fit_codebook(rows, weights, plan, settings, seed=seed, watch=watch), watch.facts


def distortion(book: Codebook, rows: Tensor, weights: Tensor) -> float:
    return float((rows - book.decode(book.encode(rows))).square().sum(1) @ weights)


@pytest.fixture
def planted() -> tuple[Tensor, Tensor]:
    """1,000 rows around 40 centers, far from the origin and of a scale of their own; Zipf weights."""
    rows = 0.05 * torch.from_numpy(clustered(1000, 9)) + 2
    return rows, torch.from_numpy(np.sqrt(zipf_counts(1000) + 1)).float()


@pytest.mark.parametrize("encoder", ["none", "mlp"])
@pytest.mark.parametrize(("structure", "num_codes"), [("residual", 1), ("residual", 3), ("product", 4)])
def test_no_worse_than_kmeans_on_planted_clusters(
    planted: tuple[Tensor, Tensor], structure: str, num_codes: int, encoder: str
) -> None:
    rows, weights = planted
    shape = {"structure": structure, "num_codes": num_codes}
    start, no_facts = fitted(rows, weights, None, **shape)
    book, facts = fitted(rows, weights, {"encoder": encoder}, **shape)
    before, after = distortion(start, rows, weights), distortion(book, rows, weights)
    assert after < 1.02 * before
    assert book.codewords.shape == start.codewords.shape
    assert type(book) is type(start)
    assert no_facts == {}
    assert facts["kmeans_distortion"] == pytest.approx(before, rel=1e-3)
    assert facts["mec_distortion"] == pytest.approx(after, rel=1e-3)


def test_residual_codebooks_trained_together_beat_kmeans_one_by_one(planted: tuple[Tensor, Tensor]) -> None:
    _, facts = fitted(*planted, {"epochs": 20, "learning_rate": 5e-3}, num_codes=3)
    assert facts["mec_distortion"] < 0.97 * facts["kmeans_distortion"]


def test_weights_pull_codewords(planted: tuple[Tensor, Tensor]) -> None:
    rows, weights = planted
    start = ResidualCodebook(rows[:1].repeat(2, 1)[None] + torch.tensor([[0.0], [1.0]]))
    settings = MecConfig(epochs=60, learning_rate=0.05, batch_size=256, entropy=0, contrastive=0, restart=False)
    book = fit_mec(rows, weights, start, settings, seed=0, watch=FitWatch())
    mean = (weights @ rows) / weights.sum()  # the second codeword codes nothing, so the first must find this
    plain = rows.mean(0)
    assert (book.codewords[0, 0] - mean).norm() < 0.2 * (plain - mean).norm()


def test_only_reconstruction_is_plain_gradient_vector_quantization(planted: tuple[Tensor, Tensor]) -> None:
    rows, weights = planted
    rows = (rows - rows.mean(0)) / rows.std()
    start = rows[:16].clone()
    settings = MecConfig(codebook=0, entropy=0, contrastive=0, restart=False, epochs=3, batch_size=100)
    trainer = MecTrainer(rows, weights, ResidualCodebook(start[None].clone()), settings, generator(5))
    for _ in range(3):
        assert list(trainer.epoch())[-1] == 1

    codewords = torch.nn.Parameter(start.clone())
    optimizer, draws = torch.optim.Adam([codewords], lr=settings.learning_rate), generator(5)
    for step in range(30):
        if step % 10 == 0:
            drawn = draw(weights, 1000, draws)
            drawn = drawn[torch.randperm(1000, generator=draws)]
        batch = rows[drawn[step % 10 * 100 :][:100]]
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - step / 30)
        optimizer.zero_grad()
        (batch - codewords[nearest(batch, codewords.detach())]).square().mean().backward()
        optimizer.step()
    assert not torch.allclose(start, codewords, atol=1e-3)
    assert torch.allclose(trainer.codebook().codewords[0], codewords.detach(), atol=1e-6)


def test_an_epoch_draws_no_more_rows_than_asked(planted: tuple[Tensor, Tensor]) -> None:
    rows, weights = planted  # 1,000 of them
    for epoch_rows, steps in ((250, 3), (1000, 10), (5000, 10)):
        settings = MecConfig(epochs=1, batch_size=100, epoch_rows=epoch_rows)
        trainer = MecTrainer(rows, weights, ResidualCodebook(rows[:16][None].clone()), settings, generator())
        done = list(trainer.epoch())
        assert len(done) == steps
        assert done[-1] == 1
        assert int(trainer.usage.sum()) == min(epoch_rows, 1000)


def test_same_seed_same_codewords(planted: tuple[Tensor, Tensor]) -> None:
    for encoder in ("none", "mlp"):
        one, again, other = (
            fitted(*planted, {"encoder": encoder}, seed=seed, num_codes=2)[0].codewords for seed in (3, 3, 4)
        )
        assert torch.equal(one, again)
        assert not torch.equal(one, other)


def collapsed(rows: Tensor) -> ResidualCodebook:
    """One codeword amid the rows, 15 so far off that they code nothing."""
    far = 3 + 0.1 * torch.randn(16, rows.shape[1], generator=generator())
    far[0] = rows.mean(0)
    return ResidualCodebook(far[None])


def live(book: ResidualCodebook, rows: Tensor) -> int:
    return len(book.encode(rows).unique())


def test_entropy_raises_live_codewords_from_a_collapsed_start() -> None:
    rows = torch.from_numpy(clustered(1000, 4))
    rows = (rows - rows.mean(0)) / rows.std()
    found = {}
    for entropy in (0.0, 1.0):
        options = {"entropy_temperature": 5.0} if entropy else {}
        settings = MecConfig(
            entropy=entropy, contrastive=0, restart=False, epochs=60, batch_size=250, learning_rate=0.05, **options
        )
        trainer = MecTrainer(rows, torch.ones(1000), collapsed(rows), settings, generator())
        before = live(trainer.codebook(), rows)
        for _ in range(60):
            list(trainer.epoch())
        found[entropy] = live(trainer.codebook(), rows)
    assert before <= 2
    assert found[0.0] <= 4
    assert found[1.0] >= 12


@pytest.mark.parametrize("encoder", ["none", "mlp"])
def test_dead_codewords_restart(encoder: str) -> None:
    rows = torch.from_numpy(clustered(1000, 4))
    rows = (rows - rows.mean(0)) / rows.std()
    settings = MecConfig(encoder=encoder, epochs=8, batch_size=250)
    trainer = MecTrainer(rows, torch.ones(1000), collapsed(rows), settings, generator())
    list(trainer.epoch())
    dead = trainer.usage[0] == 0
    others = trainer.network.codebooks[0].detach()[~dead].clone()
    trainer.restart_dead()
    assert int(dead.sum()) >= 14
    assert trainer.num_restarted == int(dead.sum())
    moved = trainer.network.codebooks[0].detach()
    assert torch.equal(moved[~dead], others)
    state = trainer.optimizer.state[trainer.network.codebooks[0]]
    assert not state["exp_avg"][dead].any()
    assert not state["exp_avg_sq"][dead].any()
    assert live(trainer.codebook(), rows) >= 14
    if encoder == "none":  # onto rows, then
        assert bool((moved[dead][:, None] == rows).all(2).any(1).all())


def test_no_restart_where_switched_off_or_every_row_is_exact() -> None:
    rows = torch.from_numpy(clustered(5, 4)).repeat(100, 1)
    for restart in (True, False):
        book, facts = fitted(rows, torch.ones(500), {"restart": restart})
        assert distortion(book, rows, torch.ones(500)) < 1e-2
    settings = MecConfig(restart=False, **QUICK)
    start = ResidualCodebook(torch.cat([rows[:1], rows[:1] + 100])[None])
    watch = FitWatch()
    fit_mec(rows, torch.ones(500), start, settings, seed=0, watch=watch)
    assert facts["restarted"] == watch.facts["restarted"] == 0


def test_all_rows_equal() -> None:
    rows = torch.full((300, 4), 7.0)
    book, facts = fitted(rows, torch.ones(300), {"encoder": "mlp"})
    assert torch.allclose(book.decode(book.encode(rows)), rows, atol=1e-2)
    assert np.isfinite(list(facts.values())).all()


def test_checkpoint_keeps_the_best_reconstruction(
    planted: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, weights = planted
    seen: list[float] = []
    original = MecTrainer.errors

    def watched(self: MecTrainer) -> Tensor:
        errors = original(self)
        seen.append(float(weights @ errors))
        return errors

    monkeypatch.setattr(MecTrainer, "errors", watched)
    # a term that leads away from the k-means codebook step by step: the first epoch, not the last, is the best
    options = {"contrastive": 5.0, "learning_rate": 0.005, "restart": False, "epochs": 8}
    book, facts = fitted(rows, weights, options)
    after = seen[1:]
    assert len(after) == 8
    assert facts["kept_epoch"] == 1 + int(np.argmin(after))
    assert min(after) < after[-1]
    assert facts["mec_distortion"] == pytest.approx(distortion(book, rows, weights), rel=1e-3)
    last, last_facts = fitted(rows, weights, {**options, "checkpoint": "last"})
    assert last_facts["kept_epoch"] == 8
    assert distortion(last, rows, weights) > distortion(book, rows, weights)
    _, stopped = fitted(rows, weights, {**options, "patience": 1})
    assert stopped["epochs"] == 1 + next(i for i in range(1, 8) if after[i] >= min(after[:i]))


def test_steps_depend_on_max_points_not_on_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = MecTrainer.step

    def counted(self: MecTrainer, rows: Tensor, where: str) -> None:
        sizes.append(len(rows))
        original(self, rows, where)

    monkeypatch.setattr(MecTrainer, "step", counted)
    rows = torch.from_numpy(clustered(20_000, 3))
    fitted(rows, torch.ones(20_000), {"epochs": 2, "batch_size": 100}, max_points=1000)
    assert max(sizes) == 100
    assert sum(sizes) <= 2 * 1000


def test_a_loss_that_is_not_finite_stops_before_the_step() -> None:
    rows = torch.randn(64, 3, generator=generator())
    trainer = MecTrainer(rows, torch.ones(64), ResidualCodebook(rows[None, :4].clone()), MecConfig(), generator())
    before = trainer.codebook().codewords.clone()
    with pytest.raises(TrainingError, match=r"reconstruction of quantize\.mec is not finite in epoch 1, batch 2"):
        trainer.step(rows * torch.nan, where="epoch 1, batch 2")
    assert torch.equal(trainer.codebook().codewords, before)


def test_a_device_that_is_not_there(planted: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ConfigError, match=r"quantize\.device=cuda:99.*no such device here"):
        fitted(*planted, {}, device="cuda:99")


@pytest.mark.parametrize("structure", ["product", "residual"])
def test_any_device_is_as_good_as_the_cpu(planted: tuple[Tensor, Tensor], structure: str, device: str) -> None:
    rows, weights = planted
    shape = {"structure": structure, "num_codes": 2}
    books = [fitted(rows, weights, {"encoder": "mlp"}, device=name, **shape)[0] for name in ("cpu", device)]
    cpu, other = (distortion(book, rows, weights) for book in books)
    assert books[1].codewords.device.type == "cpu"
    assert other == pytest.approx(cpu, rel=0 if device == "cpu" else 0.02)
