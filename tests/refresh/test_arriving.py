"""The arrivals step, the decision step, and settings of a refresh that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file

from mec.bundle import file_sha256, open_bundle, write_bundle, write_json
from mec.config import DataConfig, RefreshConfig
from mec.data.readers import open_source
from mec.errors import BundleError, ConfigError, DataError
from mec.refresh.arriving import arrivals_step, new_rows
from mec.refresh.deciding import branch_after, decision_step
from mec.refresh.overlap import write_row_hashes
from tests.refresh.periods import BY_COLUMN, FIELDS, make_rows, write_rows


@pytest.fixture
def model(tmp_path: Path) -> Path:
    with write_bundle(tmp_path / "model", "model") as draft:
        save_file({}, draft.path / "weights.safetensors")
        draft.extra = {"embedding": "codes"}
    return tmp_path / "model"


def data_of(path: Path) -> DataConfig:
    return DataConfig.model_validate({"path": str(path), "split": BY_COLUMN, "block_rows": 1024, **FIELDS})


def arrive(tmp_path: Path, model: Path, data: DataConfig, earlier: list[Path], **arrivals: Any) -> dict[str, Any]:
    refresh = RefreshConfig.model_validate({"arrivals": arrivals})
    out, hashes = tmp_path / "arrivals", tmp_path / "hashes"
    arrivals_step(refresh=refresh, data=data, model=model, earlier=earlier, seed=0, out=out, out_hashes=hashes)
    open_bundle(hashes, "row_hashes")
    facts: dict[str, Any] = json.loads(open_bundle(out, "arrivals").file("arrivals.json").read_text())
    return facts


def test_all_that_is_expected_is_there_and_new(tmp_path: Path, model: Path) -> None:
    old, new = (data_of(write_rows(tmp_path / f"{day}.parquet", make_rows(300, day, day=day))) for day in (1, 2))
    write_row_hashes(open_source(old, seed=0), tmp_path / "old")
    facts = arrive(
        tmp_path, model, new, [tmp_path / "old"], files=["2.parquet"], column="day", values=["2"], max_overlap=1.0
    )
    assert list(facts["file_rows"].values()) == [300]
    assert facts["value_rows"] == {"2": 300}
    assert facts["overlap"]["num_rows"] == {"train": 180, "valid": 60, "test": 60}
    assert open_bundle(tmp_path / "hashes").extra["rows"] == 180


def test_the_hashes_of_earlier_periods_are_looked_up_in_and_not_read_through(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (data_of(write_rows(tmp_path / f"{day}.parquet", make_rows(300, day, day=day))) for day in (1, 2))
    write_row_hashes(open_source(old, seed=0), tmp_path / "old")
    read: list[Path] = []
    monkeypatch.setattr("mec.bundle.file_sha256", lambda file: read.append(file) or file_sha256(file))
    arrive(tmp_path, model, new, [tmp_path / "old"], max_overlap=1.0)
    assert tmp_path / "hashes" in {file.parent for file in read}
    assert tmp_path / "old" not in {file.parent for file in read}


@pytest.mark.parametrize(
    ("arrivals", "words"),
    [
        ({"files": ["1.parquet"]}, r"expected files are missing.*1\.parquet|1\.parquet"),
        ({"column": "day", "values": ["2", "3"]}, "'day' are missing"),
        ({"min_rows": 301}, "fewer than 301 rows"),
        ({"max_overlap": 0.5}, "training rows of an earlier period"),
    ],
)
def test_what_is_missing_or_not_new_is_refused_before_anything_is_written(
    tmp_path: Path, model: Path, arrivals: dict[str, Any], words: str
) -> None:
    same = data_of(write_rows(tmp_path / "2.parquet", make_rows(300, 1, day=2)))
    write_row_hashes(open_source(same, seed=0), tmp_path / "old")
    with pytest.raises(DataError, match=words):
        arrive(tmp_path, model, same, [tmp_path / "old"], **{"max_overlap": 1.0, **arrivals})
    assert not (tmp_path / "arrivals").exists()
    assert not (tmp_path / "hashes").exists()


def test_a_model_that_cannot_be_refreshed_is_refused_first(tmp_path: Path) -> None:
    with write_bundle(tmp_path / "full", "model") as draft:
        draft.extra = {"embedding": "full"}
    with pytest.raises(ConfigError, match="does not score codes"):
        arrive(tmp_path, tmp_path / "full", data_of(tmp_path / "nothing.parquet"), [])


def test_new_rows_have_their_own_path_and_split() -> None:
    data = DataConfig.model_validate({"path": "old", "split": {"kind": "time", "valid_from": 1, "test_from": 2},
                                      "time": "day", **FIELDS})  # fmt: skip
    kept = new_rows(data, "new", RefreshConfig())
    assert (kept.path, kept.split, kept.categorical) == ("new", data.split, data.categorical)
    split = {"kind": "random", "valid_fraction": 0.2, "test_fraction": 0.3}
    changed = new_rows(data, "new", RefreshConfig.model_validate({"split": split}))
    assert (changed.split.kind, changed.split.test_fraction, changed.time) == ("random", 0.3, "day")


def test_a_config_that_names_no_columns_is_refused_by_name() -> None:
    generated = DataConfig.model_validate({"synthetic": {"num_rows": 1000}})
    with pytest.raises(ConfigError, match=r"does not say how to read the new rows; found: .*; fix: refresh with"):
        new_rows(generated, "new.parquet", RefreshConfig())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"replay": "all", "replay_ratio": 3.0}, "replay_ratio=3.0 has no effect while replay is 'all'"),
        ({"replay": "all", "replay_min_rows": 3}, "replay_min_rows=3 has no effect while replay is 'all'"),
        ({"replay": "none", "finish_on_new": False}, "finish_on_new=False has no effect while replay is 'none'"),
        ({"start": "warm", "shrink": 0.2}, "shrink=0.2 has no effect while start is 'warm'"),
        (
            {"start": "warm", "learning_rate_factor": 3.0},
            "learning_rate_factor=3.0 has no effect while start is 'warm'",
        ),
        (
            {"replay": "none", "learning_rate_factor": 3.0},
            "learning_rate_factor=3.0 has no effect while replay is 'none'",
        ),
        ({"anchor": 0.1}, "an anchor holds vectors near what they were"),
        ({"codebooks": "renewed", "hysteresis": 0.1}, "hysteresis=0.1 has no effect with renewed codebooks"),
        ({"codebooks": "renewed", "max_rewritten": 0.1}, "max_rewritten=0.1 has no effect with renewed codebooks"),
        ({"arrivals": {"column": "day"}}, "column and values of arrivals go together"),
        ({"hysteresis": 1.0}, "less than 1"),
        ({"anker": 1.0}, "Extra inputs are not permitted"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RefreshConfig.model_validate(settings)


def measured(path: Path, difference: tuple[float, float, float], at_training: float = 0.8) -> Path:
    """An evaluation of a refresh with these numbers."""
    numbers: dict[str, Any] = {"num_positives": 500, "num_negatives": 500}
    for name, value in (("auc_stale", 0.78), ("auc_refreshed", 0.79), ("auc_at_training", at_training)):
        numbers[name] = {"value": value, "low": value - 0.005, "high": value + 0.005}
    numbers["auc_difference"] = dict(zip(("value", "low", "high"), difference, strict=True))
    numbers["logloss_difference"] = {"value": -0.01, "low": -0.02, "high": 0.0}
    with write_bundle(path, "evaluation") as draft:
        write_json(draft.path / "evaluation.json", numbers)
    return path


@pytest.mark.parametrize(
    ("difference", "at_training", "max_auc_drop", "action"),
    [
        ((0.01, 0.004, 0.016), 0.8, 0.0, "promote"),
        ((0.01, -0.001, 0.02), 0.8, 0.0, "keep"),
        ((0.01, -0.001, 0.02), 0.8, 0.002, "promote"),
        ((0.01, 0.004, 0.016), 0.9, 0.0, "escalate"),
    ],
)
def test_decisions(
    tmp_path: Path, difference: tuple[float, float, float], at_training: float, max_auc_drop: float, action: str
) -> None:
    refresh = RefreshConfig.model_validate({"bounds": {"max_auc_drop": max_auc_drop}})
    decision_step(refresh=refresh, evaluation=measured(tmp_path / "e", difference, at_training), out=tmp_path / "d")
    decision = json.loads((tmp_path / "d" / "decision.json").read_text())
    assert decision["action"] == action
    assert decision["numbers"]["bound_max_auc_drop"] == max_auc_drop
    assert branch_after(tmp_path / "d", refresh) == action
    trains = RefreshConfig(on_escalation="train")
    assert branch_after(tmp_path / "d", trains) == {"escalate": "train"}.get(action, action)


def test_with_an_evaluation_of_a_train_run(tmp_path: Path) -> None:
    with write_bundle(tmp_path / "train", "evaluation") as draft:
        write_json(draft.path / "evaluation.json", {"auc": 0.7})
    with pytest.raises(BundleError, match="not that of a refresh"):
        decision_step(refresh=RefreshConfig(), evaluation=tmp_path / "train", out=tmp_path / "e")
