"""Settings of publishing, tracking, and of a whole run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mec.config.backbones import BackbonesConfig
from mec.config.bakeoff import BakeoffConfig
from mec.config.base import Name, Settings
from mec.config.data import CountConfig, DataConfig
from mec.config.refresh import RefreshConfig
from mec.config.training import EvaluateConfig, PretrainConfig, QuantizeConfig


class PublishConfig(Settings):
    """Codes to the online store."""

    enabled: bool = Field(True, description="false: make everything but publish nothing")
    feature_repo: str | None = Field(None, description="directory with feature_store.yaml; null: sqlite under `store`")
    batch_rows: int = Field(20_000, ge=1, description="rows written per call")
    verify_rows: int = Field(1_000, ge=0, description="rows read back and compared")
    writer: Literal["feast", "bulk"] = Field(
        "feast", description="Feast's own writer, or the same rows straight into its sqlite store"
    )


class GateConfig(Settings):
    """When a challenger becomes champion."""

    min_auc: float = Field(0.5, ge=0, le=1, description="absolute bound: test AUC must be above it")
    max_auc_drop: float = Field(
        0.0, ge=0, le=1, description="how far below the champion's AUC, on the same data, is still as good"
    )


class TrackingConfig(Settings):
    """MLflow runs and the model registry."""

    enabled: bool = Field(True, description="false: neither log nor register")
    uri: str | None = Field(None, description="tracking server; null: MLFLOW_TRACKING_URI, else sqlite under `store`")
    experiment: str = Field("mec", min_length=1, description="MLflow experiment of the runs")
    model_name: str | None = Field(
        None, description="registered model; null: the run's name; with several backbones -BACKBONE is added"
    )
    gate: GateConfig = GateConfig()


class RunConfig(Settings):
    """All settings of one run of the train pipeline, and of the refreshes that follow it."""

    name: Name = Field("demo", description="names the run's directory and, by default, the registered model")
    seed: int = Field(0, ge=0, lt=2**31, description="of every random draw")
    image: str | None = Field(
        None, description="container image of the steps; compiling for a cluster needs NAME@sha256:…"
    )
    store: str = Field(".mec", description="directory of the embedded sqlite MLflow and Feast stores")
    data: DataConfig = DataConfig()
    count: CountConfig = CountConfig()
    pretrain: PretrainConfig = PretrainConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    publish: PublishConfig = PublishConfig()
    train: BackbonesConfig = BackbonesConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()
    refresh: RefreshConfig = Field(RefreshConfig(), description="read by `mec refresh` only")
    bakeoff: BakeoffConfig = Field(BakeoffConfig(), description="read by `mec bakeoff` only")

    @model_validator(mode="after")
    def _codes_fit(self) -> RunConfig:
        width = self.pretrain.embedding_dim + 1
        if self.quantize.structure == "product" and self.quantize.num_codes > width:
            raise ValueError(
                f"quantize.num_codes={self.quantize.num_codes} sub-vectors do not fit a vector of {width} floats "
                f"(pretrain.embedding_dim={self.pretrain.embedding_dim} and the first-order weight); "
                "lower quantize.num_codes or raise pretrain.embedding_dim"
            )
        return self

    @model_validator(mode="after")
    def _steps_fit_each_other(self) -> RunConfig:
        if self.quantize.reliability and not self.pretrain.folds:
            raise ValueError(
                "quantize.reliability compares models trained without a fold each, and pretrain.folds=0 trains none; "
                "set pretrain.folds to 2, or quantize.reliability to null"
            )
        warmup, default = self.pretrain.l2_warmup_epochs, PretrainConfig.model_fields["l2_warmup_epochs"].default
        if not self.pretrain.l2 and not self.refresh.anchor and warmup != default:
            raise ValueError(
                f"pretrain.l2_warmup_epochs={warmup:g} has no effect while pretrain.l2 and refresh.anchor are 0; "
                "remove it"
            )
        if self.train.codewords == "random" and (self.quantize.head or self.quantize.budget):
            raise ValueError(
                "train.codewords=random leaves the pre-trained space, and the exact rows of popular values stay in it; "
                "set train.codewords to warm or frozen, or quantize without quantize.head and quantize.budget"
            )
        return self
