"""Several backbones on one codebook: settings, parameters, the graph, what compiles, and what people see."""

from __future__ import annotations

import io
import json

import pytest
import yaml
from google.protobuf import json_format
from rich.console import Console

from mec.config import BackbonesConfig, RunConfig, TrainConfig, parse_config, section
from mec.errors import ConfigError
from pipelines.compiling import compile_pipelines, pipeline_yaml
from pipelines.parameters import refuse_wrong_backbone, section_parameters
from pipelines.train import train
from pipelines.train_backbones import train_backbones
from pipelines.watching import Display, RunLog

IMAGE = "registry.example/mec@sha256:" + "0" * 64
BRANCH = {"train", "reference", "evaluate", "register"}
RAW = {
    "name": "shop",
    "train": {"model": ["pnn", "lr"], "settings": {"pnn": {"hidden_units": [8]}}, "batch_size": 64, "max_epochs": 3},
}


@pytest.fixture(scope="module")
def spec() -> dict:
    return json_format.MessageToDict(train_backbones.pipeline_spec)


@pytest.fixture(scope="module")
def branch(spec) -> dict:
    return spec["components"]["comp-for-loop-1"]["dag"]


class TestSettings:
    def test_each_backbone_has_its_own_settings_and_shares_the_rest(self):
        shared = {"batch_size": 64, "max_epochs": 3}
        assert parse_config(RAW).train.each() == (
            TrainConfig(model="pnn", settings={"hidden_units": [8]}, **shared),
            TrainConfig(model="lr", **shared),
        )

    def test_one_name_is_one_backbone(self):
        one = BackbonesConfig(model="pnn", settings={"hidden_units": [8]}, codewords="warm", l2=0.5)
        assert not one.several
        assert one.each() == (TrainConfig(model="pnn", settings={"hidden_units": [8]}, codewords="warm", l2=0.5),)

    def test_a_saved_config_reads_back(self):
        config = parse_config(RAW)
        assert RunConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"model": ["pnn"]}, "train.model: a list compares two backbones or more"),
            ({"model": []}, "train.model: a list compares two"),
            ({"model": ["pnn", "lr", "pnn"]}, "train.model: pnn is listed twice"),
            ({"model": ["pnn", "9"]}, "train.model: a backbone's name starts with a letter.*'9'"),
            ({"model": "p n"}, "train.model: a backbone's name starts"),
            ({"model": ["pnn", "lr"], "settings": {"hidden_units": [8]}}, "'hidden_units' is none of pnn, lr"),
            ({"model": ["pnn", "lr"], "settings": {"lr": 3}}, "settings.lr is no mapping"),
            ({"model": ["pnn", "lr"], "l2": 0.1}, "l2=0.1 has no effect while codewords is 'frozen'"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            parse_config({"train": settings})

    def test_a_wrong_setting_of_any_backbone_is_refused(self):
        with pytest.raises(ConfigError, match="bad settings of the backbone 'pnn'"):
            refuse_wrong_backbone(parse_config({"train": {"model": ["lr", "pnn"], "settings": {"pnn": {"layers": 2}}}}))
        with pytest.raises(ConfigError, match="unknown backbone; found: nope"):
            refuse_wrong_backbone(parse_config({"train": {"model": ["lr", "nope"]}}))


class TestParameters:
    def test_an_item_per_backbone_carries_its_settings_and_its_registered_model(self):
        config = parse_config(RAW)
        parameters = section_parameters(config)
        assert "train" not in parameters
        assert [section(TrainConfig, item["train"]) for item in parameters["backbones"]] == [*config.train.each()]
        names = [json.loads(item["tracking"])["model_name"] for item in parameters["backbones"]]
        assert names == ["shop-pnn", "shop-lr"]

    def test_a_model_name_of_ones_own_is_kept(self):
        config = parse_config(RAW | {"tracking": {"model_name": "ads", "experiment": "x"}})
        tracking = [json.loads(item["tracking"]) for item in section_parameters(config)["backbones"]]
        assert [t["model_name"] for t in tracking] == ["ads-pnn", "ads-lr"]
        assert {t["experiment"] for t in tracking} == {"x"}

    def test_they_are_the_pipelines(self, spec):
        known = spec["root"]["inputDefinitions"]["parameters"]
        assert set(section_parameters(parse_config(RAW))) <= set(known)
        assert [name for name, parameter in known.items() if not parameter.get("description")] == []


class TestGraph:
    def test_the_space_is_made_once_and_each_backbone_has_four_steps(self, spec, branch):
        shared = {"count", "vocabulary", "encode", "pretrain", "quantize", "publish"}
        assert set(spec["root"]["dag"]["tasks"]) == shared | {"for-loop-1", "compare"}
        assert set(branch["tasks"]) == BRANCH

    def test_each_branch_reads_its_own_item(self, branch):
        for step, name in (("train", "train"), ("reference", "train"), ("register", "train"), ("register", "tracking")):
            source = branch["tasks"][step]["inputs"]["parameters"][name]
            assert source["componentInputParameter"] == "pipelinechannel--backbones-loop-item"
            assert source["parameterExpressionSelector"] == f'parseJson(string_value)["{name}"]'

    def test_the_steps_are_wired_as_those_of_one_backbone(self, branch):
        alone = json_format.MessageToDict(train.pipeline_spec)["root"]["dag"]["tasks"]
        for step in BRANCH:
            ours, theirs = branch["tasks"][step], alone[step]
            assert _sources(ours) == _sources(theirs)
            assert ours["cachingOptions"] == theirs["cachingOptions"]
            assert set(ours["inputs"]["parameters"]) == set(theirs["inputs"]["parameters"])

    def test_the_comparison_gets_every_branch_and_is_never_reused(self, spec, branch):
        task = spec["root"]["dag"]["tasks"]["compare"]
        wired = {}
        for role, source in task["inputs"]["artifacts"].items():
            collected = source["taskOutputArtifact"]["outputArtifactKey"]
            wired[role] = branch["outputs"]["artifacts"][collected]["artifactSelectors"][0]["producerSubtask"]
        assert wired == {
            "models": "train",
            "references": "reference",
            "evaluations": "evaluate",
            "registrations": "register",
        }
        assert not task["cachingOptions"].get("enableCache", False)

    def test_a_cluster_runs_all_branches_at_once_unless_told(self):
        assert "iteratorPolicy" not in pipeline_yaml(IMAGE, train_backbones)
        one = next(yaml.safe_load_all(pipeline_yaml(IMAGE, train_backbones, branches_at_once=1)))
        assert one["root"]["dag"]["tasks"]["for-loop-1"]["iteratorPolicy"] == {"parallelismLimit": 1}


def test_a_config_compiles_to_the_pipeline_that_it_asks_for(tmp_path):
    config = parse_config(RAW | {"store": "/mnt/mec"})
    (path,) = compile_pipelines(IMAGE, tmp_path, config)
    assert path.name == "train_backbones.yaml"
    defaults = next(yaml.safe_load_all(path.read_text()))["root"]["inputDefinitions"]["parameters"]
    items = defaults["backbones"]["defaultValue"]
    assert [json.loads(item["train"])["model"] for item in items] == ["pnn", "lr"]
    paths = compile_pipelines(IMAGE, tmp_path, parse_config({"train": {"model": "pnn"}}))
    assert [path.name for path in paths] == ["train.yaml", "refresh.yaml"]


class TestWatching:
    @pytest.fixture
    def screen(self):
        return io.StringIO()

    @pytest.fixture
    def log(self, tmp_path, screen):
        log = RunLog(tmp_path / "run.log", Display(Console(file=screen, width=120), 9), ["pnn", "lr"])
        yield log
        log.close()

    def test_steps_of_branches_have_the_backbones_name(self, log, screen):
        log.write("INFO - Executing task 'count'\n    [count] done in 1.0 s, peak 9 MiB | x\n")
        for _ in range(2):
            log.write(
                "INFO - Executing task 'train'\n    [train] note: slow\n    [train] done in 1.0 s, peak 9 MiB | y\n"
            )
            log.write("INFO - Task evaluate cache hit (key=1); skipping execution.\n")
        log.write("INFO - Executing task 'compare'\n    [compare] done in 1.0 s, peak 9 MiB | z\n")
        assert [line.split(" 1.0 s")[0].rstrip() for line in screen.getvalue().splitlines()] == [
            "count",
            "train pnn note: slow",
            "train pnn",
            "evaluate pnn reused from an earlier run",
            "train lr  note: slow",
            "train lr",
            "evaluate lr reused from an earlier run",
            "compare",
        ]
        assert log.reused == ["evaluate pnn", "evaluate lr"]

    def test_the_first_failure_counts_though_other_branches_go_on(self, log, screen):
        log.write("INFO - Executing task 'train'\n    [train] error: TrainingError: NaN\n    the tail\n")
        log.write("ERROR - Task \x1b[96m'train'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m\n")
        log.write("INFO - Executing task 'train'\n    [train] done in 1.0 s, peak 9 MiB | y\n")
        log.write("INFO - Executing task 'evaluate'\n    [evaluate] done in 1.0 s, peak 9 MiB | y\n")
        assert log.step == "evaluate lr"
        assert (log.failure.step, log.failure.error) == ("train pnn", "TrainingError: NaN")
        assert log.failure.tail[-1] == "the tail"
        assert "train pnn failed\n" in screen.getvalue()


def _sources(task: dict) -> dict[str, str]:
    """Input artifact -> step and output it comes from, whether straight or through the loop's inputs."""
    found = {}
    for name, source in task["inputs"]["artifacts"].items():
        if "componentInputArtifact" in source:
            found[name] = source["componentInputArtifact"].removeprefix("pipelinechannel--")
        else:
            output = source["taskOutputArtifact"]
            found[name] = f"{output['producerTask']}-{output['outputArtifactKey']}"
    return found
