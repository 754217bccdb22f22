"""Compile the pipelines to YAML for a cluster, and check what was compiled.

The components name a placeholder image; compiling puts the real one, by digest, into every
executor. A tag can move, and Kubeflow's cache key holds only the image's name.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp import compiler
from kfp.dsl.base_component import BaseComponent
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from mec.config import RunConfig
from mec.errors import ConfigError
from pipelines.parameters import REFRESH_SECTIONS, refuse_wrong_backbone, section_parameters
from pipelines.refresh import refresh
from pipelines.train import train
from pipelines.train_backbones import train_backbones

PLACEHOLDER_IMAGE = "mec-python"
PIPELINES: dict[str, BaseComponent] = {"train": train, "train_backbones": train_backbones, "refresh": refresh}
_BY_DIGEST = re.compile(r"[\w.\-]+(:\d+)?(/[\w.\-]+)*(:[\w.\-]+)?@sha256:[0-9a-f]{64}", re.ASCII)


def compile_pipelines(image: str, out: Path, config: RunConfig | None = None) -> list[Path]:
    """Write ``train.yaml`` or, for several backbones, ``train_backbones.yaml``, and ``refresh.yaml``, checked.

    Args:
        image: Container image of the steps, ``NAME@sha256:…``.
        out: Directory to write to; made if it is not there.
        config: Its settings become the defaults of the parameters of the train pipeline that it asks for and of the
            refresh pipeline; None: all pipelines, with mec's own defaults.

    Returns:
        Paths of the YAML.

    Raises:
        ConfigError: An image without a digest, a relative path or a wrong backbone in the config, or an unwritable
            directory.
    """
    if not _BY_DIGEST.fullmatch(image):
        raise ConfigError(
            "the image must be named by its digest: a tag can move, and finished steps would be reused wrongly",
            found=image,
            fix="push the image and take NAME@sha256:… from the output of the push",
        )
    if config is None:
        texts = {name: pipeline_yaml(image, pipeline) for name, pipeline in PIPELINES.items()}
    else:
        refuse_wrong_backbone(config)
        name = pipeline_name(config)
        parameters = _cluster_parameters(config)
        texts = {name: pipeline_yaml(image, PIPELINES[name], parameters)}
        if config.tracking.enabled and not config.train.several:
            texts["refresh"] = pipeline_yaml(image, refresh, _refresh_defaults(config, parameters))
    for text in texts.values():
        check_pipeline(text, image)
    return [_write(out / f"{name}.yaml", text) for name, text in texts.items()]


def pipeline_name(config: RunConfig) -> str:
    """Which of ``PIPELINES`` a config asks for."""
    return "train_backbones" if config.train.several else "train"


def pipeline_yaml(
    image: str,
    pipeline: BaseComponent = train,
    parameters: dict[str, Any] | None = None,
    *,
    branches_at_once: int | None = None,
) -> str:
    """A pipeline as YAML, with an image in every executor.

    Args:
        image: Container image of the steps.
        pipeline: One of ``PIPELINES``.
        parameters: Defaults of pipeline parameters.
        branches_at_once: Branches of a loop that run at the same time; None leaves it to the cluster.
    """
    with tempfile.TemporaryDirectory(prefix="mec-") as directory:
        file = Path(directory, "pipeline.yaml")
        compiler.Compiler().compile(pipeline, str(file), pipeline_parameters=parameters)
        compiled = file.read_text(encoding="utf-8")
    header = "".join(line for line in compiled.splitlines(keepends=True) if line.startswith("#"))
    documents = list(yaml.safe_load_all(compiled))
    for executor in documents[0]["deploymentSpec"]["executors"].values():
        executor["container"]["image"] = image
    if branches_at_once is not None:
        for task in documents[0]["root"]["dag"]["tasks"].values():
            if "parameterIterator" in task:
                task["iteratorPolicy"] = {"parallelismLimit": branches_at_once}
    return header + yaml.safe_dump_all(documents, sort_keys=True, width=120)


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}", found=error.strerror, fix="choose a directory that you may write to"
        ) from None
    return path


def check_pipeline(text: str, image: str) -> None:
    """Check a compiled pipeline as far as that is possible without a cluster.

    Raises:
        ValueError: It is no PipelineSpec, a task names a component or an executor that is not there,
            or a container runs another image.
    """
    spec, *platforms = yaml.safe_load_all(text)
    json_format.ParseDict(spec, PipelineSpec())
    for platform in platforms:
        for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
            json_format.ParseDict(executor, KubernetesExecutorConfig())
    executors = spec["deploymentSpec"]["executors"]
    for where, reference in _component_references(spec):
        if reference not in spec["components"]:
            raise ValueError(f"task {where} refers to {reference}, which is not among the components")
    for name, component in spec["components"].items():
        label = component.get("executorLabel")
        if label is not None and label not in executors:
            raise ValueError(f"component {name} refers to {label}, which is not among the executors")
    for label, executor in executors.items():
        if executor["container"]["image"] != image:
            raise ValueError(f"{label} runs {executor['container']['image']}, not {image}")


def _component_references(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, component in {"root": spec["root"], **spec["components"]}.items():
        for task, body in component.get("dag", {}).get("tasks", {}).items():
            yield f"{name}/{task}", body["componentRef"]["name"]


def _refresh_defaults(config: RunConfig, parameters: dict[str, Any]) -> dict[str, Any]:
    """What the refresh pipeline shares with the train pipeline; whoever starts it names the new rows."""
    shared = {name: value for name, value in parameters.items() if name in (*REFRESH_SECTIONS, "name", "seed", "store")}
    return shared | {"refresh": config.refresh.model_dump_json()}


def _cluster_parameters(config: RunConfig) -> dict[str, Any]:
    paths = {
        "data.path": config.data.path,
        "publish.feature_repo": config.publish.feature_repo,
        "store": config.store if "store" in config.model_fields_set else None,
    }
    for key, value in paths.items():
        if value is not None and not Path(value).is_absolute() and "://" not in value:
            raise ConfigError(
                f"{key} is relative, and steps on a cluster share no working directory",
                found=value,
                fix=f"name a directory on a volume that all steps mount, for example --set {key}=/mnt/mec",
            )
    parameters = section_parameters(config)
    if paths["store"] is None:  # its default is for runs on one machine: whoever starts the pipeline names one
        del parameters["store"]
    return parameters
