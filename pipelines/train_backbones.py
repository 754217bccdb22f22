"""The train pipeline for several backbones on one codebook, each trained in a branch of its own, then compared.

    count -> vocabulary -> encode -> pretrain -> quantize -> publish
                                                    |
              for each backbone, side by side: train, reference -> evaluate -> register
                                                    |
                                                 compare

Run it here:        mec run configs/demo.yaml --set train.model=[deepfm,pnn,gdcn_p]
For a cluster:      mec compile CONFIG --set train.model=[deepfm,pnn,gdcn_p] --image NAME@sha256:… --out build

A cluster trains the backbones at the same time; ``mec run`` trains one after the other, for they would
share this machine's cores. Each becomes a registered model of its own, NAME-BACKBONE.
"""

from typing import NamedTuple

from kfp import dsl

from components.compare.component import compare as compare_models
from pipelines.steps import backbone_steps, space_steps


class BackbonesOutputs(NamedTuple):
    """The bundles that the backbones share, and the comparison, which names those of each."""

    counts: dsl.Artifact
    vocabulary: dsl.Artifact
    dataset: dsl.Dataset
    pretrained: dsl.Model
    codebook: dsl.Model
    codes: dsl.Artifact
    publication: dsl.Artifact
    comparison: dsl.Artifact


@dsl.pipeline(name="mec-train-backbones", description="Raw rows to several registered CTR models on the same codes.")
def train_backbones(
    data_version: str,
    store: str,
    backbones: list[dict[str, str]],
    name: str = "demo",
    seed: int = 0,
    data: str = "{}",
    count: str = "{}",
    pretrain: str = "{}",
    quantize: str = "{}",
    publish: str = "{}",
    evaluate: str = "{}",
    tracking: str = "{}",
    work_dir: str = "",
    code_hash: str = "",
) -> BackbonesOutputs:
    """Raw rows to several registered CTR models on the same codes.

    Args:
        data_version: Identity of the rows, such as a snapshot's date: steps are reused only for the same one.
        store: Directory of the embedded MLflow and Feast stores; on a cluster, on a volume that all steps mount.
        backbones: One item per backbone: its own train and tracking sections, each as JSON.
        name: Names the run and, with the backbone's name added, by default the registered models.
        seed: Of every random draw.
        data: Where the rows are and what their columns mean, as JSON (mec config --explain data).
        count: Counting and vocabularies, as JSON (mec config --explain count).
        pretrain: The small model whose embeddings are compressed, as JSON (mec config --explain pretrain).
        quantize: How vectors become codes, as JSON (mec config --explain quantize).
        publish: Codes to the online store, as JSON (mec config --explain publish).
        evaluate: What is measured on the test rows, as JSON (mec config --explain evaluate).
        tracking: Where the comparison is logged, as JSON (mec config --explain tracking).
        work_dir: Directory of checkpoints, kept when a step is killed; empty for none.
        code_hash: Identity of the code, where the image's digest does not already tell it.
    """
    shared = {"seed": seed, "store": store, "work_dir": work_dir, "code_hash": code_hash}
    shared |= {"data": data, "count": count, "pretrain": pretrain, "quantize": quantize, "publish": publish}
    space = space_steps(data_version=data_version, **shared)
    with dsl.ParallelFor(items=backbones, name="backbones") as backbone:
        own = {"train": backbone.train, "tracking": backbone.tracking}
        trained = backbone_steps(space, name=name, evaluate=evaluate, **own, **shared)
    compared = compare_models(
        name=name,
        seed=seed,
        store=store,
        tracking=tracking,
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        models=dsl.Collected(trained.model),
        references=dsl.Collected(trained.reference),
        evaluations=dsl.Collected(trained.evaluation),
        registrations=dsl.Collected(trained.registration),
    )
    compared.set_caching_options(False)
    return BackbonesOutputs(**space._asdict(), comparison=compared.outputs["comparison"])
