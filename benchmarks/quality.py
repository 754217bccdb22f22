"""Test AUC of the compressed model against the full-table reference, over seeds, paired.

    python benchmarks/quality.py configs/yelp_next.yaml --seeds 3
    python benchmarks/quality.py configs/ml1m.yaml --seeds 3

Each seed runs the pipeline's own step functions in this process, from pre-training on: first vectors,
shuffling, codebooks and both backbones are drawn anew. Encoding is done once. Both models of a seed start
from the same pre-trained tables; settings come from the config. They were chosen by hand, on
Yelp and MovieLens by validation AUC among a few; the full table had no search of its own over L2 and dropout.
Intervals are Student's t over seeds, 95 %.

Result (2026-11-21, two EPYC cores at load 2 to 3; about 150 s a seed):

    yelp_next, 3 seeds, 73.7x fewer bytes
    auc      compressed 0.9056 ± 0.0025   full 0.9047 ± 0.0004   paired difference 0.0009 ± 0.0023
    logloss  compressed 0.3509 ± 0.0071   full 0.3571 ± 0.0011   paired difference -0.0063 ± 0.0061

    beauty_next, 3 seeds, 67.8x fewer bytes
    auc      compressed 0.7432 ± 0.0117   full 0.7342 ± 0.0046   paired difference 0.0090 ± 0.0080
    logloss  compressed 0.5477 ± 0.0078   full 0.5579 ± 0.0028   paired difference -0.0103 ± 0.0054

    ml1m, 3 seeds, 7.7x fewer bytes
    auc      compressed 0.8152 ± 0.0005   full 0.8189 ± 0.0014   paired difference -0.0037 ± 0.0011
    logloss  compressed 0.5155 ± 0.0006   full 0.5112 ± 0.0017   paired difference 0.0042 ± 0.0012

Where values are rare, one coarse codeword per value is as good as the full table, or better; where every value has
hundreds of rows (MovieLens), compression costs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path

from scipy import stats

from mec.config import RunConfig, load_config
from mec.data.counting import count_step
from mec.data.encoding import encode_step
from mec.data.vocabulary import vocabulary_step
from mec.evaluation.evaluating import evaluate_step
from mec.pretraining import pretrain_step
from mec.quantize.quantizing import quantize_step
from mec.training_steps import reference_step, train_step


def run_seed(config: RunConfig, data: Path, seed: int, out: Path) -> dict[str, float]:
    """Pre-train, quantize, train both models, evaluate; the facts of evaluation.json."""
    dataset, vocabulary = data / "dataset", data / "vocabulary"
    pretrained, codebook, codes = out / "pretrained", out / "codebook", out / "codes"
    pretrain_step(
        pretrain=config.pretrain, dataset=dataset, vocabulary=vocabulary, seed=seed, checkpoints=None, out=pretrained
    )
    quantize_step(
        quantize=config.quantize,
        pretrained=pretrained,
        vocabulary=vocabulary,
        seed=seed,
        out_codebook=codebook,
        out_codes=codes,
    )
    train_step(
        train=config.train,
        dataset=dataset,
        pretrained=pretrained,
        codebook=codebook,
        codes=codes,
        seed=seed,
        checkpoints=None,
        out=out / "model",
    )
    evaluate = config.evaluate.model_copy(update={"reference": "full"})
    reference_step(
        train=config.train,
        evaluate=evaluate,
        dataset=dataset,
        pretrained=pretrained,
        seed=seed,
        checkpoints=None,
        out=out / "reference",
    )
    evaluate_step(
        evaluate=evaluate, dataset=dataset, vocabulary=vocabulary, model=out / "model", codebook=codebook,
        codes=codes, reference=out / "reference", seed=seed, out=out / "evaluation",
    )  # fmt: skip
    facts: dict[str, float] = json.loads((out / "evaluation" / "evaluation.json").read_text())
    return facts


def interval(values: list[float]) -> str:
    """Mean and 95 % interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.4f}"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.4f} ± {half:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.set)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        count_step(data=config.data, count=config.count, seed=config.seed, out=root / "counts")
        vocabulary_step(counts=root / "counts", count=config.count, out=root / "vocabulary")
        encode_step(data=config.data, vocabulary=root / "vocabulary", seed=config.seed, out=root / "dataset")
        for seed in range(config.seed, config.seed + arguments.seeds):
            facts = run_seed(config, root, seed, root / f"seed-{seed}")
            rows.append(facts)
            print(
                f"seed {seed}: AUC {facts['auc']:.4f} (full {facts['full_auc']:.4f}), "
                f"logloss {facts['logloss']:.4f} (full {facts['full_logloss']:.4f}), {facts['ratio']:.1f}x fewer bytes",
                flush=True,
            )
    print(f"\n{config.name}, {len(rows)} seeds, {rows[0]['ratio']:.1f}x fewer bytes")
    for name in ("auc", "logloss"):
        ours, full = [r[name] for r in rows], [r[f"full_{name}"] for r in rows]
        paired = [a - b for a, b in zip(ours, full, strict=True)]
        print(f"{name:8} compressed {interval(ours)}   full {interval(full)}   paired difference {interval(paired)}")


if __name__ == "__main__":
    main()
