"""Compiling for a cluster: the golden YAML, the image, and what the checks find."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kfp import components

from mec.config import RunConfig, parse_config
from mec.errors import ConfigError
from pipelines.compiling import PIPELINES, PLACEHOLDER_IMAGE, check_pipeline, compile_pipelines, pipeline_yaml
from pipelines.parameters import SECTIONS
from pipelines.profiles_applied import all_steps, steps_of
from pipelines.titles import TITLES

GOLDEN = Path(__file__).parents[2] / "pipelines" / "compiled"
IMAGE = "registry.example/mec@sha256:" + "0" * 64
NO_MEC_CHANGE = "run `make compile` and read the difference"


@pytest.fixture(scope="module")
def compiled() -> str:
    return pipeline_yaml(IMAGE)


def test_the_golden_copies_are_what_compiles(tmp_path):
    paths = compile_pipelines(IMAGE, tmp_path)
    assert [path.name for path in paths] == [f"{name}.yaml" for name in PIPELINES]
    for path in paths:
        golden = (GOLDEN / path.name).read_text(encoding="utf-8")
        assert path.read_text(encoding="utf-8") == golden, NO_MEC_CHANGE


@pytest.mark.parametrize("name", PIPELINES)
def test_the_ui_gets_names_and_descriptions(name):
    spec = yaml.load((GOLDEN / f"{name}.yaml").read_text("utf-8"), yaml.CSafeLoader)
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert [key for key, parameter in parameters.items() if not parameter.get("description")] == []
    shown = {
        task["taskInfo"]["name"]
        for component in (spec["root"], *spec["components"].values())
        for task in component.get("dag", {}).get("tasks", {}).values()
        if "executorLabel" in spec["components"][task["componentRef"]["name"]]
    }
    assert shown == {TITLES[step] for step in steps_of(PIPELINES[name])}


def test_every_step_has_a_name_of_its_own():
    assert set(TITLES) == all_steps(list(PIPELINES.values()))
    assert len(set(TITLES.values())) == len(TITLES)


def test_every_container_runs_the_image(compiled):
    assert PLACEHOLDER_IMAGE not in compiled
    assert compiled.count(f"image: {IMAGE}") == 10


def test_nothing_is_installed_when_a_step_starts(compiled):
    assert "pip install" not in compiled


def test_the_yaml_loads_back(compiled):
    assert components.load_component_from_text(compiled).name == "mec-train"


@pytest.mark.parametrize(
    "image",
    ["mec", "mec:latest", "registry.example/mec:1.2", "mec@sha256:abc", "mec@sha256:" + "0" * 63 + "G", f"{IMAGE} "],
)
def test_an_image_without_a_digest_is_refused_and_nothing_written(tmp_path, image):
    with pytest.raises(ConfigError, match="digest"):
        compile_pipelines(image, tmp_path / "build")
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("image", [IMAGE, "localhost:5000/team/mec@sha256:" + "a" * 64, "mec:1.2@sha256:" + "f" * 64])
def test_an_image_by_digest_is_taken(tmp_path, image):
    document = yaml.safe_load(compile_pipelines(image, tmp_path)[0].read_text(encoding="utf-8"))
    images = {e["container"]["image"] for e in document["deploymentSpec"]["executors"].values()}
    assert images == {image}


def test_a_config_becomes_the_defaults(tmp_path):
    config = parse_config({"name": "shop", "seed": 7, "store": "/mnt/mec", "quantize": {"num_codes": 3}})
    document = yaml.safe_load(compile_pipelines(IMAGE, tmp_path, config)[0].read_text(encoding="utf-8"))
    parameters = document["root"]["inputDefinitions"]["parameters"]
    defaults = {name: parameters[name].get("defaultValue") for name in (*SECTIONS, "name", "seed", "store")}
    assert (defaults["name"], defaults["seed"], defaults["store"]) == ("shop", 7, "/mnt/mec")
    sections = {name: yaml.safe_load(defaults[name]) for name in SECTIONS}
    assert RunConfig.model_validate({"name": "shop", "seed": 7, "store": "/mnt/mec", **sections}) == config


def test_a_store_that_the_config_does_not_name_stays_a_question(tmp_path):
    document = yaml.safe_load(compile_pipelines(IMAGE, tmp_path, parse_config({"name": "shop"}))[0].read_text("utf-8"))
    parameters = document["root"]["inputDefinitions"]["parameters"]
    assert "defaultValue" not in parameters["store"]
    assert parameters["name"]["defaultValue"] == "shop"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"store": ".mec"}, "store"),
        ({"store": "/s", "data": {"path": "a.parquet", "categorical": ["x"]}}, "data.path"),
        ({"store": "/s", "publish": {"feature_repo": "repo"}}, "publish.feature_repo"),
    ],
)
def test_relative_paths_are_refused(tmp_path, settings, named):
    with pytest.raises(ConfigError, match=f"^{named} is relative"):
        compile_pipelines(IMAGE, tmp_path, parse_config(settings))


def test_an_unwritable_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        compile_pipelines(IMAGE, tmp_path / "file")


def _damaged(compiled: str, change) -> str:
    documents = list(yaml.safe_load_all(compiled))
    change(documents[0])
    return yaml.safe_dump_all(documents)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec["components"].pop("comp-encode"), "comp-encode"),
        (lambda spec: spec["deploymentSpec"]["executors"].pop("exec-train"), "exec-train"),
        (
            lambda spec: spec["deploymentSpec"]["executors"]["exec-train"]["container"].update(image="mec:1"),
            "exec-train runs mec:1",
        ),
        (lambda spec: spec.update(mistake=1), "mistake"),
    ],
)
def test_the_check_finds(compiled, change, message):
    check_pipeline(compiled, IMAGE)
    with pytest.raises(Exception, match=message):
        check_pipeline(_damaged(compiled, change), IMAGE)


def test_the_check_reads_the_kubernetes_document(compiled):
    def platform(executor: dict) -> str:
        document = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {"exec-train": executor}}}}}
        return compiled + "---\n" + yaml.safe_dump(document)

    check_pipeline(platform({"imagePullPolicy": "Always"}), IMAGE)
    with pytest.raises(Exception, match="notASetting"):
        check_pipeline(platform({"notASetting": 1}), IMAGE)
