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

from components.count.component import count as count_values
from components.encode.component import encode as encode_rows
from components.evaluate.component import evaluate as evaluate_model
from components.pretrain.component import pretrain as pretrain_tables
from components.publish.component import publish as publish_codes
from components.quantize.component import quantize as quantize_tables
from components.reference.component import reference as train_reference
from components.register.component import register as register_model
from components.train.component import train as train_backbone
from components.vocabulary.component import vocabulary as make_vocabulary


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
    counted = count_values(data=data, count=count, seed=seed, data_version=data_version, code_hash=code_hash)
    vocabulary = make_vocabulary(count=count, code_hash=code_hash, counts=counted.outputs["counts"])
    encoded = encode_rows(
        data=data,
        seed=seed,
        data_version=data_version,
        code_hash=code_hash,
        vocabulary=vocabulary.outputs["vocabulary"],
    )
    pretrained = pretrain_tables(
        pretrain=pretrain,
        seed=seed,
        work_dir=work_dir,
        code_hash=code_hash,
        dataset=encoded.outputs["dataset"],
        vocabulary=vocabulary.outputs["vocabulary"],
    )
    quantized = quantize_tables(
        quantize=quantize,
        seed=seed,
        code_hash=code_hash,
        pretrained=pretrained.outputs["pretrained"],
        vocabulary=vocabulary.outputs["vocabulary"],
    )
    published = publish_codes(
        publish=publish,
        store=store,
        vocabulary=vocabulary.outputs["vocabulary"],
        codebook=quantized.outputs["codebook"],
        codes=quantized.outputs["codes"],
    )
    published.set_caching_options(False)
    trained = train_backbone(
        train=train,
        seed=seed,
        work_dir=work_dir,
        code_hash=code_hash,
        dataset=encoded.outputs["dataset"],
        pretrained=pretrained.outputs["pretrained"],
        codebook=quantized.outputs["codebook"],
        codes=quantized.outputs["codes"],
    )
    reference = train_reference(
        train=train,
        evaluate=evaluate,
        seed=seed,
        work_dir=work_dir,
        code_hash=code_hash,
        dataset=encoded.outputs["dataset"],
        pretrained=pretrained.outputs["pretrained"],
    )
    evaluated = evaluate_model(
        evaluate=evaluate,
        seed=seed,
        code_hash=code_hash,
        dataset=encoded.outputs["dataset"],
        vocabulary=vocabulary.outputs["vocabulary"],
        model=trained.outputs["model"],
        codebook=quantized.outputs["codebook"],
        codes=quantized.outputs["codes"],
        reference=reference.outputs["model"],
    )
    registered = register_model(
        name=name,
        seed=seed,
        store=store,
        data=data,
        count=count,
        pretrain=pretrain,
        quantize=quantize,
        publish=publish,
        train=train,
        evaluate=evaluate,
        tracking=tracking,
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        dataset=encoded.outputs["dataset"],
        vocabulary=vocabulary.outputs["vocabulary"],
        codebook=quantized.outputs["codebook"],
        codes=quantized.outputs["codes"],
        model=trained.outputs["model"],
        publication=published.outputs["publication"],
        evaluation=evaluated.outputs["evaluation"],
    )
    registered.set_caching_options(False)
    return TrainOutputs(
        counts=counted.outputs["counts"],
        vocabulary=vocabulary.outputs["vocabulary"],
        dataset=encoded.outputs["dataset"],
        pretrained=pretrained.outputs["pretrained"],
        codebook=quantized.outputs["codebook"],
        codes=quantized.outputs["codes"],
        publication=published.outputs["publication"],
        model=trained.outputs["model"],
        reference=reference.outputs["model"],
        evaluation=evaluated.outputs["evaluation"],
        registration=registered.outputs["registration"],
    )
