"""The training steps in processes that torchrun starts because the settings ask for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mec.bundle import Bundle, open_bundle
from mec.config import EvaluateConfig, PretrainConfig, QuantizeConfig, ReferenceConfig, TrainConfig
from mec.distributed.__main__ import call
from mec.distributed.launching import run_in_processes, write_error
from mec.errors import ConfigError, DiskFullError, TrainingError
from mec.model_bundle import WEIGHTS_FILE
from mec.pretraining import pretrain_step
from mec.quantize.quantizing import quantize_step
from mec.training_steps import reference_step, train_step
from tests.tiny import SIZES, Tiny, make_tiny

PRETRAIN = PretrainConfig(embedding_dim=6, batch_size=512, max_epochs=3, learning_rate=0.02, folds=2)
TRAIN = TrainConfig(
    batch_size=512, max_epochs=2, codewords="warm", l2=0.01, settings={"hidden_units": [8], "dropout": 0.0}
)
FULL = ReferenceConfig(batch_size=512, max_epochs=2, l2=0.01)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny"), num_rows=3000)


def pretrain(tiny: Tiny, out: Path, processes: int, **settings: Any) -> Bundle:
    pretrain_step(
        pretrain=PRETRAIN.model_copy(update={"processes": processes, **settings}),
        dataset=tiny.dataset,
        vocabulary=tiny.vocabulary,
        seed=0,
        checkpoints=out.parent / "work",
        out=out,
    )
    return open_bundle(out, "pretrained")


def assert_close(found: Path, expected: Path) -> None:
    """Tensors of two files, those of codewords as far as float16 tells them apart."""
    tensors: dict[str, Tensor] = load_file(expected)
    others = load_file(found)
    assert others.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(others[name], tensor, rtol=2e-3 if tensor.dtype == torch.float16 else 0, atol=1e-4)


@pytest.mark.slow
def test_pretraining_with_folds(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one, two = pretrain(tiny, tmp_path / "one", 1), pretrain(tiny, tmp_path / "two", 2)
    assert capfd.readouterr().out.count("[pretrain] done in") == 2, "only the first process speaks"
    assert one.manifest.files.keys() == two.manifest.files.keys()
    assert one.extra.keys() == two.extra.keys()
    for name in one.manifest.files:
        if name.endswith(".safetensors"):
            assert_close(two.file(name), one.file(name))
    shapes = {name: tuple(t.shape) for name, t in load_file(two.file("tables.safetensors")).items()}
    assert shapes == {name: (size, 7) for name, size in SIZES.items()}
    for key in ("fit", "folds"):
        expected, found = json.dumps(one.extra[key]), json.dumps(two.extra[key])
        assert json.loads(expected).keys() == json.loads(found).keys()
    assert two.extra["fit"]["best_auc"] == pytest.approx(one.extra["fit"]["best_auc"], abs=1e-4)
    assert (two.path / "step.json").is_file()
    assert [f.name for f in two.path.parent.iterdir() if f.name not in ("one", "two", "work")] == []
    assert list((tmp_path / "work").iterdir()) == [], "checkpoints of every process are removed"


@pytest.mark.slow
def test_training_on_codes_and_on_full_tables(tiny: Tiny, tmp_path: Path) -> None:
    pretrain(tiny, tmp_path / "pretrained", 1)
    shared = {"dataset": tiny.dataset, "pretrained": tmp_path / "pretrained"}
    quantize_step(
        quantize=QuantizeConfig(num_codes=2, num_codewords=16, min_values=100),
        pretrained=shared["pretrained"],
        vocabulary=tiny.vocabulary,
        seed=0,
        out_codebook=tmp_path / "codebook",
        out_codes=tmp_path / "codes",
    )
    models: dict[str, list[Path]] = {"train": [], "reference": []}
    for processes in (1, 2):
        train = TRAIN.model_copy(update={"processes": processes})
        evaluate = EvaluateConfig(reference="full", full=FULL.model_copy(update={"processes": processes}))
        parts = {"codebook": tmp_path / "codebook", "codes": tmp_path / "codes"}
        common = {"seed": 0, "checkpoints": tmp_path / "work"}
        for name in models:
            out = tmp_path / f"{name}-{processes}"
            models[name].append(out)
            if name == "train":
                train_step(train=train, **shared, **parts, **common, out=out)
            else:
                reference_step(train=train, evaluate=evaluate, **shared, **common, out=out)
    for one, two in models.values():
        assert_close(open_bundle(two).file(WEIGHTS_FILE), open_bundle(one).file(WEIGHTS_FILE))
    assert "embedding.table.weight" in load_file(models["reference"][1] / WEIGHTS_FILE)
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.slow
def test_what_goes_wrong_in_the_processes_is_raised_here(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the backbone.*hidden"):
        pretrain(tiny, tmp_path / "out", 2, settings={"hidden": 3})
    assert not (tmp_path / "out").exists()


def test_errors_travel_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = TrainingError("a term is not finite", found=float("nan"), fix="lower the learning rate")

    def fails(command: list[str], **_: Any) -> Any:
        write_error(error, Path(command[-1]), rank=1)
        return type("Ended", (), {"returncode": 2})

    monkeypatch.setattr("mec.distributed.launching.subprocess.run", fails)
    with pytest.raises(TrainingError) as caught:
        run_in_processes("train", 2, {})
    assert str(caught.value) == str(error)
    monkeypatch.setattr(
        "mec.distributed.launching.subprocess.run", lambda *_, **__: type("Ended", (), {"returncode": 9})
    )
    with pytest.raises(RuntimeError, match="the 2 processes of step train ended with code 9"):
        run_in_processes("train", 2, {})


def test_an_error_that_cannot_be_left_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_error(DiskFullError("no space"), tmp_path / "gone", rank=0)
    assert capsys.readouterr().err == "no space\n"


def test_torchrun_around_the_step_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run_in_processes("train", 1, {})
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not run_in_processes("train", 2, {})


def takes(name: str, settings: TrainConfig, at: Path | None) -> None:
    assert (name, settings.batch_size, at) == ("a", 7, Path("x"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "a"}', r"does not hold the arguments of this step; found: \['name'\]"),
        ('{"name": "a", "settings": {"batch_size": 0}, "at": null}', "batch_size"),
        ("{", "cannot read the step's arguments"),
    ],
)
def test_arguments_of_a_process_are_checked(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "arguments.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        call(takes, file)
    file.write_text('{"name": "a", "settings": {"batch_size": 7}, "at": "x"}')
    call(takes, file)


def test_one_gpu_is_not_enough_for_several_processes() -> None:
    with pytest.raises(ValueError, match="device=cuda:1 is one GPU and processes=2 want one each"):
        TrainConfig.model_validate({"processes": 2, "device": "cuda:1"})
    TrainConfig.model_validate({"processes": 2, "device": "cuda"})
