"""Cluster profiles: what each step asks of a Kubernetes cluster, as a file.

A profile names resources, nodes, retries and time limits per step, and what all steps share: volumes, environment,
secrets, labels. ``cpu``, ``gpu`` and ``spot`` come with mec; a path names one of your own:

    mec compile configs/criteo.yaml --image NAME@sha256:… --profile gpu --out build

``pipelines.profiles_applied`` puts a profile into a compiled pipeline.
"""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from mec.config.base import Settings
from mec.config.loading import explain
from mec.errors import ConfigError

BUILT_IN = Path(__file__).parent / "profiles"

_LABEL_VALUE = r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"
_LABEL_KEY = r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"
Cpu = Annotated[str, Field(pattern=r"^([0-9]*\.)?[0-9]+m?$")]
Memory = Annotated[str, Field(pattern=r"^[0-9]+([EPTGMK]i?)?$")]
LabelKey = Annotated[str, Field(pattern=_LABEL_KEY)]
LabelValue = Annotated[str, Field(pattern=_LABEL_VALUE)]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^:]*$")]


class CpuProfile(Settings):
    """Cores of one step."""

    request: Cpu = Field(description="cores reserved, as 2, 0.5 or 500m")
    limit: Cpu = Field(description="cores at most")

    @model_validator(mode="after")
    def _request_within_limit(self) -> CpuProfile:
        if cores(self.request) > cores(self.limit):
            raise ValueError(f"cpu request={self.request} is more than limit={self.limit}; lower it")
        return self


class MemoryProfile(Settings):
    """Memory of one step."""

    request: Memory = Field(description="reserved, as 512Mi or 8Gi")
    limit: Memory = Field(description="at most; a step that takes more is killed")

    @model_validator(mode="after")
    def _request_within_limit(self) -> MemoryProfile:
        if num_bytes(self.request) > num_bytes(self.limit):
            raise ValueError(f"memory request={self.request} is more than limit={self.limit}; lower it")
        return self


class AcceleratorProfile(Settings):
    """GPUs of one step; the step's ``device`` setting becomes cuda."""

    type: LabelKey = Field("nvidia.com/gpu", description="resource name that the cluster's device plugin offers")
    count: int = Field(1, ge=1, le=16, description="devices of one step")


class Toleration(Settings):
    """One tainted kind of node that a step may run on."""

    key: LabelKey = Field(description="key of the taint")
    operator: Literal["Equal", "Exists"] = Field("Exists", description="Equal also compares the value")
    value: LabelValue | None = Field(None, description="value of the taint, with operator Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="effect of the taint; null: all"
    )

    @model_validator(mode="after")
    def _value_goes_with_equal(self) -> Toleration:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError("a toleration has a value with operator Equal, and none with Exists")
        return self


class Retries(Settings):
    """What happens when a step fails or loses its node."""

    attempts: int = Field(ge=1, le=20, description="runs after the first")
    backoff_s: int = Field(30, ge=0, description="seconds before the first of them")
    factor: float = Field(2.0, ge=1, le=10, description="each wait is this many times the one before")

    @property
    def waits_s(self) -> int:
        """Seconds spent waiting when all attempts are used up."""
        return math.ceil(sum(self.backoff_s * self.factor**attempt for attempt in range(self.attempts)))


class StepProfile(Settings):
    """What one step asks for; what it leaves out it takes from ``defaults``."""

    cpu: CpuProfile | None = Field(None, description="cores; null: the cluster's default")
    memory: MemoryProfile | None = Field(None, description="memory; null: the cluster's default")
    accelerator: AcceleratorProfile | None = Field(None, description="GPUs; null: none")
    shared_memory: Memory | None = Field(None, description="size of a /dev/shm in memory; null: the container's 64 MiB")
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict, description="labels a node must have")
    tolerations: list[Toleration] = Field(default_factory=list, description="taints a node may have")
    retries: Retries | None = Field(None, description="null: none")
    timeout_s: int | None = Field(None, ge=1, description="seconds one attempt may take; null: no limit")

    @model_validator(mode="after")
    def _shared_memory_fits(self) -> StepProfile:
        if self.shared_memory and self.memory and num_bytes(self.shared_memory) >= num_bytes(self.memory.limit):
            raise ValueError(
                f"shared_memory={self.shared_memory} counts towards the step's memory, limit={self.memory.limit}; "
                "raise the limit or lower shared_memory"
            )
        return self


class Volume(Settings):
    """A volume that every step mounts."""

    claim: ObjectName = Field(description="name of a PersistentVolumeClaim that several pods can mount (ReadWriteMany)")
    path: AbsolutePath = Field(description="where steps find it")
    sub_path: str = Field("", description="directory inside the volume; empty: all of it")


class SecretEnv(Settings):
    """Keys of a Kubernetes Secret as environment variables of every step."""

    name: ObjectName = Field(description="name of the Secret")
    env: dict[EnvName, str] = Field(min_length=1, description="environment variable: key in the Secret")
    optional: bool = Field(False, description="true: steps start without it")

    @model_validator(mode="after")
    def _each_key_once(self) -> SecretEnv:
        keys = list(self.env.values())
        if len(set(keys)) < len(keys):
            raise ValueError(f"Kubeflow gives each key of a Secret to one variable; found: {', '.join(keys)}")
        return self


class ClusterProfile(Settings):
    """All settings of a profile."""

    pipeline_root: str | None = Field(
        None, pattern=r"^(s3|gs|minio)://.+", description="where artifacts go; null: as the cluster is set up"
    )
    service_account: ObjectName | None = Field(None, description="of submitted and scheduled runs; null: the cluster's")
    work_dir: AbsolutePath | None = Field(
        None, description="directory of checkpoints on a volume; null: a killed training starts over"
    )
    volumes: list[Volume] = Field(default_factory=list, description="mounted by every step")
    env: dict[EnvName, str] = Field(default_factory=dict, description="endpoints and the like, for every step")
    secrets: list[SecretEnv] = Field(default_factory=list, description="credentials, for every step")
    image_pull_secrets: list[ObjectName] = Field(default_factory=list, description="Secrets of a private registry")
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, description="of every pod")
    annotations: dict[LabelKey, str] = Field(default_factory=dict, description="of every pod")
    defaults: StepProfile = Field(StepProfile(), description="of every step")
    steps: dict[str, StepProfile] = Field(default_factory=dict, description="by name of the step, such as pretrain")

    @model_validator(mode="after")
    def _consistent(self) -> ClusterProfile:
        if self.defaults.accelerator is not None:
            raise ValueError("an accelerator goes to single steps, for most have no use for one; move it to steps")
        paths = [volume.path for volume in self.volumes]
        if len(set(paths)) < len(paths):
            raise ValueError(f"two volumes have the same path; found: {', '.join(paths)}")
        names = [*self.env, *(name for secret in self.secrets for name in secret.env)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"environment variables are set twice; found: {', '.join(twice)}")
        if self.work_dir is not None and not self.mounts(self.work_dir):
            raise ValueError(f"work_dir={self.work_dir} is on none of the volumes: checkpoints would be lost")
        for step in self.steps:
            self.step(step)
        return self

    def step(self, name: str) -> StepProfile:
        """What a step asks for, defaults included."""
        own = self.steps.get(name)
        if own is None:
            return self.defaults
        given = {key: getattr(own, key) for key in own.model_fields_set}
        return StepProfile(**{key: getattr(self.defaults, key) for key in StepProfile.model_fields} | given)

    def mounts(self, path: str) -> bool:
        """Whether a path is on one of the volumes."""
        return any(PurePosixPath(path).is_relative_to(volume.path) for volume in self.volumes)


def load_profile(name: str, known_steps: set[str]) -> ClusterProfile:
    """Read a profile and check it.

    Args:
        name: ``cpu``, ``gpu``, ``spot``, or the path of a YAML file.
        known_steps: Names of the steps of all pipelines.

    Raises:
        ConfigError: No such file, not YAML, an unknown key or step, or a bad value; each is named.
    """
    file = BUILT_IN / f"{name}.yaml" if re.fullmatch(r"[a-z]+", name) else Path(name)
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in BUILT_IN.glob("*.yaml")))
        raise ConfigError("no such profile", found=name, fix=f"use one of {known}, or the path of a YAML file")
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        profile = ClusterProfile.model_validate({} if raw is None else raw)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the profile {file}", found=error, fix="write it as UTF-8 YAML") from None
    except ValidationError as error:
        lines = "\n  ".join(explain(error, ClusterProfile))
        raise ConfigError(f"{file} has bad settings:\n  {lines}") from None
    unknown = sorted(set(profile.steps) - known_steps)
    if unknown:
        raise ConfigError(
            f"{file}: no pipeline has such a step",
            found=", ".join(unknown),
            fix=f"use one of {', '.join(sorted(known_steps))}",
        )
    return profile


def cores(text: str) -> float:
    """Cores that a Kubernetes quantity stands for."""
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def num_bytes(text: str) -> int:
    """Bytes that a Kubernetes quantity stands for."""
    number, unit = re.fullmatch(r"([0-9]+)([EPTGMK]?i?)", text).groups()  # type: ignore[union-attr]
    power = " KMGTPE".index(unit[0]) if unit else 0
    return int(number) * int(1024**power if unit.endswith("i") else 1000**power)
