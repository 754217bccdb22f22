"""Settings of pre-training, quantization, training and evaluation."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from mec.config.base import Name, Settings
from mec.quantize.budget import parse_budget

MAX_FOLDS = 32  # of pre-training; a batch holds each row's in a byte


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
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="processes on this machine that train together, each with its share of batches and tables' rows; "
        "a torchrun around the step decides instead; refreshes and bake-off cells train in one",
    )

    @model_validator(mode="after")
    def _a_gpu_for_each_process(self) -> Self:
        if self.processes > 1 and self.device.startswith("cuda:"):
            raise ValueError(
                f"device={self.device} is one GPU and processes={self.processes} want one each; set device=cuda"
            )
        return self


class PretrainConfig(OptimizerConfig):
    """The small model whose embeddings are compressed."""

    model: Literal["fm", "deepfm", "dcnv2"] = Field(
        "fm", description="pre-trained model; codes of an fm's tables score best by far, see docs/backbones.md"
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="the pre-trained model's own settings")
    embedding_dim: int = Field(16, ge=1, le=1024, description="D, floats per value")
    init_std: float = Field(0.01, gt=0, description="standard deviation of the first vectors")
    folds: int = Field(
        2,
        ge=0,
        le=MAX_FOLDS,
        description="models trained without a fold each, so that the backbone learns from vectors that never saw the "
        "row's label; 0: none",
    )
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

    @field_validator("folds")
    @classmethod
    def _one_fold_leaves_nothing(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("folds=1 leaves no rows to train on; set 0 for none, or 2 or more")
        return folds


class MecConfig(Settings):
    """The MEC objective: gradient steps from the k-means codebook; rows are scaled to unit variance per float."""

    encoder: Literal["none", "mlp"] = Field(
        "none", description="what is coded: the row, or an MLP of each sub-vector (product) or remainder (residual)"
    )
    hidden_units: int | None = Field(
        None, ge=1, le=4096, description="of each encoder and decoder; null: 64 with an encoder"
    )
    reconstruction: float = Field(1.0, ge=0, description="weight of |row - decoded|^2 per float")
    codebook: float = Field(1.0, ge=0, description="weight of |sg(z) - q|^2 per float, which moves codewords only")
    commitment: float | None = Field(
        None, ge=0, description="weight of |z - sg(q)|^2 per float; null: 0.25 with an encoder"
    )
    entropy: float = Field(1e-4, ge=0, description="l1, weight of 1 - H / ln K of the mean soft assignment; 0: off")
    entropy_temperature: float = Field(
        0.1, gt=0, description="tau of softmax(-distance / tau), squared distances per float"
    )
    contrastive: float = Field(2e-3, ge=0, description="l2, weight of InfoNCE against altered codes; 0: off")
    negatives: int = Field(8, ge=1, le=1024, description="altered codes per row")
    replace_probability: float = Field(
        0.5, gt=0, le=1, description="rho, chance of each index of a negative to be another one"
    )
    contrastive_temperature: float = Field(0.1, gt=0, description="divides the cosines of InfoNCE")
    restart: bool = Field(True, description="move codewords that coded nothing in an epoch onto badly coded rows")
    epochs: int = Field(10, ge=1, le=10_000, description="passes over the fitted points at most")
    epoch_rows: int = Field(
        1 << 16, ge=1, description="rows drawn by weight in an epoch at most; fewer where there are fewer points"
    )
    checkpoint: Literal["reconstruction", "last"] = Field(
        "reconstruction", description="keep the epoch of least weighted squared error of the points, or the last one"
    )
    patience: int | None = Field(
        None, ge=1, description="epochs without a better reconstruction before stopping; null: run all epochs"
    )
    batch_size: int = Field(1024, ge=1, description="rows per step, drawn by weight")
    learning_rate: float = Field(2e-3, gt=0, description="first Adam step size; falls linearly to 0")

    @property
    def commitment_weight(self) -> float:
        """What ``commitment`` stands for."""
        return self.commitment if self.commitment is not None else 0.25 if self.encoder == "mlp" else 0.0

    @model_validator(mode="after")
    def _everything_has_an_effect(self) -> MecConfig:
        if self.encoder == "none":
            self.refuse_without_effect(["commitment", "hidden_units"], "without an encoder")
        if not self.entropy:
            self.refuse_without_effect(["entropy_temperature"], "while entropy is 0")
        if not self.contrastive:
            names = ["negatives", "replace_probability", "contrastive_temperature"]
            self.refuse_without_effect(names, "while contrastive is 0")
        if self.checkpoint == "last":
            self.refuse_without_effect(["patience"], "while checkpoint is last")
        if self.encoder == "mlp" and not (self.reconstruction or self.contrastive):
            raise ValueError("nothing trains the decoder; set reconstruction or contrastive above 0")
        without_encoder = self.reconstruction if self.encoder == "none" else 0.0
        if not (self.codebook or self.entropy or self.contrastive or without_encoder):
            raise ValueError("no term moves the codewords; set codebook above 0, or leave mec out")
        return self


class QuantizeConfig(Settings):
    """How the pre-trained vectors become codes."""

    budget: str | None = Field(
        None,
        description="bytes of codes, codebooks and exact vectors, as 2% of the full tables, 64x or 1.5MiB: what "
        "each vocabulary gets is then worked out; null: the same for all, as set below",
    )
    structure: Literal["product", "residual"] = Field(
        "residual", description="sub-vectors side by side, or full-width codewords added up"
    )
    num_codes: int = Field(1, ge=1, le=64, description="M, codes per value")
    num_codewords: int = Field(
        64,
        ge=2,
        le=65_536,
        description="K, codewords per codebook; vocabularies of no more than K values keep exact vectors",
    )
    weights: Literal["none", "sqrt", "log2", "raw"] = Field(
        "sqrt", description="weight of a value in k-means, from its training count n"
    )
    reliability: bool | None = Field(
        None,
        description="also weigh values by how far models of different folds agree on values as popular; null: where "
        "pretrain.folds is set",
    )
    min_values: int = Field(
        1000,
        ge=1,
        description="vocabularies smaller than this keep exact vectors; so do those that codes would not make smaller",
    )
    head: int = Field(
        0,
        ge=0,
        description="most popular values of each coded vocabulary that keep exact vectors; all do where no more than "
        "num_codewords values are left",
    )
    tail_count: int = Field(
        0, ge=0, description="values with fewer training rows than this share the code of rare values; 0 or 1: none"
    )
    floats: Literal["float32", "float16"] = Field(
        "float16", description="how codewords and exact vectors are stored; full tables count 4 bytes per float"
    )
    iterations: int = Field(25, ge=1, le=10_000, description="k-means iterations at most")
    max_points: int = Field(262_144, ge=256, description="values drawn to fit a codebook; all are coded")
    chunk_rows: int = Field(65_536, ge=256, description="values coded at a time")
    objective: Literal["kmeans", "mec"] = Field(
        "kmeans", description="least squared error, or the MEC objective from there on"
    )
    mec: MecConfig | None = Field(None, description="of objective mec; null with kmeans")
    device: str = Field(
        "cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="of k-means, a budget's fits, the MEC objective and coding: cpu, cuda or cuda:N",
    )

    @property
    def float_bytes(self) -> int:
        """Bytes per stored float."""
        return {"float32": 4, "float16": 2}[self.floats]

    @model_validator(mode="before")
    @classmethod
    def _budget_has_a_unit(cls, raw: Any) -> Any:
        budget = raw.get("budget") if isinstance(raw, dict) else None
        if budget is not None and not isinstance(budget, str):
            parse_budget(str(budget))  # refuses it: 64 is a number in YAML, and no unit came with it
        return raw

    @model_validator(mode="before")
    @classmethod
    def _mec_defaults(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("objective") == "mec" and raw.get("mec") is None:
            return {**raw, "mec": {}}
        return raw

    @model_validator(mode="after")
    def _mec_has_effect(self) -> QuantizeConfig:
        if self.objective == "kmeans" and self.mec is not None:
            raise ValueError("mec has no effect with objective: kmeans; set objective: mec or leave mec out")
        return self

    @model_validator(mode="after")
    def _budget_decides(self) -> QuantizeConfig:
        if self.budget is not None:
            parse_budget(self.budget)
            names = ["structure", "num_codes", "num_codewords", "head", "tail_count", "min_values"]
            reason = "with a budget, which chooses it per vocabulary"
            self.refuse_without_effect(names, reason, instead="set quantize.budget=null")
        return self

    @model_validator(mode="after")
    def _enough_points(self) -> QuantizeConfig:
        if self.num_codewords > self.max_points:
            raise ValueError(
                f"num_codewords={self.num_codewords} is more than max_points={self.max_points}, the values a codebook "
                "is fitted on; raise max_points or lower num_codewords"
            )
        return self


class CodesTrainingConfig(OptimizerConfig):
    """A training on codes."""

    codewords: Literal["frozen", "warm", "random"] = Field(
        "frozen", description="kept as they are, trained on, or trained from random"
    )
    field_scales: bool | None = Field(
        None,
        description="also learn how much each field's weight and vector count, two floats a field; null: where "
        "codewords are frozen, for rows that are trained have sizes of their own",
    )

    @property
    def has_field_scales(self) -> bool:
        """What ``field_scales`` stands for."""
        return self.codewords == "frozen" if self.field_scales is None else self.field_scales

    @model_validator(mode="after")
    def _l2_has_an_effect(self) -> Self:
        if self.l2 > 0 and self.codewords == "frozen":
            raise ValueError(
                f"l2={self.l2:g} has no effect while codewords is 'frozen', for it acts on codewords; "
                "set l2 to 0, or codewords to warm or random"
            )
        return self


class TrainConfig(CodesTrainingConfig):
    """One downstream backbone, trained on codes."""

    model: Name = Field("deepfm", description="backbone")
    settings: dict[str, Any] = Field(default_factory=dict, description="the backbone's own settings")


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
