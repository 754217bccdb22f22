"""mec's codes as a method: those of the quantize step, its folds and its budgets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mec.bundle import open_bundle
from mec.config import QuantizeConfig
from mec.data.folds import Folds
from mec.data.layout import FieldLayout
from mec.embeddings.coded import CodedEmbedding
from mec.embeddings.mec_coding import value_weights
from mec.embeddings.mec_settings import MecSettings
from mec.embeddings.method import MethodInputs
from mec.embeddings.methods import build_method, method_type
from mec.embeddings.sizing import BudgetError
from mec.errors import BundleError, ConfigError, TrainingError
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.quantizing import quantize_step
from mec.testing_method_data import inputs
from tests.embeddings.test_methods import W, one_vocabulary
from tests.quantize.tables import clustered, make_bundles

SIZES = {"user": 400, "colour": 6, "item": 300}
SHAPE = {"num_codes": 2, "num_codewords": 8, "head": 5, "tail_count": 200}


def made(root: Path) -> tuple[Any, MethodInputs]:
    """Bundles, and the same tables in memory."""
    bundles = make_bundles(root, {name: clustered(size, 5, seed=size) for name, size in SIZES.items()})
    layout = FieldLayout.from_json(open_bundle(bundles.pretrained, "pretrained").extra["layout"])
    tables = {name: torch.from_numpy(rows) for name, rows in bundles.tables.items()}
    return bundles, MethodInputs(layout, 4, dict(bundles.counts), tables, seed=7)


def ids() -> Tensor:
    return torch.stack([torch.arange(400) % size for size in SIZES.values()], dim=1).int()


@pytest.mark.parametrize("quantize", [SHAPE, SHAPE | {"structure": "product", "weights": "none"}, {"budget": "8x"}])
def test_codes_and_rows_are_those_of_the_quantize_step(tmp_path, quantize):
    bundles, own = made(tmp_path)
    quantize_step(
        quantize=QuantizeConfig.model_validate(quantize if "budget" in quantize else {"min_values": 256} | quantize),
        pretrained=bundles.pretrained, vocabulary=bundles.vocabulary, seed=7,
        out_codebook=tmp_path / "codebook", out_codes=tmp_path / "codes",
    )  # fmt: skip
    expected = Codes.open(tmp_path / "codes", Codebooks.open(tmp_path / "codebook"))
    if "budget" in quantize:
        settings = method_type("mec").for_budget(own, sum(SIZES.values()) * 5 * 4 // 8)
    else:
        settings = MecSettings.model_validate({"allocate": False, "quantize": quantize})
    method = build_method("mec", own, settings)
    assert method.codes.packed.keys() == expected.packed.keys() != set()
    for name, packed in expected.packed.items():
        np.testing.assert_array_equal(method.codes.packed[name], packed)
        assert torch.equal(method.codes.codebooks.coded[name].codewords, expected.codebooks.coded[name].codewords)
    reference = CodedEmbedding(expected.codebooks, expected)
    assert torch.equal(method.eval()(ids()), reference(ids()))
    assert method.serving_bytes() == reference.serving_bytes()


@dataclass(frozen=True)
class InMemory:
    """Out-of-fold tables without a bundle."""

    folds: Folds
    tables: list[dict[str, Tensor]]
    own_counts: dict[str, np.ndarray]

    def rows(self, fold: int, vocabulary: str) -> Tensor:
        return self.tables[fold][vocabulary].clone()

    def counts(self, fold: int, vocabulary: str) -> np.ndarray:
        return self.own_counts[vocabulary]


def with_folds(own: MethodInputs) -> MethodInputs:
    generator = torch.Generator().manual_seed(0)
    tables = [
        {name: rows + 0.3 * torch.randn(rows.shape, generator=generator) for name, rows in own.pretrained.items()}
        for _ in range(2)
    ]
    return replace(own, folds=InMemory(Folds(2, 0), tables, own.counts))


def test_training_rows_read_the_codes_of_their_own_fold(tmp_path):
    own = with_folds(made(tmp_path)[1])
    settings = {"allocate": False, "quantize": {"num_codewords": 8, "reliability": False}, "floats": "float32"}
    method = build_method("mec", own, settings)
    fold = torch.arange(400) % 2
    rows, plain = method(ids(), fold), method(ids())
    for i, name in enumerate(SIZES):
        for number in range(2):
            table = own.folds.tables[number][name][ids()[fold == number, i].long()]
            book = method.codes.codebooks.coded.get(name)
            expected = table if book is None else book.decode(book.encode(table))
            torch.testing.assert_close(rows[fold == number, i], expected)
    assert not torch.equal(rows, plain)
    alone = build_method("mec", replace(own, folds=None), settings)
    assert torch.equal(plain, alone(ids()))
    assert method.serving_bytes() == alone.serving_bytes()


def test_reliability_weighs_values_by_what_folds_agree_on():
    counts = np.array([*[900] * 600, *[4] * 600])
    shared, noise = torch.randn(1200, W), [torch.randn(1200, W) for _ in range(2)]
    rows = [torch.cat([shared[:600], own[600:]]) for own in noise]  # folds agree on popular values only
    folds = InMemory(Folds(2, 0), [{"f": own} for own in rows], {"f": counts})
    own = replace(one_vocabulary(1200, counts), pretrained={"f": shared}, folds=folds)
    quantize = MecSettings.model_validate({"quantize": {"weights": "sqrt"}}).quantize_config
    weights = value_weights(own, "f", quantize)
    assert float(weights[0]) == pytest.approx(30, rel=1e-3)
    assert float(weights[-1]) < 0.4  # of 2 without folds
    assert value_weights(replace(own, folds=None), "f", quantize)[[0, -1]].tolist() == [30, 2]
    with pytest.raises(ConfigError, match=r"quantize\.reliability compares models"):
        build_method("mec", inputs(), {"quantize": {"reliability": True}})


@pytest.mark.parametrize("codewords", ["frozen", "warm"])
def test_only_warm_codewords_are_trained(codewords):
    method = build_method("mec", inputs(), {"codewords": codewords})
    trained = [name for name, p in method.named_parameters() if p.requires_grad]
    assert len(trained) == (3 if codewords == "warm" else 0)
    method.finish()
    assert not any(p.requires_grad for p in method.parameters())


def test_a_budget_is_spent_and_not_exceeded():
    own = inputs()
    settings = method_type("mec").for_budget(own, 2500)
    assert 2250 <= sum(build_method("mec", own, settings).serving_bytes().values()) <= 2500
    assert settings.plans["colour"] is None
    assert settings.plans["user"] != settings.plans["item"]
    with pytest.raises(BudgetError, match="'mec' cannot get down to 100 bytes"):
        method_type("mec").for_budget(own, 100)
    with pytest.raises(BundleError, match="not in order"):
        method_type("mec").for_budget(inputs(in_order=False), 2500)


def test_settings_without_effect_are_refused():
    for settings, problem in [
        ({"quantize": {"num_codes": 2}}, "num_codes=2 has no effect with allocate"),
        ({"quantize": {"budget": "8x"}}, "budget='8x' has no effect on a method"),
        ({"quantize": {"floats": "float32"}}, "floats='float32' has no effect on a method"),
        ({"init_std": 0.1}, r"init_std=0\.1 has no effect"),
        ({"allocate": False, "plans": {"user": None, "colour": None, "item": None}}, "plans have no effect"),
    ]:
        with pytest.raises(ConfigError, match=problem):
            build_method("mec", inputs(), settings)
    with pytest.raises(ConfigError, match="the plans are not those of the vocabularies user, colour, item; found: f"):
        build_method("mec", inputs(), {"plans": {"f": None}})
    unseen = replace(inputs(), counts={name: np.zeros(size, np.int64) for name, size in inputs().layout.vocabularies})
    with pytest.raises(TrainingError, match="no value of vocabulary 'user' was seen"):
        build_method("mec", unseen, {})
