"""The bake-off: every compression method at every budget on the same rows with the same backbone, and a leaderboard.

    count -> vocabulary -> encode -> pretrain
                                        |
        for each method, budget and seed, side by side: bakeoff_cell
                                        |
                                   leaderboard

Run it here:        mec bakeoff configs/demo.yaml --methods qr,hashing,mec --budgets 2x,8x --seeds 3
For a cluster:      mec compile CONFIG --set bakeoff.budgets=[2x,8x] --image NAME@sha256:… --out build

A cluster trains cells at the same time; ``mec bakeoff`` trains one after the other, for they would share this
machine's cores. A cell is reused while its own settings, the backbone's and the rows are the same: another method or
another budget leaves those that are there as they are.
"""

from typing import NamedTuple

from kfp import dsl

from components.bakeoff_cell.component import bakeoff_cell as train_cell
from components.count.component import count as count_values
from components.encode.component import encode as encode_rows
from components.leaderboard.component import leaderboard as make_leaderboard
from components.pretrain.component import pretrain as pretrain_tables
from components.vocabulary.component import vocabulary as make_vocabulary


class BakeoffOutputs(NamedTuple):
    """The bundles that all cells share, and the leaderboard, which names theirs."""

    counts: dsl.Artifact
    vocabulary: dsl.Artifact
    dataset: dsl.Dataset
    pretrained: dsl.Model
    leaderboard: dsl.Artifact


@dsl.pipeline(name="mec-bakeoff", description="Every compression method at every budget, and a leaderboard.")
def bakeoff(
    data_version: str,
    store: str,
    cells: list[str],
    name: str = "demo",
    seed: int = 0,
    data: str = "{}",
    count: str = "{}",
    pretrain: str = "{}",
    train: str = "{}",
    evaluate: str = "{}",
    tracking: str = "{}",
    work_dir: str = "",
    code_hash: str = "",
) -> BakeoffOutputs:
    """Raw rows to a leaderboard of compression methods.

    Args:
        data_version: Identity of the rows, such as a snapshot's date: steps are reused only for the same one.
        store: Directory of the embedded MLflow store; on a cluster, on a volume that all steps mount.
        cells: One item per training: method, budget, seed and settings, as JSON; ``mec compile CONFIG`` writes them.
        name: Names the run.
        seed: Of the rows' split and of pre-training; each cell has its own.
        data: Where the rows are and what their columns mean, as JSON (mec config --explain data).
        count: Counting and vocabularies, as JSON (mec config --explain count).
        pretrain: The small model whose tables methods compress or start from, as JSON (mec config --explain pretrain).
        train: Backbone and optimizer of all cells, as JSON (mec config --explain train).
        evaluate: Rows per step of scoring, rows of a timed look-up, as JSON (mec config --explain evaluate).
        tracking: Where the leaderboard and the cells are logged, as JSON (mec config --explain tracking).
        work_dir: Directory of checkpoints, kept when a step is killed; empty for none.
        code_hash: Identity of the code, where the image's digest does not already tell it.
    """
    counted = count_values(data=data, count=count, seed=seed, data_version=data_version, code_hash=code_hash)
    vocabulary = make_vocabulary(count=count, code_hash=code_hash, counts=counted.outputs["counts"])
    encoded = encode_rows(
        data=data,
        seed=seed,
        data_version=data_version,
        code_hash=code_hash,
        vocabulary=vocabulary.outputs["vocabulary"],
    )
    shared = {"dataset": encoded.outputs["dataset"], "vocabulary": vocabulary.outputs["vocabulary"]}
    pretrained = pretrain_tables(pretrain=pretrain, seed=seed, work_dir=work_dir, code_hash=code_hash, **shared)
    shared["pretrained"] = pretrained.outputs["pretrained"]
    with dsl.ParallelFor(items=cells, name="cells") as cell:
        trained = train_cell(
            cell=cell, train=train, evaluate=evaluate, work_dir=work_dir, code_hash=code_hash, **shared
        )
    board = make_leaderboard(
        name=name,
        store=store,
        tracking=tracking,
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        cells=dsl.Collected(trained.outputs["result"]),
    )
    board.set_caching_options(False)
    return BakeoffOutputs(counts=counted.outputs["counts"], **shared, leaderboard=board.outputs["leaderboard"])
