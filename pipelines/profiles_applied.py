"""Put a profile into a compiled pipeline, and its devices into the settings of the steps that get accelerators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf import json_format
from kfp import kubernetes
from kfp.dsl.base_component import BaseComponent

from mec.config import RunConfig
from mec.errors import ConfigError
from pipelines.profiles import ClusterProfile, StepProfile, cores, num_bytes

Document = dict[str, Any]

_DEVICE = {  # step -> the settings whose ``device`` it computes on
    "pretrain": ("pretrain",),
    "refresh_pretrain": ("pretrain",),
    "quantize": ("quantize",),
    "train": ("train",),
    "bakeoff_cell": ("train",),
    "reference": ("evaluate", "full"),
}
_NO_TIMEOUT_S = 30 * 86_400


def pipeline_steps(spec: Document) -> dict[str, str]:
    """Label of each executor in a PipelineSpec -> name of its step, the component's function."""
    named = {}
    for label, executor in spec["deploymentSpec"]["executors"].items():
        args = executor["container"]["args"]
        named[label] = args[args.index("--function_to_execute") + 1]
    return named


def steps_of(pipeline: BaseComponent) -> set[str]:
    """Names of the steps of a pipeline."""
    return set(pipeline_steps(json_format.MessageToDict(pipeline.pipeline_spec)).values())


def all_steps(pipelines: list[BaseComponent]) -> set[str]:
    """Names of the steps of several pipelines."""
    return set().union(*(steps_of(pipeline) for pipeline in pipelines))


def name_steps(spec: Document, titles: dict[str, str]) -> None:
    """Give every step of a PipelineSpec the name that people read; ``titles`` is by name of the step."""
    steps = pipeline_steps(spec)
    for component, task in _tasks(spec):
        label = spec["components"][component].get("executorLabel")
        if label is not None:
            task["taskInfo"]["name"] = titles[steps[label]]


def apply_profile(documents: list[Document], profile: ClusterProfile) -> list[Document]:
    """A compiled pipeline with a profile: resources, retries and environment, and what only Kubernetes knows.

    Args:
        documents: The PipelineSpec, and its platform document if it has one; changed in place.
        profile: What to put in.

    Returns:
        The PipelineSpec and the platform document.
    """
    spec, *platforms = documents
    platform = platforms[0] if platforms else {}
    config = platform.setdefault("platforms", {}).setdefault("kubernetes", {}).setdefault("deploymentSpec", {})
    kubernetes_executors = config.setdefault("executors", {})
    steps = pipeline_steps(spec)
    for label, name in steps.items():
        settings = profile.step(name)
        container = spec["deploymentSpec"]["executors"][label]["container"]
        resources = _resources(settings)
        if resources:
            container["resources"] = resources
        if profile.env:
            container["env"] = [{"name": key, "value": value} for key, value in profile.env.items()]
        kubernetes_executors[label] = _kubernetes_config(profile, settings)
    for component, task in _tasks(spec):
        label = spec["components"][component].get("executorLabel")
        settings = profile.step(steps[label]) if label is not None else StepProfile()
        if settings.retries is not None:
            task["retryPolicy"] = _retry_policy(settings)
    if profile.pipeline_root is not None:
        spec["defaultPipelineRoot"] = profile.pipeline_root
    return [spec, platform]


def with_devices(config: RunConfig, profile: ClusterProfile, steps: set[str]) -> RunConfig:
    """The settings with the device ``cuda`` for every step of a pipeline that gets an accelerator.

    Args:
        config: Settings.
        profile: Says which steps get accelerators.
        steps: Names of the pipeline's steps.

    Raises:
        ConfigError: An accelerator for a step that cannot use one, or a device that contradicts the profile.
    """
    changed: dict[str, Any] = {}
    for step in sorted(steps):
        accelerator = profile.step(step).accelerator
        if step not in _DEVICE:
            if accelerator is not None:
                fix = f"remove it from the profile; steps that do: {', '.join(_DEVICE)}"
                raise ConfigError("a step without a device setting uses no accelerator", found=step, fix=fix)
            continue
        for other in sorted(steps):
            unlike = (profile.step(other).accelerator is None) != (accelerator is None)
            if unlike and _DEVICE.get(other) == _DEVICE[step]:
                raise ConfigError(
                    f"steps {step} and {other} compute on one device setting, and only one of them has an accelerator",
                    found=".".join((*_DEVICE[step], "device")),
                    fix="give both of them an accelerator in the profile, or none",
                )
        section, *path = _DEVICE[step]
        raw = changed.get(section, getattr(config, section).model_dump())
        node, given = raw, getattr(config, section)
        for key in path:
            node, given = node[key], getattr(given, key)
        setting = ".".join((section, *path, "device"))
        named = given.device if "device" in given.model_fields_set else None
        if accelerator is not None and named == "cpu":
            fix = "remove the setting, or the accelerator from the profile"
            raise ConfigError(f"{setting} leaves the accelerator of step {step} idle", found=named, fix=fix)
        if accelerator is None and given.device != "cpu":
            fix = f"set {setting}=cpu, or use a profile such as gpu"
            raise ConfigError(
                f"{setting} asks for a GPU, but the profile gives step {step} none", found=given.device, fix=fix
            )
        if accelerator is not None and named is None:
            changed[section] = raw
            node["device"] = "cuda"
    sections = {name: type(getattr(config, name)).model_validate(raw) for name, raw in changed.items()}
    return config.model_copy(update=sections)


def refuse_unmounted(paths: Iterable[tuple[str, str | None]], profile: ClusterProfile) -> None:
    """Refuse paths that no step would find.

    Args:
        paths: Settings, each with a path, a URL or None.
        profile: Names the volumes; none at all: paths may be in the image, and are not checked.

    Raises:
        ConfigError: A path on none of the volumes.
    """
    mounted = ", ".join(volume.path for volume in profile.volumes)
    for setting, path in paths:
        if path is not None and mounted and "://" not in path and not profile.mounts(path):
            fix = f"use a path under {mounted}, or add a volume to the profile"
            raise ConfigError(f"{setting} is on none of the profile's volumes", found=path, fix=fix)


def _tasks(spec: Document) -> Iterator[tuple[str, Document]]:
    for component in (spec["root"], *spec["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            yield task["componentRef"]["name"], task


def _resources(settings: StepProfile) -> Document:
    """As the compiler writes them: text for the backend, numbers for older ones."""
    resources: Document = {}
    if settings.cpu is not None:
        for bound in ("request", "limit"):
            text = getattr(settings.cpu, bound)
            resources |= {f"cpu{bound.title()}": cores(text), f"resourceCpu{bound.title()}": text}
    if settings.memory is not None:
        for bound in ("request", "limit"):
            text = getattr(settings.memory, bound)
            resources |= {f"memory{bound.title()}": num_bytes(text) / 1e9, f"resourceMemory{bound.title()}": text}
    if settings.accelerator is not None:
        kind, count = settings.accelerator.type, str(settings.accelerator.count)
        resources["accelerator"] = {"type": kind, "count": count, "resourceType": kind, "resourceCount": count}
    return resources


def _retry_policy(settings: StepProfile) -> Document:
    """Argo counts the longest duration from the start of the first attempt, so all attempts must fit into it."""
    retries = settings.retries
    assert retries is not None
    attempt_s = settings.timeout_s or _NO_TIMEOUT_S
    return {
        "maxRetryCount": retries.attempts,
        "backoffDuration": f"{retries.backoff_s}s",
        "backoffFactor": retries.factor,
        "backoffMaxDuration": f"{(retries.attempts + 1) * attempt_s + retries.waits_s}s",
    }


class _Task:
    """What the functions of ``kfp.kubernetes`` change of a task."""

    def __init__(self) -> None:
        self.platform_config: dict[str, Document] = {}


def _kubernetes_config(profile: ClusterProfile, settings: StepProfile) -> Document:
    task: Any = _Task()
    for volume in profile.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.path, volume.sub_path)
    for secret in profile.secrets:
        variables = {key: name for name, key in secret.env.items()}
        kubernetes.use_secret_as_env(task, secret.name, variables, optional=secret.optional)
    if profile.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(profile.image_pull_secrets))
    for key, value in profile.labels.items():
        kubernetes.add_pod_label(task, key, value)
    for key, value in profile.annotations.items():
        kubernetes.add_pod_annotation(task, key, value)
    for key, value in settings.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for taint in settings.tolerations:
        kubernetes.add_toleration(task, taint.key, taint.operator, taint.value, taint.effect)
    if settings.timeout_s is not None:
        kubernetes.set_timeout(task, settings.timeout_s)
    if settings.shared_memory is not None:
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", "Memory", settings.shared_memory)
    return task.platform_config.get("kubernetes", {})  # type: ignore[no-any-return]
