"""Settings of pre-training, quantization, training and evaluation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mec.config.base import Name, Settings


class OptimizerConfig(Settings):
    """One training: used by pre-training, by the backbone and by the full-table reference."""

    learning_rate: float = Field(1e-3, gt=0, description="Adam step size")
    l2: float = Field(
        0.0, ge=0, description="weight of the mean over rows of the squared norm of the batch's embeddings"
    )
    batch_size: int = Field(2048, ge=1, description="rows per step")
    max_epochs: int = Field(20, ge=1, description="passes over the training split at most")
    patience: int = Field(2, ge=1, description="evaluations without a better validation AUC before stopping")
    evaluations_per_epoch: int = Field(1, ge=1, le=100, description="validations per pass")
    shuffle_rows: int = Field(2_000_000, ge=1, description="rows held in memory for shuffling")
    threads: int = Field(1, ge=1, le=256, description="torch threads; two on two busy cores are slower than one")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu, cuda or cuda:N")


class PretrainConfig(OptimizerConfig):
    """The small model whose embeddings are compressed."""

    model: Literal["fm"] = Field("fm", description="pre-trained model")
    embedding_dim: int = Field(16, ge=1, le=1024, description="D, floats per value")
    init_std: float = Field(0.01, gt=0, description="standard deviation of the first vectors")
    l2_warmup_epochs: float = Field(
        1.0, ge=0, description="passes over which l2 rises from 0: a strong l2 holds small vectors at zero"
    )
    learning_rate: float = Field(2e-3, gt=0, description="Adam step size")
    l2: float = Field(
        0.02, ge=0, description="weight of the mean over rows of the squared norm of the batch's embeddings"
    )
    batch_size: int = Field(1024, ge=1, description="rows per step")
    max_epochs: int = Field(50, ge=1, description="passes over the training split at most")
    patience: int = Field(3, ge=1, description="evaluations without a better validation AUC before stopping")


class QuantizeConfig(Settings):
    """How the pre-trained vectors become codes."""

    structure: Literal["product", "residual"] = Field(
        "residual", description="sub-vectors side by side, or full-width codewords added up"
    )
    num_codes: int = Field(1, ge=1, le=64, description="M, codes per value")
    num_codewords: int = Field(64, ge=2, le=65_536, description="K, codewords per codebook")
    weights: Literal["none", "sqrt", "log2", "raw"] = Field(
        "sqrt", description="weight of a value in k-means, from its training count n"
    )
    min_values: int = Field(1000, ge=1, description="vocabularies smaller than this keep exact vectors")
    iterations: int = Field(25, ge=1, le=10_000, description="k-means iterations at most")
    max_points: int = Field(262_144, ge=256, description="values drawn to fit a codebook; all are coded")
    chunk_rows: int = Field(65_536, ge=256, description="values coded at a time")


class TrainConfig(OptimizerConfig):
    """The downstream backbone, trained on codes."""

    model: Name = Field("deepfm", description="backbone")
    settings: dict[str, Any] = Field(default_factory=dict, description="the backbone's own settings")
    codewords: Literal["frozen", "warm", "random"] = Field(
        "frozen", description="kept as they are, trained on, or trained from random"
    )


class ReferenceConfig(OptimizerConfig):
    """The full-table model that the compressed one is compared with; same backbone as train.model."""

    init: Literal["pretrained", "random"] = Field(
        "pretrained", description="first vectors: the pre-trained ones, or random"
    )
    l2: float = Field(
        0.02, ge=0, description="weight of the mean over rows of the squared norm of the batch's embeddings"
    )


class EvaluateConfig(Settings):
    """What is measured on the test split."""

    reference: Literal["full", "none"] = Field(
        "none", description="also train and evaluate the backbone on full tables"
    )
    full: ReferenceConfig = ReferenceConfig()
    batch_size: int = Field(16_384, ge=1, description="rows per step")
    latency_rows: int = Field(10_000, ge=0, description="rows of one look-up in the latency table; 0: leave it out")
