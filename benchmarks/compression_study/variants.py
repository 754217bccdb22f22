"""What is compared: every method at every size, and the points its own search tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

from full_tables import SMALL_STEPS

from compression_study.tables import Shape, Study
from mec.config import EvaluateConfig, MecConfig, PretrainConfig, QuantizeConfig, ReferenceConfig, TrainConfig
from mec.data.layout import FieldLayout

# of QuantizeConfig: a variant chooses these, never the table's config
_SHAPE_SETTINGS = {"structure", "num_codes", "num_codewords", "head", "tail_count", "budget", "objective", "mec"}
_PLANNED_SETTINGS = {"min_values"}  # the budget's allocation decides it


@dataclass(frozen=True)
class Point:
    """One setting of the backbone's training that a search tries."""

    dropout: float | None = None  # None: the backbone's own default
    l2: float | None = None  # full tables only
    init: Literal["pretrained", "random"] = "pretrained"  # full tables only
    small_steps: bool = False  # full tables only

    def __str__(self) -> str:
        parts = [] if self.dropout is None else [f"dropout {self.dropout:g}"]
        parts += [] if self.l2 is None else [f"l2 {self.l2:g}"]
        parts += ["random rows"] if self.init == "random" else []
        parts += ["small steps"] if self.small_steps else []
        return ", ".join(parts) or "as it is"


@dataclass(frozen=True)
class Variant:
    """One method at one size.

    Attributes:
        method: reference, ours, warm (ours, with codewords trained on), ours_mec (ours, fitted to the MEC objective),
            full_folds (frozen full tables, the backbone trained out of fold), residual, no_folds (the same without
            out-of-fold training), pq, ablation, small_dim or hashing.
        size: Name within the method; ``label`` is method/size.
        pretrain: The FM whose rows it starts from.
        grid: Points of its search; one point needs none.
        quantize: Settings of ``QuantizeConfig``; None for full tables.
        codewords: frozen, warm or random; of coded variants.
        rows: Rows per vocabulary that values are hashed into; empty: a row each.
    """

    method: str
    size: str
    pretrain: PretrainConfig
    grid: tuple[Point, ...]
    quantize: Mapping[str, Any] | None = None
    codewords: Literal["frozen", "warm", "random"] = "frozen"
    rows: tuple[tuple[str, int], ...] = ()

    @property
    def label(self) -> str:
        return f"{self.method}/{self.size}" if self.size else self.method

    def train_config(self, study: Study, point: Point) -> TrainConfig:
        """The backbone's settings at one point of the search."""
        train = study.config.train.model_dump()
        if point.dropout is not None:
            train["settings"] = {**train["settings"], "dropout": point.dropout}
        return TrainConfig.model_validate({**train, "codewords": self.codewords})

    def evaluate_config(self, study: Study, point: Point) -> EvaluateConfig:
        """Settings of the training on full tables at one point of the search."""
        full = study.config.evaluate.full.model_dump()
        if point.l2 is not None:
            full["l2"] = point.l2
        full = {**full, "init": point.init, **(SMALL_STEPS if point.small_steps else {})}
        return study.config.evaluate.model_copy(
            update={"reference": "full", "full": ReferenceConfig.model_validate(full)}
        )

    def quantize_settings(self) -> dict[str, Any] | None:
        """JSON value of all settings of quantization, defaults included; None for full tables."""
        if self.quantize is None:
            return None
        return {name: field.default for name, field in QuantizeConfig.model_fields.items()} | dict(self.quantize)

    def fit_settings(self, study: Study, point: Point) -> dict[str, Any]:
        """JSON value of all that shapes the backbone's training."""
        train = self.train_config(study, point)
        if self.quantize is not None:
            return {"train": train.model_dump(mode="json")}
        full = self.evaluate_config(study, point).full.model_dump(mode="json")
        return {"model": train.model, "settings": train.settings, "full": full}


def find_variants(study: Study, layout: FieldLayout) -> list[Variant]:
    """All variants of a study, the reference first.

    Args:
        study: The table.
        layout: Of its encoded rows; hashing needs the vocabularies' sizes.
    """
    pretrain = study.config.pretrain
    # full tables start from the model of all rows: folds would cost time and change nothing
    whole = PretrainConfig.model_validate({**pretrain.model_dump(), "folds": 0})
    searched = product((False, True), study.reference_l2, study.dropouts)
    crossed = tuple(Point(dropout, l2, small_steps=small) for small, l2, dropout in searched)
    random = tuple(Point(None, l2, "random") for l2 in study.random_l2)
    baseline = tuple(Point(None, l2) for l2 in study.baseline_l2)
    baseline += tuple(Point(None, l2, "random") for l2 in study.baseline_random_l2)
    own = (Point(),)  # codes are never searched: the config's settings at every size
    base = study.config.quantize.model_dump(exclude_unset=True)
    planned = {k: v for k, v in base.items() if k not in _SHAPE_SETTINGS | _PLANNED_SETTINGS}
    fixed = {k: v for k, v in base.items() if k not in _SHAPE_SETTINGS}

    result = [Variant("reference", "", pretrain, crossed + random)]
    for ratio in study.ratios:
        result.append(Variant("ours", f"{ratio:g}x", pretrain, own, {**planned, "budget": f"{ratio:g}x"}))
    for ratio in study.warm_ratios:
        settings = {**planned, "budget": f"{ratio:g}x"}
        result.append(Variant("warm", f"{ratio:g}x", pretrain, own, settings, codewords="warm"))
        result.append(Variant("ours_mec", f"{ratio:g}x", pretrain, own, settings | _mec()))
    exact = fixed | {"min_values": layout.num_values + 1, "floats": "float32"}
    result.append(Variant("full_folds", "", pretrain, own, exact))
    for shape in study.residual:
        result.append(Variant("residual", _name(shape), pretrain, own, fixed | _shape("residual", shape)))
        result.append(Variant("no_folds", _name(shape), whole, own, fixed | _shape("residual", shape)))
    for shape in study.product:
        plain = fixed | _shape("product", shape) | {"weights": "none", "reliability": False}
        result.append(Variant("pq", _name(shape), pretrain, own, plain))
    product_codes = fixed | _shape("product", study.ablation) | {"reliability": False}
    result += _ablations(study, pretrain, own, product_codes)
    for dim in study.small_dims:
        small = whole.model_copy(update={"embedding_dim": dim})
        result.append(Variant("small_dim", f"D{dim}", small, baseline))
    for ratio in study.hashing_ratios:
        rows = hashed_rows(layout, layout.num_values / ratio, study.config.quantize.min_values)
        result.append(Variant("hashing", f"{ratio:g}x", whole, baseline, rows=tuple(rows.items())))
    return result


def hashed_rows(layout: FieldLayout, num_rows: float, min_values: int) -> dict[str, int]:
    """Rows of each vocabulary that is hashed, so that all tables together have ``num_rows`` rows.

    Vocabularies smaller than ``min_values`` keep a row for every value as long as they take half of the rows
    at most, smallest first; the others share what is left in proportion to their sizes, rounded down, but two
    rows each at least.
    """
    kept = 0
    hashed: dict[str, int] = {}
    for name, size in sorted(layout.vocabularies, key=lambda item: item[1]):
        if size < min_values and not hashed and kept + size <= num_rows / 2:
            kept += size
        else:
            hashed[name] = size
    share = (num_rows - kept) / sum(hashed.values()) if hashed else 1.0
    return {name: min(size, max(2, int(share * size))) for name, size in hashed.items()}


def _ablations(
    study: Study, pretrain: PretrainConfig, grid: tuple[Point, ...], coding: dict[str, Any]
) -> list[Variant]:
    """Product codes of one shape that differ in one thing each."""
    name = _name(study.ablation)
    weighted = coding | {"weights": "sqrt"}
    quantized = {
        "pq": coding | {"weights": "none"},
        "frequency-pq": weighted,
        "mec": weighted | _mec(),
        "mec-encoder": weighted | _mec(encoder="mlp"),
        "mec-no-contrastive": weighted | _mec(contrastive=0.0),
        "mec-no-regulariser": weighted | _mec(entropy=0.0),
        "mec-paper": coding | {"weights": "log2"} | _mec(encoder="mlp"),
        "mec-paper-no-contrastive": coding | {"weights": "log2"} | _mec(encoder="mlp", contrastive=0.0),
        "mec-paper-no-regulariser": coding | {"weights": "log2"} | _mec(encoder="mlp", entropy=0.0),
    }
    result = [Variant("ablation", f"{name}-{what}", pretrain, grid, q) for what, q in quantized.items()]
    result.append(Variant("ablation", f"{name}-warm", pretrain, grid, weighted, codewords="warm"))
    return [*result, Variant("ablation", f"{name}-random", pretrain, grid, weighted, codewords="random")]


def _shape(structure: str, shape: Shape) -> dict[str, Any]:
    return {"structure": structure, "num_codes": shape[0], "num_codewords": shape[1]}


def _mec(**terms: float | str) -> dict[str, Any]:
    return {"objective": "mec", "mec": MecConfig.model_validate(terms).model_dump(mode="json")}


def _name(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"


def point_json(point: Point) -> dict[str, Any]:
    """A point as a JSON value."""
    return asdict(point)
