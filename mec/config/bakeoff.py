"""Settings of a bake-off: which compression methods, at which budgets, how often, and how each is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import Field, field_validator

from mec.config.base import Name, Settings
from mec.quantize.budget import parse_budget


class MethodTraining(Settings):
    """How one method is trained where that is not how the others are; null: as the others."""

    learning_rate: float | None = Field(None, gt=0, description="Adam step size; null: train.learning_rate")
    l2: float | None = Field(None, ge=0, description="as bakeoff.l2; null: that")
    batch_size: int | None = Field(None, ge=1, description="rows per step; null: train.batch_size")
    max_epochs: int | None = Field(None, ge=1, description="passes at most; null: train.max_epochs")
    patience: int | None = Field(None, ge=1, description="as train.patience; null: that")


class BakeoffConfig(Settings):
    """Compression methods side by side: every method at every budget, with the backbone and optimizer of `train`."""

    methods: tuple[Name, ...] | None = Field(None, description="compression methods; null: all there are")
    budgets: tuple[str, ...] = Field(
        ("2x", "8x", "32x", "128x"), min_length=1, description="bytes that a server may hold, as quantize.budget"
    )
    seeds: int = Field(5, ge=1, le=100, description="trainings of each method at each budget; from `seed` upwards")
    parallelism: int | None = Field(
        None, ge=1, description="trainings that a cluster runs at the same time; null: all that it has room for"
    )
    reference: bool = Field(True, description="also train full tables at 1x, which all else is compared with")
    l2: float = Field(
        0.02, ge=0, description="weight of the mean over rows of the squared norm of the batch's embeddings"
    )
    settings: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="method -> its own settings, its size left out: the budget decides that"
    )
    training: dict[Name, MethodTraining] = Field(
        default_factory=dict, description="method -> what its training does otherwise"
    )

    @field_validator("methods")
    @classmethod
    def _each_method_once(cls, methods: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if methods is not None:
            if not methods:
                raise ValueError("an empty list compares nothing; name a method, or set null for all")
            _refuse_twice(methods)
        return methods

    @field_validator("budgets", mode="before")
    @classmethod
    def _budgets_have_units(cls, budgets: Any) -> Any:
        for budget in budgets if isinstance(budgets, list | tuple) else ():
            parse_budget(str(budget))
        return budgets

    @field_validator("budgets")
    @classmethod
    def _each_budget_once(cls, budgets: tuple[str, ...]) -> tuple[str, ...]:
        _refuse_twice(budgets)
        found: dict[tuple[Any, Any], str] = {}
        for budget in budgets:
            parsed = parse_budget(budget)
            other = found.setdefault((parsed.share, parsed.num_bytes), budget)
            if other != budget:
                raise ValueError(f"{other} and {budget} are the same bytes; leave one of them out")
        return budgets


def _refuse_twice(names: Sequence[str]) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"{', '.join(twice)} is listed twice")
