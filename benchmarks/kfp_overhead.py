"""What Kubeflow's local runner costs: ``mec run`` against the same library functions in one process.

Command:   python benchmarks/kfp_overhead.py configs/ml1m.yaml
Result:    wall: library 86.1 s, mec run 106.1 s, overhead +23.2%        (two cores, load 1, 2026-11-21)

The overhead is a fixed 20 s a run, whatever the data: Kubeflow's executor takes 0.05 s a step, the rest is ten
fresh Python processes that import Kubeflow (0.5 s), seven of which import torch (1.4 s) and its like again. So it
is under 5 % of runs of seven minutes and more, and not of shorter ones.

Both runs start from an empty directory and an empty store, one after the other, each in a fresh process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mec.config import RunConfig, load_config


def run_in_this_process(config: RunConfig, out: Path) -> None:
    """Call the step functions one after the other, as the train pipeline wires them."""
    from mec.config import joined
    from mec.data.counting import count_step
    from mec.data.encoding import encode_step
    from mec.data.vocabulary import vocabulary_step
    from mec.evaluation.evaluating import evaluate_step
    from mec.pretraining import pretrain_step
    from mec.publish.publishing import publish_step
    from mec.quantize.quantizing import quantize_step
    from mec.tracking.registering import register_step
    from mec.training_steps import reference_step, train_step
    from pipelines.parameters import section_parameters

    store, seed = out / "store", config.seed
    at = {name: out / name for name in ("counts", "vocabulary", "dataset", "pretrained", "codebook", "codes")}
    model, reference, evaluation, publication = (out / n for n in ("model", "reference", "evaluation", "publication"))
    count_step(data=config.data, count=config.count, seed=seed, out=at["counts"])
    vocabulary_step(counts=at["counts"], count=config.count, out=at["vocabulary"])
    encode_step(data=config.data, vocabulary=at["vocabulary"], seed=seed, out=at["dataset"])
    pretrain_step(
        pretrain=config.pretrain,
        dataset=at["dataset"],
        vocabulary=at["vocabulary"],
        seed=seed,
        checkpoints=out / "checkpoints" / "pretrain",
        out=at["pretrained"],
    )
    quantize_step(
        quantize=config.quantize,
        pretrained=at["pretrained"],
        vocabulary=at["vocabulary"],
        seed=seed,
        out_codebook=at["codebook"],
        out_codes=at["codes"],
    )
    coded = {"codebook": at["codebook"], "codes": at["codes"]}
    publish_step(publish=config.publish, store=store, vocabulary=at["vocabulary"], **coded, out=publication)
    train_step(
        train=config.train,
        dataset=at["dataset"],
        pretrained=at["pretrained"],
        **coded,
        seed=seed,
        checkpoints=out / "checkpoints" / "train",
        out=model,
    )
    reference_step(
        train=config.train,
        evaluate=config.evaluate,
        dataset=at["dataset"],
        pretrained=at["pretrained"],
        seed=seed,
        checkpoints=out / "checkpoints" / "reference",
        out=reference,
    )
    read = {"dataset": at["dataset"], "vocabulary": at["vocabulary"], "model": model, **coded}
    evaluate_step(evaluate=config.evaluate, **read, reference=reference, seed=seed, out=evaluation)
    settings = {name: value for name, value in section_parameters(config).items() if name != "store"}
    register_step(
        tracking=config.tracking,
        name=config.name,
        store=store,
        config_json=joined(store=str(store), **settings),
        **read,
        pretrained=at["pretrained"],
        publication=publication,
        evaluation=evaluation,
        run_id="benchmark",
        out=out / "registration",
    )


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall time and processor time of a command and all it starts."""
    start_s, used = time.monotonic(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall_s, now = time.monotonic() - start_s, os.times()
    return wall_s, now.children_user + now.children_system - used.children_user - used.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--library-only", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.library_only:
        run_in_this_process(load_config(arguments.config, arguments.overrides), arguments.library_only)
        return
    overrides = [part for override in arguments.overrides for part in ("--set", override)]
    with tempfile.TemporaryDirectory() as directory:
        library = [sys.executable, __file__, arguments.config, *overrides, "--library-only", f"{directory}/library"]
        library_s, library_cpu_s = seconds(library)
        kubeflow = [sys.executable, "-m", "mec", "run", arguments.config, *overrides]
        kubeflow_s, kubeflow_cpu_s = seconds(
            [*kubeflow, "--set", f"store={directory}/store", "--out", f"{directory}/run"]
        )
    for unit, one, other in (("wall", library_s, kubeflow_s), ("processor", library_cpu_s, kubeflow_cpu_s)):
        print(f"{unit}: library {one:.1f} s, mec run {other:.1f} s, overhead {other / one - 1:+.1%}")


if __name__ == "__main__":
    main()
