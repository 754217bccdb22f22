"""Every setting of a run: one YAML file, one pydantic model, one ``--set key=value`` syntax.

Unknown keys are errors. Relative paths are taken from the directory the command runs in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mec.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(BaseModel):
    """Base of all settings: unknown keys refused, values checked where they are built."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class CategoricalField(Settings):
    """A column whose values are looked up in a vocabulary."""

    name: str = Field(min_length=1, description="column name")
    vocabulary: Name | None = Field(None, description="vocabulary shared with other fields; default: its own")


class NumericField(Settings):
    """A column of numbers."""

    name: str = Field(min_length=1, description="column name")
    transform: Literal["log2_buckets", "linear"] = Field(
        "log2_buckets", description="floor(log(x)^2) as a categorical value above 2, floor(x) below (Criteo 2014 winner), or x times one learned direction"
    )


class SequenceField(Settings):
    """A column holding a list of values (Parquet list, or text with a separator)."""

    name: str = Field(min_length=1, description="column name")
    vocabulary: Name | None = Field(None, description="vocabulary shared with other fields; default: its own")
    pooling: Literal["mean", "sum"] = Field("mean", description="how the values' vectors become one")
    max_length: int = Field(20, ge=1, le=10_000, description="values kept, from the end of the list")
    separator: str = Field("|", min_length=1, description="between values, where the column is text")


class SplitConfig(Settings):
    """Which rows train, validate and test."""

    kind: Literal["column", "random", "time"] = Field("random", description="a column's value, a seeded draw, or the time column")
    column: str = Field("split", description="column: its name")
    train: str = Field("train", description="column: its value for training rows")
    valid: str = Field("valid", description="column: its value for validation rows")
    test: str = Field("test", description="column: its value for test rows")
    valid_fraction: Fraction = Field(0.1, description="random, time: share of rows (random) for validation")
    test_fraction: Fraction = Field(0.1, description="random, time: share of rows (random) for test")
    valid_from: float | None = Field(None, description="time: first time value of validation")
    test_from: float | None = Field(None, description="time: first time value of test")

    @model_validator(mode="after")
    def _consistent(self) -> SplitConfig:
        if self.kind == "random" and not 0 < self.valid_fraction + self.test_fraction < 1:
            raise ValueError("valid_fraction + test_fraction must lie between 0 and 1")
        if self.kind == "column" and len({self.train, self.valid, self.test}) < 3:
            raise ValueError("train, valid and test must be three different values of the split column")
        if self.kind == "time":
            if self.valid_from is None or self.test_from is None:
                raise ValueError("split kind 'time' needs valid_from and test_from")
            if not self.valid_from < self.test_from:
                raise ValueError("valid_from must be less than test_from")
        return self


class SyntheticConfig(Settings):
    """Rows from the synthetic generator: Zipf values, planted factors, a known Bayes AUC."""

    num_rows: int = Field(200_000, ge=100, description="rows over all periods")
    field_sizes: tuple[int, ...] = Field((15_000, 15_000, 2_000, 500, 100, 50, 20, 10), description="values per field")
    zipf_exponent: float = Field(1.05, gt=0, le=3, description="popularity of rank r is r^-exponent")
    num_factors: int = Field(8, ge=1, le=256, description="dimensions of the planted latent factors")
    signal: float = Field(1.8, gt=0, description="standard deviation of the planted logit; 1.8 makes the Bayes AUC .85")
    base_rate: float = Field(0.3, gt=0, lt=1, description="share of label 1")
    num_periods: int = Field(1, ge=1, description="time periods; column `period`")
    new_values: Fraction = Field(0.1, description="share of values first seen in each later period")
    drifted_values: Fraction = Field(0.15, description="share of values whose factors move in each later period")


class DataConfig(Settings):
    """Where the rows are and what their columns mean."""

    path: str | None = Field(None, description="file, or directory of files, to read; null: the synthetic generator")
    format: Literal["auto", "parquet", "csv", "tsv"] = Field("auto", description="auto: by file name")
    preset: Literal["criteo", "avazu", "movielens_1m"] | None = Field(None, description="a public data set's layout")
    header: bool = Field(True, description="csv, tsv: the first line names the columns")
    columns: tuple[str, ...] | None = Field(None, description="csv, tsv without header: the column names")
    label: str = Field("label", description="column of 0/1 labels")
    categorical: tuple[CategoricalField, ...] = ()
    numeric: tuple[NumericField, ...] = ()
    sequence: tuple[SequenceField, ...] = ()
    time: str | None = Field(None, description="numeric column that orders the rows, if there is one")
    split: SplitConfig = SplitConfig()
    synthetic: SyntheticConfig | None = Field(None, description="settings of the generator; only without data.path")
    block_rows: int = Field(262_144, ge=1024, description="rows held in memory at a time while reading")

    @model_validator(mode="before")
    @classmethod
    def _names_to_fields(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        value = dict(value)
        for key in ("categorical", "numeric", "sequence"):
            if isinstance(value.get(key), (list, tuple)):
                value[key] = [{"name": f} if isinstance(f, str) else f for f in value[key]]
        return value

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        names = [f.name for f in (*self.categorical, *self.numeric, *self.sequence)]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise ValueError(f"fields named twice: {doubled}")
        for taken in (self.label, self.time if self.split.kind == "time" else None, self.split.column if self.split.kind == "column" else None):
            if taken in names:
                raise ValueError(f"column {taken!r} is the label, time or split: it cannot be a feature too")
        if self.path is not None and self.synthetic is not None:
            raise ValueError("data.synthetic has no effect when data.path is set; remove one of them")
        if self.path is not None and self.preset is None and not names:
            raise ValueError("no feature columns: list some under data.categorical, data.numeric or data.sequence")
        if self.split.kind == "time" and self.time is None:
            raise ValueError("split kind 'time' needs data.time, the column that orders the rows")
        if self.columns is not None and self.header:
            raise ValueError("data.columns has no effect while data.header is true; set data.header=false")
        return self


class CountConfig(Settings):
    """Counting and vocabularies."""

    scheduler: str = Field("threads", description="Dask: 'threads', 'synchronous', or tcp://host:port of a cluster")
    num_workers: int | None = Field(None, ge=1, description="threads; null: one per core")
    min_count: int = Field(1, ge=1, description="values counted less often in training share id 0 (out of vocabulary)")

    @model_validator(mode="after")
    def _scheduler(self) -> CountConfig:
        if self.scheduler not in ("threads", "synchronous") and "://" not in self.scheduler:
            raise ValueError("scheduler must be 'threads', 'synchronous' or an address such as tcp://host:8786")
        return self


class OptimizerConfig(Settings):
    """One training: used by pre-training, by the backbone and by the full-table reference."""

    learning_rate: float = Field(1e-3, gt=0, description="Adam step size")
    l2: float = Field(0.0, ge=0, description="weight of the mean over rows of the squared norm of the batch's embeddings")
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
    l2_warmup_epochs: float = Field(1.0, ge=0, description="passes over which l2 rises from 0: a strong l2 holds small vectors at zero")
    learning_rate: float = Field(2e-3, gt=0, description="Adam step size")
    l2: float = Field(0.02, ge=0, description="weight of the mean over rows of the squared norm of the batch's embeddings")
    batch_size: int = Field(1024, ge=1, description="rows per step")
    max_epochs: int = Field(50, ge=1, description="passes over the training split at most")
    patience: int = Field(3, ge=1, description="evaluations without a better validation AUC before stopping")


class QuantizeConfig(Settings):
    """How the pre-trained vectors become codes."""

    structure: Literal["product", "residual"] = Field("residual", description="sub-vectors side by side, or full-width codewords added up")
    num_codes: int = Field(1, ge=1, le=64, description="M, codes per value")
    num_codewords: int = Field(64, ge=2, le=65_536, description="K, codewords per codebook")
    weights: Literal["none", "sqrt", "log2", "raw"] = Field("sqrt", description="weight of a value in k-means, from its training count n")
    min_values: int = Field(1000, ge=1, description="vocabularies smaller than this keep exact vectors")
    iterations: int = Field(25, ge=1, le=10_000, description="k-means iterations at most")
    max_points: int = Field(262_144, ge=256, description="values drawn to fit a codebook; all are coded")
    chunk_rows: int = Field(65_536, ge=256, description="values coded at a time")


class PublishConfig(Settings):
    """Codes to the online store."""

    enabled: bool = Field(True, description="false: make everything but publish nothing")
    feature_repo: str | None = Field(None, description="directory with feature_store.yaml; null: sqlite under `store`")
    batch_rows: int = Field(20_000, ge=1, description="rows written per call")
    verify_rows: int = Field(1_000, ge=0, description="rows read back and compared")
    writer: Literal["feast", "bulk"] = Field("feast", description="Feast's own writer, or the same rows straight into its sqlite store")


class TrainConfig(OptimizerConfig):
    """The downstream backbone, trained on codes."""

    model: Name = Field("deepfm", description="backbone")
    settings: dict[str, Any] = Field(default_factory=dict, description="the backbone's own settings")
    codewords: Literal["frozen", "warm", "random"] = Field("frozen", description="kept as they are, trained on, or trained from random")


class ReferenceConfig(OptimizerConfig):
    """The full-table model that the compressed one is compared with; same backbone as train.model."""

    init: Literal["pretrained", "random"] = Field("pretrained", description="first vectors: the pre-trained ones, or random")
    l2: float = Field(0.02, ge=0, description="weight of the mean over rows of the squared norm of the batch's embeddings")


class EvaluateConfig(Settings):
    """What is measured on the test split."""

    reference: Literal["full", "none"] = Field("none", description="also train and evaluate the backbone on full tables")
    full: ReferenceConfig = ReferenceConfig()
    batch_size: int = Field(16_384, ge=1, description="rows per step")
    latency_rows: int = Field(10_000, ge=0, description="rows of one look-up in the latency table; 0: leave it out")


class GateConfig(Settings):
    """When a challenger becomes champion."""

    min_auc: float = Field(0.5, ge=0, le=1, description="absolute bound: test AUC must be above it")
    max_auc_drop: float = Field(0.0, ge=0, le=1, description="how far below the champion's AUC, on the same data, is still as good")


class TrackingConfig(Settings):
    """MLflow runs and the model registry."""

    enabled: bool = Field(True, description="false: neither log nor register")
    uri: str | None = Field(None, description="tracking server; null: MLFLOW_TRACKING_URI, else sqlite under `store`")
    experiment: str = Field("mec", min_length=1, description="MLflow experiment of the runs")
    model_name: str | None = Field(None, description="registered model; null: the run's name")
    gate: GateConfig = GateConfig()


class RunConfig(Settings):
    """All settings of one run of the train pipeline."""

    name: Name = Field("demo", description="names the run's directory and, by default, the registered model")
    seed: int = Field(0, ge=0, lt=2**31, description="of every random draw")
    image: str | None = Field(None, description="container image of the steps; compiling for a cluster needs NAME@sha256:…")
    store: str = Field(".mec", description="directory of the embedded sqlite MLflow and Feast stores")
    data: DataConfig = DataConfig()
    count: CountConfig = CountConfig()
    pretrain: PretrainConfig = PretrainConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    publish: PublishConfig = PublishConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _codes_fit(self) -> RunConfig:
        width = self.pretrain.embedding_dim + 1
        if self.quantize.structure == "product" and self.quantize.num_codes > width:
            raise ValueError(
                f"quantize.num_codes={self.quantize.num_codes} sub-vectors do not fit a vector of {width} floats "
                f"(pretrain.embedding_dim={self.pretrain.embedding_dim} and the first-order weight)"
            )
        if self.quantize.num_codewords > self.quantize.max_points:
            raise ValueError("quantize.num_codewords is more than quantize.max_points, the values a codebook is fitted on")
        return self


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML config, apply ``key=value`` overrides, check everything.

    Args:
        path: YAML file.
        overrides: Dotted keys with YAML values, such as ``quantize.num_codes=2``; later ones win.

    Raises:
        ConfigError: No such file, not YAML, an unknown key (the known ones are listed) or a bad value.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no config file {path}", fix="pass a YAML file; examples are under configs/") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the config {path}", found=error, fix="write it as UTF-8 YAML") from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"the config {path} is not a mapping of keys", found=type(raw).__name__, fix="see configs/demo.yaml")
    for override in overrides:
        apply_override(raw, override)
    return parse_config(raw, where=str(path))


def parse_config(raw: dict[str, Any], where: str = "config") -> RunConfig:
    """Check a mapping of settings; errors name every bad key and list the known ones."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where} has bad settings:\n  " + "\n  ".join(_explain(error, RunConfig))) from None


def section(model: type[Settings], text: str) -> Any:
    """Read one section back from the JSON that a pipeline parameter carries.

    Raises:
        ConfigError: The JSON does not fit the section.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"bad {model.__name__} parameter:\n  " + "\n  ".join(_explain(error, model))) from None


def joined(
    name: str,
    seed: int,
    store: str,
    data: str,
    count: str,
    pretrain: str,
    quantize: str,
    publish: str,
    train: str,
    evaluate: str,
    tracking: str,
) -> str:
    """Put a run's settings together again from pipeline parameters; sections are JSON.

    Returns:
        JSON that ``RunConfig`` reads; the image, which changes no result, is left out.
    """
    sections = {
        "data": data,
        "count": count,
        "pretrain": pretrain,
        "quantize": quantize,
        "publish": publish,
        "train": train,
        "evaluate": evaluate,
        "tracking": tracking,
    }
    return json.dumps({"name": name, "seed": seed, "store": store, **{k: json.loads(v) for k, v in sections.items()}})


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Put one ``key=value`` into a mapping of settings; keys are dotted, values YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError("--set needs key=value", found=override, fix="for example --set quantize.num_codes=2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: the value is not YAML", found=error, fix="quote it") from None
    *parents, last = key.strip().split(".")
    node: Any = raw
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"--set {key}: {parent} is not a section", found=json.dumps(node, default=str))
    node[last] = value


def _explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    lines = []
    for item in error.errors():
        location = [str(p) for p in item["loc"]]
        where = ".".join(location) or "settings"
        if item["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(model, location[:-1]))
            lines.append(f"{where}: unknown key; found: {item['input']!r}; fix: use one of {known}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            shown = f"; found: {item['input']!r}" if not isinstance(item["input"], (dict, BaseModel)) else ""
            lines.append(f"{where}: {message}{shown}")
    return lines


def _known_keys(model: type[BaseModel], parents: Sequence[str]) -> list[str]:
    current: type[BaseModel] = model
    for name in parents:
        if name.isdigit():
            continue
        annotation = current.model_fields[name].annotation if name in current.model_fields else None
        nested = _model_of(annotation)
        if nested is None:
            break
        current = nested
    return list(current.model_fields)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_of(argument)
        if found is not None:
            return found
    return None
