"""The leaderboard's bundle, and the cells that do not belong into one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mec.bakeoff.leaderboard_step import leaderboard_step
from mec.bundle import open_bundle, write_bundle, write_json
from mec.config import TrackingConfig
from mec.errors import BundleError
from tests.bakeoff.made_up import cells, failed


def bundles(root: Path, results: list[dict], dataset: str = "d", backbone: str = "fm") -> list[Path]:
    paths = []
    for result in results:
        paths.append(root / f"{result['method']}-{result['budget']}-{result['seed']}")
        with write_bundle(paths[-1], "bakeoff_cell", parents={"dataset": dataset, "pretrained": "p"}) as draft:
            write_json(draft.path / "cell.json", result)
            draft.extra = {"method": result["method"], "backbone": backbone}
    return paths


def put_together(paths: list[Path], out: Path) -> None:
    off = TrackingConfig(enabled=False)
    leaderboard_step(tracking=off, name="tiny", store=out, cells=paths, run_id="run", out=out)


def test_the_bundle_holds_the_leaderboard_for_machines_and_people(tmp_path, capsys):
    results = [*cells("a", "2x", [0.7, 0.72], [0.6, 0.61], 3000), failed("a", "8x", 0), failed("a", "8x", 1)]
    paths = bundles(tmp_path, results)
    put_together(paths[::-1], tmp_path / "out")
    bundle = open_bundle(tmp_path / "out", "leaderboard")
    assert {f"leaderboard.{suffix}" for suffix in ("json", "md", "html", "png")} == set(bundle.manifest.files)
    assert bundle.manifest.parents["a-2x-1"] == open_bundle(paths[1]).uuid
    board = json.loads(bundle.file("leaderboard.json").read_text(encoding="utf-8"))
    assert board["cells"]["a-2x-1"] == results[1]
    assert board["backbone"] == "fm"
    assert [r["method"] for r in board["recommendations"]] == ["a", None]
    assert "Best by validation AUC: a within 2x" in capsys.readouterr().out


@pytest.mark.parametrize(("other", "said"), [({"dataset": "e"}, "different dataset"), ({"backbone": "lr"}, "backbone")])
def test_cells_of_another_bakeoff_are_refused(tmp_path, other, said):
    paths = bundles(tmp_path, cells("a", "2x", [0.7], [0.6], 3000))
    paths += bundles(tmp_path, cells("b", "2x", [0.7], [0.6], 3000), **other)
    with pytest.raises(BundleError, match=said):
        put_together(paths, tmp_path / "out")
