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
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from mec.bakeoff.cells import cell_parameters
from mec.config import RunConfig
from mec.errors import ConfigError
from pipelines.bakeoff import bakeoff
from pipelines.parameters import REFRESH_SECTIONS, SECTIONS, refuse_wrong_backbone, section_parameters
from pipelines.profiles import ClusterProfile, load_profile
from pipelines.profiles_applied import all_steps, apply_profile, name_steps, refuse_unmounted, steps_of, with_devices
from pipelines.refresh import refresh
from pipelines.titles import TITLES
from pipelines.train import train
from pipelines.train_backbones import train_backbones

PLACEHOLDER_IMAGE = "mec-python"
PIPELINES: dict[str, BaseComponent] = {
    "train": train,
    "train_backbones": train_backbones,
    "refresh": refresh,
    "bakeoff": bakeoff,
}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same documents, several times as fast
_BY_DIGEST = re.compile(r"[\w.\-]+(:\d+)?(/[\w.\-]+)*(:[\w.\-]+)?@sha256:[0-9a-f]{64}", re.ASCII)


def compile_pipelines(image: str, out: Path, config: RunConfig | None = None, profile: str | None = None) -> list[Path]:
    """Write ``train.yaml`` or ``train_backbones.yaml``, ``refresh.yaml`` and ``bakeoff.yaml``, checked.

    Args:
        image: Container image of the steps, ``NAME@sha256:…``.
        out: Directory to write to; made if it is not there.
        config: Its settings become the defaults of the parameters of the train pipeline that it asks for, of the
            refresh pipeline, and where it has a bakeoff section of the bake-off; None: all pipelines, with mec's own
            defaults.
        profile: Name or path of a cluster profile; None: the cluster's own defaults for every step.

    Returns:
        Paths of the YAML.

    Raises:
        ConfigError: An image without a digest, a relative path or a wrong backbone in the config, a bad profile or one
            that the config contradicts, or an unwritable directory.
    """
    texts = cluster_yaml(image, config, read_profile(profile))
    return [_write(out / f"{name}.yaml", text) for name, text in texts.items()]


def read_profile(profile: str | None) -> ClusterProfile | None:
    """A cluster profile by name or path, checked against the steps of all pipelines; see ``load_profile``."""
    return None if profile is None else load_profile(profile, all_steps(list(PIPELINES.values())))


def cluster_yaml(
    image: str, config: RunConfig | None, profile: ClusterProfile | None, only: str | None = None
) -> dict[str, str]:
    """Pipelines for a cluster as YAML, by name; see ``compile_pipelines``.

    Args:
        image: Container image of the steps.
        config: Settings, or None.
        profile: What steps ask of the cluster, or None.
        only: The one of them that is wanted; None: all that the config asks for.

    Raises:
        ConfigError: As ``compile_pipelines``, but for what concerns files.
    """
    if not _BY_DIGEST.fullmatch(image):
        raise ConfigError(
            "the image must be named by its digest: a tag can move, and finished steps would be reused wrongly",
            found=image,
            fix="push the image and take NAME@sha256:… from the output of the push",
        )
    names = list(PIPELINES)
    if config is not None:
        refuse_wrong_backbone(config)
        _refuse_relative(config)
        names = [pipeline_name(config)]
        if config.tracking.enabled and not config.train.several:
            names.append("refresh")
        if "bakeoff" in config.model_fields_set:
            names.append("bakeoff")
    texts = {}
    for name in names:
        if only in (None, name):
            header, documents = _compiled(image, PIPELINES[name], _defaults(name, config, profile))
            if name == "bakeoff" and config is not None:
                _limit_branches(documents[0], config.bakeoff.parallelism)
            name_steps(documents[0], TITLES)
            if profile is not None:
                documents = apply_profile(documents, profile)
            _check_documents(documents, image)
            texts[name] = _text(header, documents)
    return texts


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
    header, documents = _compiled(image, pipeline, parameters)
    _limit_branches(documents[0], branches_at_once)
    return _text(header, documents)


def _limit_branches(spec: dict[str, Any], limit: int | None) -> None:
    """Let loops run so many branches at the same time; None: as many as the cluster runs."""
    for task in spec["root"]["dag"]["tasks"].values():
        if limit is not None and "parameterIterator" in task:
            task["iteratorPolicy"] = {"parallelismLimit": limit}


def read_yaml(text: str) -> list[Any]:
    """The documents of a compiled pipeline."""
    return list(yaml.load_all(text, Loader=_LOADER))


def _compiled(
    image: str, pipeline: BaseComponent, parameters: dict[str, Any] | None
) -> tuple[str, list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory(prefix="mec-") as directory:
        file = Path(directory, "pipeline.yaml")
        compiler.Compiler().compile(pipeline, str(file), pipeline_parameters=parameters)
        compiled = file.read_text(encoding="utf-8")
    header = "".join(line for line in compiled.splitlines(keepends=True) if line.startswith("#"))
    documents = read_yaml(compiled)
    for executor in documents[0]["deploymentSpec"]["executors"].values():
        executor["container"]["image"] = image
    return header, documents


def _text(header: str, documents: list[dict[str, Any]]) -> str:
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
        ValueError: It is no PipelineSpec, a task names a component or an executor that is not there, platform
            settings are for an executor that is not there, or a container runs another image.
    """
    _check_documents(read_yaml(text), image)


def _check_documents(documents: list[dict[str, Any]], image: str) -> None:
    spec, *platforms = documents
    json_format.ParseDict(spec, PipelineSpec())
    executors = spec["deploymentSpec"]["executors"]
    for platform in platforms:
        json_format.ParseDict(platform, PlatformSpec())
        for label, executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items():
            json_format.ParseDict(executor, KubernetesExecutorConfig())
            if label not in executors:
                raise ValueError(f"the platform settings of {label} are for none of the executors")
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


def _defaults(name: str, config: RunConfig | None, profile: ClusterProfile | None) -> dict[str, Any]:
    """Defaults of a pipeline's parameters."""
    settings = config or RunConfig()
    if profile is not None:
        settings = with_devices(settings, profile, _steps_in_use(name, settings))
    parameters: dict[str, Any] = {}
    if config is None:
        changed = [section for section in SECTIONS if getattr(settings, section) != getattr(RunConfig(), section)]
        parameters = {section: getattr(settings, section).model_dump_json() for section in changed}
    else:
        parameters = section_parameters(settings)
        if "store" not in config.model_fields_set:  # its default is for one machine: whoever starts a run names one
            del parameters["store"]
        if name == "refresh":
            parameters = _refresh_defaults(settings, parameters)
        if name == "bakeoff":
            parameters["cells"] = cell_parameters(settings)
    if profile is not None:
        if config is not None:
            refuse_unmounted(_paths(config), profile)
        if profile.work_dir is not None:
            parameters["work_dir"] = profile.work_dir
    known = PIPELINES[name].component_spec.inputs or {}
    return {key: value for key, value in parameters.items() if key in known}


def _steps_in_use(name: str, config: RunConfig) -> set[str]:
    """The steps of a pipeline, without those of a training that a refresh does not escalate to."""
    steps = steps_of(PIPELINES[name])
    if name == "refresh" and config.refresh.on_escalation == "mark":
        steps -= {"pretrain", "quantize", "train", "reference"}
    return steps


def _refresh_defaults(config: RunConfig, parameters: dict[str, Any]) -> dict[str, Any]:
    """What the refresh pipeline shares with the train pipeline; whoever starts it names the new rows."""
    shared = {name: value for name, value in parameters.items() if name in (*REFRESH_SECTIONS, "name", "seed", "store")}
    return shared | {"refresh": config.refresh.model_dump_json()}


def _paths(config: RunConfig) -> list[tuple[str, str | None]]:
    return [
        *(("data.path", path) for path in config.data.paths),
        ("publish.feature_repo", config.publish.feature_repo),
        ("store", config.store if "store" in config.model_fields_set else None),
    ]


def _refuse_relative(config: RunConfig) -> None:
    for key, value in _paths(config):
        if value is not None and not Path(value).is_absolute() and "://" not in value:
            raise ConfigError(
                f"{key} is relative, and steps on a cluster share no working directory",
                found=value,
                fix=f"name a directory on a volume that all steps mount, for example --set {key}=/mnt/mec",
            )
