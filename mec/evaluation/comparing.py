"""Several backbones on the same codes and test rows: one table, one figure, one page, one JSON value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mec.errors import BundleError
from mec.evaluation import formatting as fmt
from mec.evaluation.bootstrap import paired_bootstrap
from mec.evaluation.figure_style import COMPRESSED, FULL, GREY, INK, house_style, new_figure, to_png
from mec.evaluation.metrics import Floats, Labels
from mec.evaluation.report import backbone_name, markdown_page, page
from mec.evaluation.table import ABSENT, Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Comparison = Mapping[str, Any]


@dataclass(frozen=True)
class Candidate:
    """One backbone, as it was measured.

    backbone: registry name.
    labels: (N,) of the test rows, in file order.
    logits: (N,) uncalibrated.
    evaluation: what ``evaluation.json`` holds.
    parameters: numbers that training the backbone moves, embeddings left out.
    train_seconds: wall time of its train step.
    registration: ``model``, ``model_version``, ``aliases`` and ``decision``.
    """

    backbone: str
    labels: Labels
    logits: Floats
    evaluation: Mapping[str, Any]
    parameters: int
    train_seconds: float
    registration: Mapping[str, Any]


def compare_backbones(
    candidates: Sequence[Candidate], *, seed: int, num_resamples: int | None = None
) -> dict[str, Any]:
    """Compare backbones that were measured on the same test rows.

    Args:
        candidates: Two or more, each backbone once.
        seed: Of the bootstrap's resamples.
        num_resamples: As ``paired_bootstrap``.

    Returns:
        JSON value: ``num_test_rows``, ``num_resamples``, ``best`` (greatest AUC; the first listed among equals) and
        ``models``: backbone -> ``auc``, ``auc_interval``, ``auc_difference`` to the best (null for itself),
        ``logloss``, ``parameters``, ``train_seconds``, ``ratio``, ``embedding_bytes``, ``full_auc`` and
        ``full_logloss`` where a reference was trained, ``model``, ``model_version``, ``aliases`` and ``decision``.

    Raises:
        BundleError: A backbone twice, or measured on other rows than the first.
    """
    first = candidates[0]
    names = [candidate.backbone for candidate in candidates]
    if len(set(names)) < len(names):
        raise BundleError("a backbone is there twice", found=names, fix="compare evaluations of different backbones")
    for other in candidates[1:]:
        if not np.array_equal(other.labels, first.labels):
            raise BundleError(
                f"{other.backbone} was measured on other test rows than {first.backbone}",
                found=f"{len(other.labels)} and {len(first.labels)} rows",
                fix="evaluate every backbone on the same dataset",
            )
    aucs = paired_bootstrap(first.labels, [c.logits for c in candidates], seed=seed, num_resamples=num_resamples)
    best = int(np.argmax(aucs.values))
    return {
        "num_test_rows": len(first.labels),
        "num_resamples": aucs.num_resamples,
        "best": names[best],
        "models": {
            candidate.backbone: {
                **_facts(candidate),
                "auc_interval": aucs.interval(index).to_json(),
                "auc_difference": None if index == best else aucs.difference(index, best).to_json(),
            }
            for index, candidate in enumerate(candidates)
        },
    }


def draw_comparison(comparison: Comparison) -> bytes:
    """The figure as PNG: each backbone's AUC, and its paired difference to the best, with 95 % intervals."""
    models = _by_auc(comparison)
    with house_style():
        figure = new_figure(8.4, 1.5 + 0.36 * len(models))
        left, right = figure.subplots(1, 2, sharey=True)
        for place, facts in enumerate(models.values()):
            _whisker(left, place, facts["auc"], facts["auc_interval"], COMPRESSED)
            if "full_auc" in facts:
                left.plot(facts["full_auc"], place, "D", color=FULL, markerfacecolor="white", markersize=4.5)
            if facts["auc_difference"] is not None:
                _whisker(right, place, facts["auc_difference"]["value"], facts["auc_difference"], INK)
        left.set_yticks(range(len(models)), [backbone_name(name).replace("$", r"\$") for name in models])
        left.set_ylim(len(models) - 0.5, -0.5)
        full = any("full_auc" in facts for facts in models.values())
        left.set_title("AUC on the test split" + (" (diamond: on full tables)" if full else ""))
        right.axvline(0, color=GREY, linewidth=0.8)
        right.set_title(f"Difference to {backbone_name(comparison['best'])}, on the same rows".replace("$", r"\$"))
        for axes in (left, right):
            axes.locator_params(axis="x", nbins=5)
        figure.suptitle(heading(comparison).replace("$", r"\$"))
        return to_png(figure)


def heading(comparison: Comparison) -> str:
    """The finding in one sentence: which is best, and whether chance can be ruled out against the next one."""
    (best, facts), (_, second), *_ = _by_auc(comparison).items()
    beyond_chance = second["auc_difference"]["high"] < 0
    text = f"{backbone_name(best)} is best of {len(comparison['models'])}: AUC {fmt.metric(facts['auc'])}"
    return text if beyond_chance else f"{text}, within chance of the next"


def comparison_table(comparison: Comparison) -> Table:
    """One line per backbone, best first."""
    models = _by_auc(comparison)
    full = any("full_auc" in facts for facts in models.values())
    heads = ["backbone", "AUC", "95 % interval", "to the best", "logloss"]
    heads += ["full AUC"] if full else []
    heads += ["parameters", "training", "fewer bytes", "registered"]
    rows = []
    for name, facts in models.items():
        interval, change = facts["auc_interval"], facts["auc_difference"]
        cells = [backbone_name(name), fmt.metric(facts["auc"])]
        cells.append(f"{fmt.metric(interval['low'])} to {fmt.metric(interval['high'])}")
        cells.append(ABSENT if change is None else _change(change))
        cells.append(fmt.metric(facts["logloss"]))
        if full:
            cells.append(fmt.metric(facts["full_auc"]) if "full_auc" in facts else ABSENT)
        cells += [fmt.count(facts["parameters"]), fmt.seconds(facts["train_seconds"]), fmt.ratio(facts["ratio"])]
        rows.append(Row([*cells, _registered(facts)]))
    note = (
        f"Intervals: paired bootstrap, {fmt.count(comparison['num_resamples'])} resamples of the "
        f"{fmt.count(comparison['num_test_rows'])} test rows, the same rows for every backbone. Logloss is calibrated, "
        "as served. Parameters are the backbone's own; fewer bytes are the embeddings', against full tables in fp32."
    )
    return Table("Backbones on the same codes", heads, rows, note)


def comparison_markdown(comparison: Comparison) -> str:
    """The finding and the table as Markdown."""
    return markdown_page(heading(comparison), [comparison_table(comparison)])


def comparison_page(
    comparison: Comparison,
    figure: bytes,
    *,
    name: str,
    tables: Sequence[Table] = (),
    config: Mapping[str, Any] | None = None,
) -> str:
    """The comparison as a self-contained HTML page.

    Args:
        comparison: From ``compare_backbones``.
        figure: From ``draw_comparison``.
        name: Of the run.
        tables: More tables to show below.
        config: Every setting of the run.
    """
    tiles = [
        {"label": backbone_name(model), "value": fmt.metric(facts["auc"]), "note": f"AUC, {_registered(facts)}"}
        for model, facts in _by_auc(comparison).items()
    ]
    return page(
        title=f"{name} · mec comparison",
        subtitle=f"{name} · {fmt.count(comparison['num_test_rows'])} test rows",
        verdict=heading(comparison),
        tiles=tiles,
        figures={"comparison": figure},
        tables=[comparison_table(comparison), *tables],
        config=config,
    )


def _facts(candidate: Candidate) -> dict[str, Any]:
    evaluation, registration = candidate.evaluation, candidate.registration
    facts: dict[str, Any] = {
        "auc": float(evaluation["auc"]),
        "logloss": float(evaluation["logloss"]),
        "parameters": candidate.parameters,
        "train_seconds": candidate.train_seconds,
        "ratio": float(evaluation["ratio"]),
        "embedding_bytes": int(sum(evaluation["bytes"].values())),
    }
    facts |= {key: float(evaluation[key]) for key in ("full_auc", "full_logloss") if key in evaluation}
    return facts | {key: registration[key] for key in ("model", "model_version", "aliases", "decision")}


def _by_auc(comparison: Comparison) -> dict[str, dict[str, Any]]:
    best = comparison["best"]
    return dict(sorted(comparison["models"].items(), key=lambda item: (-item[1]["auc"], item[0] != best)))


def _registered(facts: Mapping[str, Any]) -> str:
    if facts["model"] is None:
        return "not registered"
    return f"{facts['model']} v{facts['model_version']}" + "".join(f", {alias}" for alias in facts["aliases"])


def _change(change: Mapping[str, float]) -> str:
    return f"{fmt.signed(change['value'])} ({fmt.interval(change['low'], change['high'])})"


def _whisker(axes: Axes, place: int, value: float, interval: Mapping[str, float], color: str) -> None:
    axes.plot([interval["low"], interval["high"]], [place, place], color=color, linewidth=1.6)
    axes.plot(value, place, "o", color=color, markersize=5)
