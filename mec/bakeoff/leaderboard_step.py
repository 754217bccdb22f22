"""The leaderboard step: the cells of a bake-off put together, as a bundle and as nested MLflow runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mec.bakeoff.cell_step import KIND, outcome, read_cell
from mec.bakeoff.curve import draw_curve
from mec.bakeoff.leaderboard import make_leaderboard
from mec.bakeoff.pages import heading, leaderboard_markdown, leaderboard_page
from mec.bundle import Bundle, open_bundle, write_bundle, write_json
from mec.config import TrackingConfig
from mec.errors import BundleError
from mec.steps import step
from mec.tracking import nested, runs

LEADERBOARD = "leaderboard.json"


def leaderboard_step(
    *, tracking: TrackingConfig, name: str, store: Path, cells: Sequence[Path], run_id: str, out: Path
) -> None:
    """Put cells together: ``leaderboard.json``, ``.md``, ``.html`` and ``.png``, and an MLflow run with one per cell.

    Args:
        tracking: Server and experiment.
        name: The run's name.
        store: Directory of the embedded sqlite store.
        cells: Bundles of cells, in any order.
        run_id: Of the pipeline run.
        out: Directory of the leaderboard bundle.

    Raises:
        BundleError: A bundle is missing or corrupt, a cell is there twice, or they are not of one bake-off.
        TrackingError: The tracking server does not answer, or contradicts us.
    """
    with step("leaderboard", out) as record:
        bundles = [open_bundle(path, KIND) for path in cells]
        refuse_other_inputs(bundles)
        results = [read_cell(bundle) for bundle in bundles]
        board = make_leaderboard(results)
        board["cells"] = {label(result): result for result in results}
        board["backbone"] = bundles[0].extra["backbone"]
        board["bundles"] = {label(r): str(b.path.resolve()) for r, b in zip(results, bundles, strict=True)}
        parents = {label(result): bundle for result, bundle in zip(results, bundles, strict=True)}
        figure = draw_curve(board)
        with write_bundle(out, "leaderboard", parents=parents) as draft:
            write_json(draft.path / LEADERBOARD, board)
            (draft.path / "leaderboard.png").write_bytes(figure)
            (draft.path / "leaderboard.md").write_text(leaderboard_markdown(board), encoding="utf-8")
            (draft.path / "leaderboard.html").write_text(leaderboard_page(board, figure, name=name), encoding="utf-8")
        if tracking.enabled:
            _log(open_bundle(out), board, tracking, store=store, name=name, run_id=run_id)
        record.summary = heading(board)


def label(result: Mapping[str, Any]) -> str:
    """A cell's name among those of its bake-off."""
    return f"{result['method']}-{result['budget']}-{result['seed']}"


def refuse_other_inputs(bundles: Sequence[Bundle]) -> None:
    """Refuse cells that were trained on different rows or tables, or with different backbones.

    Raises:
        BundleError: They were; the differing inputs are named.
    """
    found = {(*sorted(b.manifest.parents.items()), ("backbone", str(b.extra["backbone"]))) for b in bundles}
    if len(found) > 1:
        differing = sorted({role for a in found for b in found for role, _ in set(a) ^ set(b)})
        raise BundleError(
            "the cells are not of one bake-off",
            found=f"different {', '.join(differing)}",
            fix="pass cells of the same dataset, vocabulary, pre-trained tables and backbone",
        )


def _log(
    bundle: Bundle, board: Mapping[str, Any], tracking: TrackingConfig, *, store: Path, name: str, run_id: str
) -> None:
    with runs.open_run(tracking, store=store, run_name=f"{name}-bakeoff", run_id=run_id) as run:
        for cell, result in board["cells"].items():
            metrics = {
                key: result[key] for key in ("auc", "valid_auc", "logloss", "ratio", "num_bytes") if key in result
            }
            metrics |= {key: result[key] for key in ("train_seconds", "epochs") if result.get(key) is not None}
            metrics |= {"bytes": result["bytes"]} if "bytes" in result else {}
            params = {key: result[key] for key in ("method", "budget", "seed")} | {
                "settings": result.get("settings", {})
            }
            tags = {"status": result["status"], "outcome": outcome(result), "kfp_run": run_id}
            nested.log_child(run, name=cell, params=params, metrics=metrics, tags=tags)
        best = {r["budget"]: str(r["method"]) for r in board["recommendations"]}
        tags = {f"recommended.{budget}": method for budget, method in best.items()}
        runs.log_tags(run, tags | {"leaderboard": bundle.uuid, "kfp_run": run_id, "backbone": board["backbone"]})
        for file in sorted(bundle.manifest.files):
            run.client.log_artifact(run.run_id, str(bundle.path / file), "leaderboard")
