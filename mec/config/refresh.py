"""Settings of a refresh: what must have arrived, how the small model is retrained, how values are coded again."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mec.config.base import Fraction, Settings
from mec.config.data import SplitConfig


class ArrivalsConfig(Settings):
    """What the new data must hold before anything is written."""

    files: tuple[str, ...] = Field((), description="names or glob patterns that each must match a file, from its end")
    column: str = Field("", description="column whose values tell the parts of the data, such as the day; empty: none")
    values: tuple[str, ...] = Field((), description="values of that column, as text, that must all occur")
    min_rows: int = Field(1, ge=1, description="rows that all files together hold at least")
    min_part_rows: int = Field(1, ge=1, description="rows that each file, or each of the values, holds at least")
    max_overlap: Fraction = Field(
        0.01, description="share of the new rows that may equal a training row of an earlier period"
    )

    @model_validator(mode="after")
    def _column_and_values(self) -> ArrivalsConfig:
        if bool(self.column) != bool(self.values):
            raise ValueError("column and values of arrivals go together; give both, or neither")
        return self


class BoundsConfig(Settings):
    """How good a refresh must be to be promoted, and when the train pipeline is called for."""

    min_auc: float = Field(0.5, ge=0, le=1, description="an AUC in service that is not above it escalates")
    max_auc_decline: float = Field(
        0.1, ge=0, le=1, description="how far, in AUC, the backbone may fall below its AUC at training"
    )
    max_auc_drop: float = Field(
        0.0, ge=0, le=1, description="how much AUC the new codes may lose against the stale ones; 0: must be better"
    )
    max_logloss_rise: float = Field(
        0.0, ge=0, description="new codes shown to raise the logloss by more, in nats, are kept back"
    )
    min_rows_per_label: int = Field(100, ge=2, description="test rows of each label without which nothing is decided")


class RefreshConfig(Settings):
    """How new rows renew the embeddings, while the backbone stays as it is."""

    arrivals: ArrivalsConfig = ArrivalsConfig()
    split: SplitConfig | None = Field(
        None, description="which of the new rows train, validate and test; null: data.split"
    )
    keep_counts: float = Field(
        1.0, gt=0, le=1, description="share of the old counts that is kept; below 1 old popularity fades"
    )
    start: Literal["shrunk", "warm", "fresh"] = Field(
        "shrunk", description="first vectors: the old ones times shrink, the old ones, or random"
    )
    shrink: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="shrunk: what is left of the old vectors; small, so that what they memorised of single rows fades",
    )
    replay: Literal["none", "sample", "all"] = Field(
        "sample", description="old training rows beside the new ones; with all the cost grows with the history"
    )
    replay_ratio: float = Field(
        2.0,
        gt=0,
        le=1_000,
        description="sample: old rows per new training row, drawn uniformly; all where there are fewer",
    )
    replay_min_rows: int = Field(
        500_000,
        ge=1,
        description="sample: old rows that are replayed at least, all where there are fewer, since a few rows teach "
        "little of many values",
    )
    finish_on_new: bool = Field(
        True,
        description="with old rows: go on with the new ones alone at the end, as long as that helps on held-out ones",
    )
    learning_rate_factor: float = Field(
        2.0,
        gt=0,
        le=100,
        description="shrunk, with old rows: times pretrain.learning_rate, while old and new rows are together",
    )
    anchor: float = Field(
        0.0, ge=0, description="weight of the mean over rows of |row - old row|^2 of the batch's known values; 0: off"
    )
    codebooks: Literal["frozen", "renewed"] = Field(
        "frozen",
        description="frozen: codes change in place, one by one; renewed: fitted anew in the same space, switched as "
        "a whole",
    )
    hysteresis: float = Field(
        0.2, ge=0, lt=1, description="frozen: share of its squared error that a value's change of code must save"
    )
    max_rewritten: float = Field(
        0.3,
        gt=0,
        le=1,
        description="frozen: share of known values whose online row may change; those that save most go first",
    )
    recalibrate: bool = Field(True, description="refit scale and bias of the output on the new validation rows")
    bounds: BoundsConfig = BoundsConfig()
    on_escalation: Literal["mark", "train"] = Field(
        "mark",
        description="mark: say that a training is called for; train: also run the train pipeline on old and new rows",
    )

    @model_validator(mode="after")
    def _all_have_an_effect(self) -> RefreshConfig:
        if self.start != "shrunk":
            self.refuse_without_effect(["shrink", "learning_rate_factor"], f"while start is {self.start!r}")
        elif self.anchor > 0:
            raise ValueError(
                "an anchor holds vectors near what they were, and a shrunk start does not; set start to warm or fresh"
            )
        if self.replay != "sample":
            self.refuse_without_effect(["replay_ratio", "replay_min_rows"], f"while replay is {self.replay!r}")
        if self.replay == "none":
            names = ["finish_on_new", "learning_rate_factor"]
            self.refuse_without_effect(names, "while replay is 'none': new rows are alone from the start")
        if self.codebooks == "renewed":
            self.refuse_without_effect(
                ["hysteresis", "max_rewritten"], "with renewed codebooks, whose codes are all new"
            )
        return self
