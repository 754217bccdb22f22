"""The train pipeline as a graph: which step reads what, and what may be reused."""

from __future__ import annotations

import inspect

import pytest
from google.protobuf import json_format

from pipelines.parameters import SECTIONS
from pipelines.train import train

STEPS = {
    "count",
    "vocabulary",
    "encode",
    "pretrain",
    "quantize",
    "publish",
    "train",
    "reference",
    "evaluate",
    "register",
}
# step -> its input artifacts, as (producing step, output)
WIRES = {
    "count": set(),
    "vocabulary": {("count", "counts")},
    "encode": {("vocabulary", "vocabulary")},
    "pretrain": {("encode", "dataset"), ("vocabulary", "vocabulary")},
    "quantize": {("pretrain", "pretrained"), ("vocabulary", "vocabulary")},
    "publish": {("vocabulary", "vocabulary"), ("quantize", "codebook"), ("quantize", "codes")},
    "train": {("encode", "dataset"), ("pretrain", "pretrained"), ("quantize", "codebook"), ("quantize", "codes")},
    "reference": {("encode", "dataset"), ("pretrain", "pretrained")},
    "evaluate": {
        ("encode", "dataset"),
        ("vocabulary", "vocabulary"),
        ("train", "model"),
        ("quantize", "codebook"),
        ("quantize", "codes"),
        ("reference", "model"),
    },
    "register": {
        ("encode", "dataset"),
        ("vocabulary", "vocabulary"),
        ("pretrain", "pretrained"),
        ("quantize", "codebook"),
        ("quantize", "codes"),
        ("train", "model"),
        ("publish", "publication"),
        ("evaluate", "evaluation"),
    },
}
# settings that shape a step's result; a step is run again when one of them changes, and only then
READS = {
    "count": {"data", "count", "seed", "data_version", "code_hash"},
    "vocabulary": {"count", "code_hash"},
    "encode": {"data", "seed", "data_version", "code_hash"},
    "pretrain": {"pretrain", "seed", "work_dir", "code_hash"},
    "quantize": {"quantize", "seed", "code_hash"},
    "publish": {"publish", "store"},
    "train": {"train", "seed", "work_dir", "code_hash"},
    "reference": {"train", "evaluate", "seed", "work_dir", "code_hash"},
    "evaluate": {"evaluate", "seed", "code_hash"},
    "register": {"name", "seed", "store", *SECTIONS},
}


@pytest.fixture(scope="module")
def spec() -> dict:
    return json_format.MessageToDict(train.pipeline_spec)


@pytest.fixture(scope="module")
def tasks(spec) -> dict:
    return spec["root"]["dag"]["tasks"]


def test_each_step_is_there_once(tasks):
    assert set(tasks) == STEPS


@pytest.mark.parametrize("step", sorted(STEPS))
def test_artifacts_come_from_the_right_steps(tasks, step):
    artifacts = tasks[step].get("inputs", {}).get("artifacts", {}).values()
    sources = [artifact["taskOutputArtifact"] for artifact in artifacts]
    assert {(source["producerTask"], source["outputArtifactKey"]) for source in sources} == WIRES[step]


@pytest.mark.parametrize("step", sorted(STEPS))
def test_parameters_are_those_that_shape_the_result(tasks, step):
    parameters = tasks[step]["inputs"]["parameters"]
    wired = {name: source.get("componentInputParameter") for name, source in parameters.items() if name != "run_id"}
    assert wired == {name: name for name in READS[step]}


@pytest.mark.parametrize("step", sorted(STEPS))
def test_only_steps_that_look_outside_are_never_reused(tasks, step):
    reusable = tasks[step]["cachingOptions"].get("enableCache", False)
    assert reusable is (step not in {"publish", "register"})


def test_register_gets_the_run_id_of_kubeflow(tasks):
    constant = tasks["register"]["inputs"]["parameters"]["run_id"]["runtimeValue"]["constant"]
    assert constant == "{{$.pipeline_job_uuid}}"


def test_every_bundle_is_an_output_of_the_pipeline(spec):
    from pipelines.results import MADE_BY

    outputs = spec["root"]["dag"]["outputs"]["artifacts"]
    producers = {name: output["artifactSelectors"][0]["producerSubtask"] for name, output in outputs.items()}
    assert producers == MADE_BY


def test_every_parameter_is_described(spec):
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == set(inspect.signature(train.pipeline_func).parameters)
    assert [name for name, parameter in parameters.items() if not parameter.get("description")] == []
