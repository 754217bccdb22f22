"""How far a refresh goes from stale codes to a full retrain, the backbone untouched: every variant, over seeds.

    python benchmarks/refresh.py --work WORK                # Yelp and synthetic, 5 seeds, all variants
    python benchmarks/refresh.py --work WORK --report       # print what is there, run nothing
    python benchmarks/refresh.py --work WORK --tiny         # a minute: does it run

Yelp: the base run is trained on events of progress < .6, refreshed with .6 to .8, and all are tested on the rest.
Synthetic: 10 % of the values are new and 15 % drift from the base period to the new one; of its rows two fifths are
refreshed with and the rest is tested on. A variant is the start of the small model (warm, fresh), the rows that it
trains on (new, new and as many replayed, all), and the coding (frozen codebooks with hysteresis 0 or .3, renewed). The
full retrain is a train run on all rows but the test rows. A refresh validates on new rows, a retrain on new and old.

Columns: test AUC; the share of the way from stale to retrain that is closed, per seed; logloss with the calibration in
service and refitted on the new validation rows; known values whose online row changes; seconds of all steps from
pre-training to evaluation. Intervals are Student's t over seeds, 95 %. Cells are kept in WORK and not run twice.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refresh_cells import RETRAIN, Study, make_data, read_cell, run_retrain, run_variant, variants

from mec.config import RunConfig, SyntheticConfig, load_config, parse_config


def yelp() -> Study:
    """The config that is shipped, cut by progress."""
    return Study(load_config("configs/yelp_next.yaml", ["evaluate.reference=none", "evaluate.latency_rows=0"]), None)


def synthetic(num_rows: int = 600_000, **settings: Any) -> Study:
    """The generator's two periods."""
    rows = SyntheticConfig(num_rows=num_rows, num_periods=2, **settings)
    return Study(synthetic_config(len(rows.field_sizes)), rows)


def synthetic_config(num_fields: int, **sections: Any) -> RunConfig:
    """A run on the generator's columns."""
    data = {"path": "rows", "categorical": [f"f{i}" for i in range(num_fields)], "split": {"kind": "column"}}
    evaluate = {"latency_rows": 0}
    return parse_config({"name": "synthetic", "data": data, "evaluate": evaluate, **sections})


def tiny() -> Study:
    """A few thousand rows and two passes: nothing is learned."""
    fast = {"max_epochs": 2, "batch_size": 256, "learning_rate": 0.01}
    sections = {
        "pretrain": {"embedding_dim": 4, **fast},
        "train": {"settings": {"hidden_units": [8]}, **fast},
        "quantize": {"num_codewords": 16, "min_values": 100},
    }
    rows = SyntheticConfig(num_rows=8_000, field_sizes=(200, 150, 10), num_periods=2)
    return Study(synthetic_config(3, **sections), rows)


def run(study: Study, work: Path, seeds: range, names: Sequence[str]) -> None:
    """Run the cells that are missing, seed by seed, so that a part is a whole table of fewer seeds."""
    make_data(study, work)
    wanted = variants()
    for seed in seeds:
        if read_cell(study, work, RETRAIN, seed) is None:
            run_retrain(study, work, seed)
        for name in names:
            if read_cell(study, work, name, seed) is None:
                run_variant(study, work, seed, name, wanted[name])


def report(study: Study, work: Path, seeds: range) -> str:
    """The table of one data set."""
    retrains = {seed: read_cell(study, work, RETRAIN, seed) for seed in seeds}
    complete = [seed for seed, facts in retrains.items() if facts is not None]
    lines = [f"{study.config.name}, {len(complete)} seeds"]
    lines.append(f"{'':24}{'AUC':>18}{'way closed':>18}{'logloss':>10}{'refitted':>18}{'rewritten':>11}{'seconds':>9}")
    stale_shown = False
    for name in variants():
        cells = {seed: read_cell(study, work, name, seed) for seed in complete}
        pairs = [(cell, retrain) for seed, cell in cells.items() if cell and (retrain := retrains[seed])]
        if not pairs:
            continue
        if not stale_shown:
            stale = [cell for cell, _ in pairs]
            lines.append(_line("stale", [c["auc_stale"] for c in stale], [], [c["loglosses"]["stale"] for c in stale]))
            stale_shown = True
        closed = [(c["auc"] - c["auc_stale"]) / (r["auc"] - c["auc_stale"]) for c, r in pairs]
        lines.append(
            _line(name, [c["auc"] for c, _ in pairs], closed, [c["loglosses"]["refreshed"] for c, _ in pairs])
            + f"{statistics.mean(c['rewritten_share'] for c, _ in pairs):>11.1%}"
            + f"{statistics.mean(c['seconds'] for c, _ in pairs):>9.1f}"
        )
    found = [facts for facts in retrains.values() if facts is not None]
    if found:
        losses = [{"current": math.nan, "refitted": facts["logloss"]} for facts in found]
        lines.append(
            _line("full retrain", [facts["auc"] for facts in found], [], losses)
            + f"{'':>11}{statistics.mean(facts['seconds'] for facts in found):>9.1f}"
        )
    return "\n".join(lines)


def _line(name: str, aucs: list[float], closed: list[float], loglosses: list[dict[str, float]]) -> str:
    current = statistics.mean(losses["current"] for losses in loglosses)
    shown = "" if math.isnan(current) else f"{current:.4f}"
    way = interval(closed, 3) if closed else ""
    return f"{name:24}{interval(aucs):>18}{way:>18}{shown:>10}{interval([x['refitted'] for x in loglosses]):>18}"


def interval(values: list[float], digits: int = 4) -> str:
    """Mean and 95 % interval."""
    from scipy import stats

    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory that everything is kept in")
    parser.add_argument("--data", nargs="+", choices=["yelp", "synthetic"], default=["yelp", "synthetic"])
    parser.add_argument("--variants", nargs="+", choices=list(variants()), default=list(variants()))
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on")
    parser.add_argument("--report", action="store_true", help="print the cells that are there, run none")
    parser.add_argument("--tiny", action="store_true", help="a few thousand synthetic rows instead")
    options = parser.parse_args(arguments)
    studies = [tiny()] if options.tiny else [{"yelp": yelp, "synthetic": synthetic}[name]() for name in options.data]
    for study in studies:
        if not options.report:
            run(study, options.work, range(options.seeds), options.variants)
        print("\n" + report(study, options.work, range(options.seeds)), flush=True)


if __name__ == "__main__":
    main()
