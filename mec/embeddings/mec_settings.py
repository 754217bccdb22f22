"""Settings of mec's own codes as a compression method."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mec.config import QuantizeConfig, Settings
from mec.embeddings.method import MethodSettings
from mec.quantize.plan import Structure, VocabularyPlan

_SHAPE = ("structure", "num_codes", "num_codewords", "head", "tail_count", "min_values")


class MethodQuantizeConfig(QuantizeConfig):
    """The quantize step's settings; small vocabularies are those that are small for other methods."""

    min_values: int = Field(256, ge=1, description="vocabularies smaller than this keep exact vectors")

    @model_validator(mode="after")
    def _said_elsewhere(self) -> Self:
        self.refuse_without_effect(["budget"], "on a method; ask it for the settings of a budget (for_budget)")
        self.refuse_without_effect(["floats"], "on a method, whose own floats are what counts")
        return self


class PlanSettings(Settings):
    """How one vocabulary is coded."""

    structure: Structure = Field(description="sub-vectors side by side, or full-width codewords added up")
    num_codes: int = Field(ge=1, le=64, description="M, codes per value")
    num_codewords: int = Field(ge=2, le=65_536, description="K, codewords per codebook")
    head: int = Field(0, ge=0, description="most popular values that keep exact vectors")
    tail_start: int = Field(0, ge=0, description="first id that shares the code of rare values; 0: none")

    @classmethod
    def of(cls, plan: VocabularyPlan) -> PlanSettings:
        """The settings of a plan."""
        return cls(
            structure=plan.structure,
            num_codes=plan.num_codes,
            num_codewords=plan.num_codewords,
            head=plan.head,
            tail_start=plan.tail_start,
        )

    @property
    def plan(self) -> VocabularyPlan:
        """The plan."""
        return VocabularyPlan(self.structure, self.num_codes, self.num_codewords, self.head, self.tail_start)


class MecSettings(MethodSettings):
    """Settings of mec's codes."""

    quantize: MethodQuantizeConfig = Field(MethodQuantizeConfig(), description="how pre-trained rows become codes")
    codewords: Literal["frozen", "warm"] = Field(
        "frozen", description="codewords and exact rows of small vocabularies: kept as they are, or trained on"
    )
    allocate: bool = Field(
        True, description="a budget chooses a shape for every vocabulary; false: K alone, at the shape that is set"
    )
    plans: dict[str, PlanSettings | None] | None = Field(
        None, description="per vocabulary, null for exact rows: what a budget gave; null: all as quantize says"
    )

    @model_validator(mode="after")
    def _everything_has_an_effect(self) -> Self:
        self.refuse_without_effect(["init_std"], "on rows that start from pre-trained ones")
        if self.allocate:
            self.quantize.refuse_without_effect(_SHAPE, "with allocate, which leaves it to a budget")
        elif self.plans is not None:
            raise ValueError("plans have no effect without allocate; remove them")
        return self

    @property
    def quantize_config(self) -> QuantizeConfig:
        """What the quantize step would be given."""
        return self.quantize.model_copy(update={"floats": self.floats})
