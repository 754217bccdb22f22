"""Compile the train pipeline to YAML for a cluster, and check what was compiled.

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
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from mec.config import RunConfig
from mec.errors import ConfigError
from pipelines.parameters import refuse_wrong_backbone, section_parameters
from pipelines.train import train

PLACEHOLDER_IMAGE = "mec-python"
_BY_DIGEST = re.compile(r"[\w.\-]+(:\d+)?(/[\w.\-]+)*(:[\w.\-]+)?@sha256:[0-9a-f]{64}", re.ASCII)


def compile_train(image: str, out: Path, config: RunConfig | None = None) -> Path:
    """Write ``train.yaml``, checked, into a directory.

    Args:
        image: Container image of the steps, ``NAME@sha256:…``.
        out: Directory to write to; made if it is not there.
        config: Its settings become the defaults of the pipeline's parameters; None keeps mec's own.

    Returns:
        Path of the YAML.

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
    if config is not None:
        refuse_wrong_backbone(config)
    text = pipeline_yaml(image, None if config is None else _cluster_parameters(config))
    check_pipeline(text, image)
    path = out / "train.yaml"
    try:
        out.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}", found=error.strerror, fix="choose a directory that you may write to"
        ) from None
    return path


def pipeline_yaml(image: str, parameters: dict[str, str | int] | None = None) -> str:
    """The train pipeline as YAML, with an image in every executor.

    Args:
        image: Container image of the steps.
        parameters: Defaults of pipeline parameters.
    """
    with tempfile.TemporaryDirectory(prefix="mec-") as directory:
        file = Path(directory, "train.yaml")
        compiler.Compiler().compile(train, str(file), pipeline_parameters=parameters)
        compiled = file.read_text(encoding="utf-8")
    header = "".join(line for line in compiled.splitlines(keepends=True) if line.startswith("#"))
    documents = list(yaml.safe_load_all(compiled))
    for executor in documents[0]["deploymentSpec"]["executors"].values():
        executor["container"]["image"] = image
    return header + yaml.safe_dump_all(documents, sort_keys=True, width=120)


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


def _cluster_parameters(config: RunConfig) -> dict[str, str | int]:
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
