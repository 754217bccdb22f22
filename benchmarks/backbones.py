"""Every backbone on full tables and on codes, transfer between pre-trained models, and training speed.

    python benchmarks/backbones.py table --work WORK --processes 2      # ML-1M, Yelp, Beauty; 3 seeds
    python benchmarks/backbones.py transfer --work WORK --processes 2   # FM, DeepFM, DCNv2 -> PNN
    python benchmarks/backbones.py table --work WORK --report           # print what is there, run nothing

``table`` draws WORK/table.png and .svg, too. Cells are kept in WORK and not run twice, whichever command runs first
(``backbones_cells.py``). The settings of the backbones are in ``backbones_settings.py``, all else is the config's; with
--set every config is changed. The FM and the codes of a seed are made once, and all backbones of that seed, on full
tables too, start from them. rows/s of a table are of cells side by side on whatever else the machine does: compare
speeds by ``speed``.

Speed is compared with deepctr-torch 0.3.0 and torch-rechub 0.9.0 (``backbones_rivals.py``), in an environment of its
own:

    python -m venv rival && rival/bin/pip install torch==2.13.0 && rival/bin/pip install -e .
    rival/bin/pip install deepctr-torch==0.3.0 torch-rechub==0.9.0
    OMP_NUM_THREADS=1 rival/bin/python benchmarks/backbones.py speed    # three minutes

Result of `speed` (2026-11-21, two EPYC cores, one thread; B 2,048, F 26, D 16, hidden 128-64; ratios are medians of 11
rounds, above 1 where mec is faster; lr, deepfm and the autoints at load 0.5, the others at load 3 to 5 of other work;
dcn, dcnv2 and afn on 2026-11-22, 41 rounds, at load 3). The bound is 0.8:

                    deepctr-torch    torch-rechub
    lr                       1.36
    fm                       2.82
    afm                      1.26
    deepfm                   1.57
    pnn                      4.32
    dcn                      2.92            1.43
    dcnv2                    1.12            0.98
    autoint                  0.96            1.15
    autoint_plus             1.02            1.09
    afn                      1.20
    afn_plus, sam, gdcn_p, gdcn_s: in no package that we found
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from backbones_settings import CHOICES

CONFIGS = [Path("configs/ml1m.yaml"), Path("configs/yelp_next.yaml"), Path("configs/beauty_next.yaml")]
PRETRAINED = ["fm", "deepfm", "dcnv2"]
DOWNSTREAM = "pnn"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.command == "speed":
        os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded
        from backbones_speed import run_speed

        print(run_speed(options.backbones, options.rounds, options.steps))
        return
    from backbones_cells import Cell, pretrained_by, run_cells
    from backbones_figure import draw_table
    from backbones_report import table_report, transfer_report

    from mec.config import load_config

    configs, seeds = [load_config(path, options.set) for path in options.configs], range(options.seeds)
    if options.command == "table":
        cells = [
            Cell(pretrained_by(config, "fm"), backbone, embedding, seed)
            for config in configs
            for seed in seeds
            for backbone in options.backbones
            for embedding in ("full", "codes")
        ]
        report = table_report
    else:
        cells = [
            Cell(pretrained_by(config, model), DOWNSTREAM, "codes", seed)
            for config in configs
            for seed in seeds
            for model in PRETRAINED
        ]
        report = transfer_report
    if not options.report:
        options.work.mkdir(parents=True, exist_ok=True)
        run_cells(cells, options.work, options.processes)
    print(report(cells, options.work))
    if options.command == "table":
        draw_table(cells, options.work, options.work / "table")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    table, transfer, speed = (commands.add_parser(name) for name in ("table", "transfer", "speed"))
    for command in (table, transfer):
        command.add_argument("--work", type=Path, required=True, help="directory that everything is kept in")
        command.add_argument("--configs", type=Path, nargs="+", default=CONFIGS)
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="in every config")
        command.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
        command.add_argument("--processes", type=int, default=1, help="cells at once, one thread each")
        command.add_argument("--report", action="store_true", help="print the cells that are there, run none")
    for command in (table, speed):
        command.add_argument("--backbones", nargs="+", choices=list(CHOICES), default=list(CHOICES))
    speed.add_argument("--rounds", type=int, default=11, help="turns of each side, at least 2")
    speed.add_argument("--steps", type=int, default=2, help="training steps in a turn")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
