"""The cells of a bake-off: one method at one budget with one seed each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from mec.config import MethodTraining, Name, OptimizerConfig, RunConfig, Settings, TrainConfig
from mec.errors import ConfigError
from mec.quantize.budget import parse_budget

REFERENCE, REFERENCE_BUDGET = "full", "1x"
# what compresses pre-trained tables is to be compared with full tables that started from them
_SETTINGS: dict[str, dict[str, Any]] = {REFERENCE: {"start": "pretrained"}}


class Cell(Settings):
    """One training of a bake-off, beside what all have in common."""

    method: Name = Field(description="compression method")
    budget: str = Field(description="bytes that a server may hold, as quantize.budget")
    seed: int = Field(ge=0, description="of first values, hash functions, shuffling and dropout")
    l2: float = Field(ge=0, description="as bakeoff.l2")
    settings: dict[str, Any] = Field(default_factory=dict, description="the method's own settings, its size left out")
    training: MethodTraining = MethodTraining()

    @property
    def label(self) -> str:
        """For people: ``qr at 8x, seed 0``."""
        return f"{self.method} at {self.budget}, seed {self.seed}"

    def optimizer(self, train: TrainConfig) -> OptimizerConfig:
        """How the cell is trained: as ``train`` says, with the bake-off's L2 and what the method does otherwise."""
        shared = {name: getattr(train, name) for name in OptimizerConfig.model_fields}
        return OptimizerConfig(**shared | {"l2": self.l2} | self.training.model_dump(exclude_none=True))


def plan_cells(config: RunConfig) -> list[Cell]:
    """All cells of a bake-off, each seed's together: what is there early tells something of every method.

    Full tables start from the pre-trained ones where ``bakeoff.settings`` has nothing on them.

    Raises:
        ConfigError: An unknown method, settings that it does not have, or several backbones.
    """
    if config.train.several:
        raise ConfigError(
            "a bake-off compares compression methods with one backbone",
            found=f"train.model {config.train.model}",
            fix="name one, such as --set train.model=deepfm",
        )
    bakeoff = config.bakeoff
    methods = _checked(bakeoff.methods, bakeoff.settings, list(bakeoff.training))
    # however all bytes are written: the reference is looked for at one text
    budgets = [REFERENCE_BUDGET if parse_budget(text).share == 1 else text for text in bakeoff.budgets]
    places = [(method, budget) for budget in budgets for method in methods]
    if bakeoff.reference and (REFERENCE, REFERENCE_BUDGET) not in places:
        places.insert(0, (REFERENCE, REFERENCE_BUDGET))
    return [
        Cell(
            method=method,
            budget=budget,
            seed=config.seed + offset,
            l2=bakeoff.l2,
            settings=bakeoff.settings.get(method, _SETTINGS.get(method, {})),
            training=bakeoff.training.get(method, MethodTraining()),
        )
        for offset in range(bakeoff.seeds)
        for method, budget in places
    ]


def cell_parameters(config: RunConfig) -> list[str]:
    """The cells as a pipeline's loop takes them: JSON each, defaults left out."""
    return [cell.model_dump_json(exclude_defaults=True) for cell in plan_cells(config)]


def without_effect(config: RunConfig, *, on_cluster: bool = False) -> list[str]:
    """Settings that a bake-off leaves aside, one sentence each: of other methods, of sizes, and of codes."""
    # as in ``_checked``
    from mec.embeddings.methods import method_type

    bakeoff, notes = config.bakeoff, []
    compared = {cell.method for cell in plan_cells(config)}
    for section, own in (("settings", bakeoff.settings), ("training", bakeoff.training)):
        left = sorted(set(own) - compared)
        if left:
            notes.append(f"bakeoff.{section} of {', '.join(left)} has no effect: not among the methods compared")
    for method in sorted(set(bakeoff.settings) & compared):
        given = bakeoff.settings[method]
        decided = [name for name in method_type(method).size_settings if name in given]
        if decided and given.get("found") is None:  # sizes that were searched are kept
            notes.append(f"bakeoff.settings.{method}.{', '.join(decided)} has no effect: budgets decide sizes")
    if bakeoff.parallelism is not None and not on_cluster:
        notes.append("bakeoff.parallelism has no effect here: only a cluster trains several cells at the same time")
    defaults = TrainConfig()
    for name in ("codewords", "l2"):
        if getattr(config.train, name) != getattr(defaults, name):
            instead = "bakeoff.l2" if name == "l2" else "the methods' own settings"
            notes.append(f"train.{name} has no effect in a bake-off, which reads {instead}")
    return notes


def _checked(
    methods: Sequence[str] | None, settings: dict[str, dict[str, Any]], trained_otherwise: Sequence[str]
) -> list[str]:
    # torch, which naming the cells of a config on the command line would otherwise not wait for
    from mec.embeddings.methods import METHODS, check_method_settings

    names = list(methods) if methods is not None else sorted(METHODS.names())
    for name in dict.fromkeys([*names, *settings, *trained_otherwise]):
        check_method_settings(name, settings.get(name, {}))
    return names
