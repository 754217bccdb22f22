"""The two halves of a train run as tasks of whichever pipeline calls: one space, and one backbone in it."""

from __future__ import annotations

from typing import Any, NamedTuple

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

Parameter = Any  # a pipeline's parameter, or one of a loop's item


class SpaceSteps(NamedTuple):
    """Artifacts that every backbone of a run shares."""

    counts: Any
    vocabulary: Any
    dataset: Any
    pretrained: Any
    codebook: Any
    codes: Any
    publication: Any


class BackboneSteps(NamedTuple):
    """Artifacts of one backbone."""

    model: Any
    reference: Any
    evaluation: Any
    registration: Any


def space_steps(
    *,
    data_version: Parameter,
    store: Parameter,
    seed: Parameter,
    data: Parameter,
    count: Parameter,
    pretrain: Parameter,
    quantize: Parameter,
    publish: Parameter,
    work_dir: Parameter,
    code_hash: Parameter,
) -> SpaceSteps:
    """Add the steps from raw rows to published codes; the parameters are those of the pipelines."""
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
    return SpaceSteps(
        counts=counted.outputs["counts"],
        vocabulary=vocabulary.outputs["vocabulary"],
        dataset=encoded.outputs["dataset"],
        pretrained=pretrained.outputs["pretrained"],
        codebook=quantized.outputs["codebook"],
        codes=quantized.outputs["codes"],
        publication=published.outputs["publication"],
    )


def backbone_steps(
    space: SpaceSteps,
    *,
    name: Parameter,
    seed: Parameter,
    store: Parameter,
    data: Parameter,
    count: Parameter,
    pretrain: Parameter,
    quantize: Parameter,
    publish: Parameter,
    train: Parameter,
    evaluate: Parameter,
    tracking: Parameter,
    work_dir: Parameter,
    code_hash: Parameter,
) -> BackboneSteps:
    """Add the steps that train, measure and register one backbone; the parameters are those of the pipelines."""
    trained = train_backbone(
        train=train,
        seed=seed,
        work_dir=work_dir,
        code_hash=code_hash,
        dataset=space.dataset,
        pretrained=space.pretrained,
        codebook=space.codebook,
        codes=space.codes,
    )
    reference = train_reference(
        train=train,
        evaluate=evaluate,
        seed=seed,
        work_dir=work_dir,
        code_hash=code_hash,
        dataset=space.dataset,
        pretrained=space.pretrained,
    )
    evaluated = evaluate_model(
        evaluate=evaluate,
        seed=seed,
        code_hash=code_hash,
        dataset=space.dataset,
        vocabulary=space.vocabulary,
        model=trained.outputs["model"],
        codebook=space.codebook,
        codes=space.codes,
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
        dataset=space.dataset,
        vocabulary=space.vocabulary,
        pretrained=space.pretrained,
        codebook=space.codebook,
        codes=space.codes,
        model=trained.outputs["model"],
        publication=space.publication,
        evaluation=evaluated.outputs["evaluation"],
    )
    registered.set_caching_options(False)
    return BackboneSteps(
        model=trained.outputs["model"],
        reference=reference.outputs["model"],
        evaluation=evaluated.outputs["evaluation"],
        registration=registered.outputs["registration"],
    )
