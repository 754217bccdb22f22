"""The train pipeline: raw rows to a registered, compressed CTR model.

    count -> vocabulary -> encode -> pretrain -> quantize -> publish
                                        |           |           |
                                        |           +-> train --+-> evaluate -> register
                                        +-> reference ----------+

Run it here:        mec run configs/demo.yaml
For a cluster:      mec compile --image NAME@sha256:… --out build

Each section of the settings travels as one JSON string, so a parameter is read by the step that
needs it and a finished step is reused when none of its own parameters changed. Publishing and
registering look at the world outside and are never reused.
"""

from typing import NamedTuple

from kfp import dsl

from pipelines.steps import backbone_steps, space_steps


class TrainOutputs(NamedTuple):
    """The bundles of a run."""

    counts: dsl.Artifact
    vocabulary: dsl.Artifact
    dataset: dsl.Dataset
    pretrained: dsl.Model
    codebook: dsl.Model
    codes: dsl.Artifact
    publication: dsl.Artifact
    model: dsl.Model
    reference: dsl.Model
    evaluation: dsl.Artifact
    registration: dsl.Artifact


@dsl.pipeline(name="mec-train", description="Raw rows to a registered, compressed CTR model.")
def train(
    data_version: str,
    store: str,
    name: str = "demo",
    seed: int = 0,
    data: str = "{}",
    count: str = "{}",
    pretrain: str = "{}",
    quantize: str = "{}",
    publish: str = "{}",
    train: str = "{}",
    evaluate: str = "{}",
    tracking: str = "{}",
    work_dir: str = "",
    code_hash: str = "",
) -> TrainOutputs:
    """Raw rows to a registered, compressed CTR model.

    Args:
        data_version: Identity of the rows, such as a snapshot's date: steps are reused only for the same one.
        store: Directory of the embedded MLflow and Feast stores; on a cluster, on a volume that all steps mount.
        name: Names the run and, by default, the registered model.
        seed: Of every random draw.
        data: Where the rows are and what their columns mean, as JSON (mec config --explain data).
        count: Counting and vocabularies, as JSON (mec config --explain count).
        pretrain: The small model whose embeddings are compressed, as JSON (mec config --explain pretrain).
        quantize: How vectors become codes, as JSON (mec config --explain quantize).
        publish: Codes to the online store, as JSON (mec config --explain publish).
        train: The backbone, as JSON (mec config --explain train).
        evaluate: What is measured on the test rows, as JSON (mec config --explain evaluate).
        tracking: MLflow runs and the model registry, as JSON (mec config --explain tracking).
        work_dir: Directory of checkpoints, kept when a step is killed; empty for none.
        code_hash: Identity of the code, where the image's digest does not already tell it.
    """
    shared = {"seed": seed, "store": store, "work_dir": work_dir, "code_hash": code_hash}
    shared |= {"data": data, "count": count, "pretrain": pretrain, "quantize": quantize, "publish": publish}
    space = space_steps(data_version=data_version, **shared)
    backbone = backbone_steps(space, name=name, train=train, evaluate=evaluate, tracking=tracking, **shared)
    return TrainOutputs(**space._asdict(), **backbone._asdict())
