"""The bake-off's arithmetic beyond ``mec.bakeoff``: verdicts on the frontier, papers' claims, cells run once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import bakeoff
import pytest
from bakeoff_study import claims, epochs, frontier, numbers, tuning
from bakeoff_study.claims import CLAIMS, agreement
from bakeoff_study.epochs import run_epochs
from bakeoff_study.running import run_jobs
from bakeoff_study.workspace import Job, make_data, make_space

from mec.bakeoff.cells import Cell, plan_cells
from mec.bakeoff.estimates import Estimate
from mec.bakeoff.leaderboard import make_leaderboard
from mec.config import parse_config
from mec.embeddings.methods import METHODS
from mec.errors import ConfigError
from tests.bakeoff.made_up import cells, failed

BUDGET = {"text": "8x", "bytes": 1000}


def board(**aucs: list[float]) -> dict[str, Any]:
    """Methods -> test AUC by seed; validation AUC is the same."""
    found = [cell for method, values in aucs.items() for cell in cells(method, "8x", values, values, 900)]
    return make_leaderboard(found)


@pytest.mark.parametrize(
    ("qr", "verdict", "above"),
    [
        ([0.700, 0.701, 0.699], "above", []),
        ([0.75, 0.79, 0.80], "on", []),  # below in the mean, within chance
        ([0.70, 0.83, 0.90], "on", ["qr"]),  # above in the mean, within chance
        ([0.830, 0.831, 0.829], "below", ["qr"]),
    ],
)
def test_the_verdict_is_that_of_paired_intervals(qr, verdict, above):
    found = frontier.stand(board(mec=[0.80, 0.801, 0.799], qr=qr, pq=[0.6, 0.6, 0.6]), BUDGET)
    assert (found.verdict, list(found.above)) == (verdict, above)
    assert found.rival == "qr"
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.8 - sum(qr) / 3)


def test_without_ours_nothing_is_said():
    assert frontier.stand(board(qr=[0.7, 0.7]), BUDGET).verdict == "not measured"


def test_one_seed_is_never_beyond_chance():
    found = frontier.stand(board(mec=[0.8], qr=[0.9]), BUDGET)
    assert (found.verdict, list(found.above)) == ("on", ["qr"])
    assert "| 8x | on |" in "\n".join(frontier.frontier_table(board(mec=[0.8], qr=[0.9])))


def test_a_page_has_every_methods_auc_and_place_at_every_budget(tmp_path):
    two = [*cells("pq", "8x", [0.8, 0.82], [0.7, 0.72], 900), *cells("qr", "8x", [0.8, 0.8], [0.73, 0.73], 300)]
    whole = cells("full", "1x", [0.8, 0.8], [0.75, 0.75], 8000)
    one_seed = cells("dhe", "8x", [0.9], [0.9], 900)  # has no place beside those of two
    (tmp_path / "yelp_next.json").write_text(json.dumps(make_leaderboard([*whole, *two, *one_seed])))
    page = tmp_path / "page.md"
    old = "*Test AUC and place.* old\n"
    names = ["pq", "qr", "full", "mec", "dhe"]
    page.write_text("a\n" + "".join(f"<!-- numbers: {name} -->\n{old * (name in 'pqmec')}\n" for name in names) + "b\n")
    bakeoff.fill_page(page, tmp_path)
    filled = page.read_text()
    assert [line for line in filled.splitlines() if line] == [
        "a",
        "<!-- numbers: pq -->",
        "*Test AUC and place.* Yelp: 8x .7100, 2 of 2.",
        "<!-- numbers: qr -->",
        "*Test AUC and place.* Yelp: 8x .7300 (at 27x), 1 of 2.",
        "<!-- numbers: full -->",
        "*Test AUC and place.* Yelp: whole .7500.",
        "<!-- numbers: mec -->",
        "<!-- numbers: dhe -->",
        "b",
    ]
    bakeoff.fill_page(page, tmp_path)
    assert page.read_text() == filled


def test_what_is_said_of_other_tables_stays():
    old = " MovieLens-1M: 2x .1; 8x beyond. Yelp: 8x .2, 3 of 4; 32x .1. Beauty: 8x .3 (at 9x), 1 of 2."
    assert numbers.method_line("qr", {"Beauty": board(pq=[0.7])}, kept=old) == numbers.method_line("qr", {}, kept=old)
    line = numbers.method_line("qr", {"Yelp": board(qr=[0.8], pq=[0.7])}, kept=old)
    assert line == (
        "*Test AUC and place.* MovieLens-1M: 2x .1; 8x beyond. Yelp: 8x .8000, 1 of 2. Beauty: 8x .3 (at 9x), 1 of 2."
    )


def test_a_page_has_the_frontier_of_every_table():
    both = board(mec=[0.80, 0.801, 0.799], qr=[0.700, 0.701, 0.699]) | {
        "budgets": [BUDGET],
        "full_bytes": 8000,
    }
    old = "<!-- frontier: Beauty -->\n| old |\n<!-- frontier: Yelp -->\n| old |\n| old |\n\nText.\n"
    lines = numbers.fill(old, {"Yelp": both}).splitlines()
    assert lines[:3] == ["<!-- frontier: Beauty -->", "| old |", "<!-- frontier: Yelp -->"]
    assert lines[3:6] == frontier.frontier_table(both)
    assert "| 8x | above |" in lines[5]
    assert lines[6:] == ["", "Text."]
    assert numbers.fill("\n".join(lines), {"Yelp": both}).splitlines() == lines


def test_a_page_that_is_not_there_is_missed_before_anything_runs(tmp_path, capsys):
    with pytest.raises(SystemExit):
        bakeoff.parse(["frontier", "--work", str(tmp_path), "--fill", str(tmp_path / "none.md")])
    assert "there is no" in capsys.readouterr().err


def test_every_method_has_its_line_in_the_page():
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    assert sorted(re.findall(r"(?m)^<!-- numbers: (\w+) -->$", page)) == sorted(METHODS.names())


def test_a_page_says_what_is_beyond_a_method():
    lines = numbers.method_line("qr", {"Shop": make_leaderboard([failed("qr", "8x", 0)]), "Other": board(pq=[0.7])})
    assert lines == "*Test AUC and place.* Shop: 8x beyond it."


@pytest.mark.parametrize(
    ("claim", "mean", "half", "smaller", "expected"),
    [
        ("autodpq", 0.01, 0.005, False, "yes"),
        ("autodpq", 0.01, 0.02, False, "within chance"),
        ("autodpq", -0.01, 0.005, True, "no: below"),
        ("amtl", 0.01, 0.005, True, "yes"),
        ("amtl", 0.01, 0.005, False, "no: not smaller"),
        ("xlightfm", 0.0, 0.005, True, "yes"),
        ("xlightfm", -0.01, 0.005, True, "no: below"),
        ("xlightfm", 0.01, 0.005, False, "no: not smaller"),
        ("amtl", -0.01, 0.005, False, "no: below and not smaller"),
        ("amtl", 0.01, None, True, "one seed tells nothing"),
    ],
)
def test_agreement_with_a_paper_is_of_auc_and_of_bytes(claim, mean, half, smaller, expected):
    own = next(c for c in CLAIMS if c.name == claim)
    assert agreement(own, Estimate(mean, half, 3), smaller) == expected


def tiny(**bakeoff: Any) -> Any:
    short = {"max_epochs": 1, "batch_size": 512}
    return parse_config(
        {
            "name": "tiny",
            "data": {"synthetic": {"num_rows": 3000, "field_sizes": [600, 300, 10]}},
            "pretrain": {**short, "embedding_dim": 4},
            "train": {**short, "settings": {"hidden_units": [8]}},
            "evaluate": {"latency_rows": 0},
            "bakeoff": bakeoff,
        }
    )


def test_what_names_a_cell_is_all_that_it_reads_and_nothing_else():
    config, work = tiny(), Path("work")
    job = Job(config, Cell(method="qr", budget="8x", seed=0, l2=0.0), work)
    other = Job(config, job.cell.model_copy(update={"l2": 0.1}), work)
    assert (job.data, job.space) == (other.data, other.space)
    assert job.file != other.file
    seed = Job(config, job.cell.model_copy(update={"seed": 1}), work)
    assert (job.data == seed.data, job.space == seed.space) == (True, False)
    train = config.train.model_copy(update={"max_epochs": 2})
    assert Job(config.model_copy(update={"train": train}), job.cell, work).file != job.file
    renamed = config.model_copy(update={"quantize": config.quantize.model_copy(update={"iterations": 3})})
    assert Job(renamed, job.cell, work).file == job.file


def tried(config: Any, work: Path, method: str, budget: str, valid_aucs: list[float | None]) -> None:
    """Write the trials of a method as if they had run; None: beyond the budget."""
    for job, valid_auc in zip(tuning.trial_jobs(config, method, budget, work), valid_aucs, strict=True):
        measured = {"status": "measured", "valid_auc": valid_auc, "auc": 1 - (valid_auc or 0)}
        job.file.parent.mkdir(parents=True, exist_ok=True)
        job.file.write_text(json.dumps({"status": "over_budget"} if valid_auc is None else measured))


def test_each_method_takes_the_trial_of_the_best_validation_auc(tmp_path):
    config = tiny(methods=["qr", "mec", "scalar", "hashing"], budgets=["8x", "32x"], seeds=2)
    tried(config, tmp_path, "qr", "8x", [0.6, 0.7, 0.5])
    tried(config, tmp_path, "mec", "8x", [0.6, 0.7, 0.8])
    tried(config, tmp_path, "scalar", "8x", [None, None, None])
    assert tuning.beyond(config, "scalar", "8x", tmp_path)
    assert not tuning.beyond(config, "qr", "8x", tmp_path)
    assert not tuning.beyond(config, "hashing", "8x", tmp_path)
    tried(config, tmp_path, "scalar", "2x", [0.7, 0.6, 0.5])
    chosen = {
        cell.label: cell for cell in plan_cells(tuning.tuned(config, ["qr", "mec", "scalar", "hashing"], tmp_path))
    }
    assert chosen["qr at 32x, seed 1"].training.l2 == 0.003
    assert chosen["mec at 8x, seed 0"].settings == {"codewords": "warm"}
    assert chosen["mec at 8x, seed 0"].training.l2 == 0.02
    assert chosen["scalar at 8x, seed 0"].training.l2 == 0.0
    assert chosen["hashing at 8x, seed 0"].training.l2 is None
    said = dict(
        line.strip("| ").split(" | ") for line in tuning.choices_table(config, ["hashing", "mec", "dhe"], tmp_path)[2:]
    )
    assert said == {"hashing": "not tried", "mec": "codewords warm, l2 0.02", "dhe": "has one setting"}


def test_full_tables_are_tried_where_they_fit(tmp_path):
    config = tiny(methods=["qr"], budgets=["8x"], seeds=1)
    for budget in ("8x", "2x"):
        tried(config, tmp_path, "full", budget, [None, None, None])
    tried(config, tmp_path, "full", "1x", [0.5, 0.6, 0.7])
    cells_of = {cell.label: cell for cell in plan_cells(tuning.tuned(config, ["full", "qr"], tmp_path))}
    assert cells_of["full at 1x, seed 0"].training.l2 == 0.02
    assert cells_of["full at 1x, seed 0"].settings == {"start": "pretrained"}


def test_a_trial_that_was_chosen_is_not_run_again(tmp_path):
    config = tiny(methods=["qr"], budgets=["8x"], seeds=1, l2=0.5, reference=False)
    tried(config, tmp_path, "qr", "8x", [0.6, 0.7, 0.5])
    (cell,) = plan_cells(tuning.tuned(config, ["qr"], tmp_path))
    assert Job(config, cell, tmp_path).file == tuning.trial_jobs(config, "qr", "8x", tmp_path)[1].file


def test_times_without_a_full_table_to_compare_with_are_an_error(tmp_path, monkeypatch):
    def refuse(job: Job, *_: object) -> None:
        raise ConfigError(f"{job.cell.method} cannot be built", found="nothing", fix="none")

    monkeypatch.setattr(epochs, "_side", refuse)
    monkeypatch.setattr(Job, "inputs", lambda _: None)
    config = tiny(methods=["qr"], budgets=["4x"], seeds=1)
    jobs = [Job(config, each, tmp_path) for each in plan_cells(config)]
    with pytest.raises(ConfigError, match="full cannot be built"):
        run_epochs(jobs, rounds=2, steps=2)


@pytest.mark.slow
def test_every_method_is_timed_against_the_full_table_and_searches_too(tmp_path):
    methods, wrong = ["full", "qr", "autodim", "amtl", "pq"], {"pq": {"num_codes": 64}}
    config = tiny(methods=methods, settings=wrong, budgets=["4x"], seeds=1)
    jobs = [Job(config, cell, tmp_path) for cell in plan_cells(config) if (cell.method, cell.budget) != ("full", "4x")]
    make_data(jobs[0])
    make_space(jobs[0])
    *table, left_out = run_epochs(jobs, rounds=2, steps=2).splitlines()[2:]
    assert left_out.startswith("pq is left out: pq: num_codes sub-vectors do not fit")
    rows = [line.split(" | ") for line in table]
    assert {row[0].strip("| ") for row in rows} == {"full", "qr", "autodim", "amtl"}
    assert next(row[2] for row in rows if "full" in row[0]) == "1.00 (1.00 to 1.00)"
    timed = {row[0].strip("| ") for row in rows if float(row[3].strip(" |").replace("–", "0")) > 0}  # noqa: RUF001
    assert timed == {"autodim"}


@pytest.mark.slow
def test_cells_are_run_once_and_claims_from_choice_to_verdict(tmp_path, capsys, monkeypatch):
    config = tiny(methods=["qr", "hashing"], budgets=["4x"], seeds=1)
    jobs = [Job(config, each, tmp_path) for each in plan_cells(config)]
    assert run_jobs(jobs, 1) == []
    assert {job.result()["status"] for job in jobs} == {"measured"}
    assert run_jobs(jobs, 1) == []
    assert "3 cells, 0 to run" in capsys.readouterr().out
    monkeypatch.setattr(claims, "L2_POINTS", (0.0, 0.01))
    monkeypatch.setattr(claims, "NUM_TRIALS", 2)
    study = claims.Study(config, tmp_path, 2, ["autodpq", "amtl", "xlightfm"])
    assert study.run(1) == []
    report = study.report()
    assert "not measured" not in report
    assert report.count("| AutoDPQ |") == 1
    for entry in study.entries.values():
        assert entry.trials
    drawn = study.results("DPQ, random settings")
    assert drawn is not None
    assert {seed: result["settings"]["found"] for seed, result in drawn.items()}["0"]
