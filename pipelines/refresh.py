"""The refresh pipeline: new rows renew the codes, and the backbone in service stays as it is.

    find_champion -> champion -> arrivals -> count -> extend_vocabulary -> encode -> refresh_pretrain -> recode
                                                                                                            |
                        promote: publish_generation -> promote_generation  <--- decide <--- refresh_evaluate
                        keep, escalate: keep_champion
                        train: keep_champion -> the steps of the train pipeline, on old and new rows

Run it here:        mec refresh configs/shop.yaml --data new_rows.parquet

Only the small model is trained, unless an escalation trains (``refresh.on_escalation``). Up to ``decide`` nothing
outside the run is written but what is kept for later runs; what looks at the world outside, or changes it, is never
reused.
"""

from typing import NamedTuple

from kfp import dsl

from components.arrivals.component import arrivals as check_arrivals
from components.champion.component import champion as look_up_champion
from components.count.component import count as count_values
from components.decide.component import decide
from components.encode.component import encode as encode_rows
from components.extend_vocabulary.component import extend_vocabulary
from components.find_champion.component import find_champion
from components.keep_champion.component import keep_champion
from components.promote_generation.component import promote_generation
from components.publish_generation.component import publish_generation
from components.recode.component import recode
from components.refresh_evaluate.component import refresh_evaluate
from components.refresh_pretrain.component import refresh_pretrain
from pipelines.steps import backbone_steps, space_steps


class RefreshOutputs(NamedTuple):
    """The bundles of a refresh, and what became of it as JSON: ``outcome.json`` of the last step."""

    champion: dsl.Artifact
    arrivals: dsl.Artifact
    row_hashes: dsl.Artifact
    counts: dsl.Artifact
    vocabulary: dsl.Artifact
    dataset: dsl.Dataset
    pretrained: dsl.Model
    codebook: dsl.Model
    codes: dsl.Artifact
    evaluation: dsl.Artifact
    decision: dsl.Artifact
    outcome: str


@dsl.pipeline(name="mec-refresh", description="New rows renew the codes; the backbone in service stays.")
def refresh(
    data_version: str,
    store: str,
    new_data: str,
    name: str = "demo",
    version: str = "",
    seed: int = 0,
    data: str = "{}",
    count: str = "{}",
    pretrain: str = "{}",
    quantize: str = "{}",
    publish: str = "{}",
    train: str = "{}",
    evaluate: str = "{}",
    tracking: str = "{}",
    refresh: str = "{}",
    settings: str = "{}",
    work_dir: str = "",
    code_hash: str = "",
) -> RefreshOutputs:
    """New rows renew the codes; the backbone in service stays.

    Args:
        data_version: Identity of the new rows, such as a snapshot's date: steps are reused only for the same one, and
            the last refresh's once more ends as it did, and rows of an earlier one are refused.
        store: Directory of the embedded stores and kept bundles; on a cluster, on a volume that all steps mount.
        new_data: Where the new rows are and what their columns mean, as JSON (mec config --explain data).
        name: Names the registered model, unless tracking does.
        version: Number of the version to refresh; empty: the champion.
        seed: Of every random draw.
        data: Of the train run, as JSON: new rows are compared with its rows, and a training in place of the refresh has
            both.
        count: Counting and vocabularies, as JSON (mec config --explain count).
        pretrain: The small model, as in the train run, as JSON (mec config --explain pretrain).
        quantize: How vectors become codes, as in the train run, as JSON (mec config --explain quantize).
        publish: Codes to the online store, as JSON (mec config --explain publish).
        train: The backbone of a training in place of the refresh, as JSON (mec config --explain train).
        evaluate: Rows per step of the evaluation, as JSON (mec config --explain evaluate).
        tracking: MLflow runs and the model registry, as JSON (mec config --explain tracking).
        refresh: How the embeddings are renewed, what is promoted, and whether an escalation trains, as JSON (mec config
            --explain refresh).
        settings: All of these as one JSON object, to be logged.
        work_dir: Directory of checkpoints, kept when a step is killed; empty for none.
        code_hash: Identity of the code, where the image's digest does not already tell it.
    """
    place = {"tracking": tracking, "name": name, "store": store}
    learn = {"seed": seed, "code_hash": code_hash}
    new_rows = {"seed": seed, "data_version": data_version, "code_hash": code_hash}
    rows = {"data": data, "new_data": new_data, "seed": seed}
    found = find_champion(version=version, refresh=refresh, data_version=data_version, **rows, **place)
    found.set_caching_options(False)
    looked_up = look_up_champion(version=found.output, data=data, refresh=refresh, **place, **new_rows)
    champion = looked_up.outputs["champion"]
    arrived = check_arrivals(refresh=refresh, new_data=new_data, champion=champion, **new_rows)
    counted = count_values(data=new_data, count=count, **new_rows).after(arrived)
    extended = extend_vocabulary(
        count=count, refresh=refresh, code_hash=code_hash, champion=champion, counts=counted.outputs["counts"]
    )
    vocabulary = extended.outputs["vocabulary"]
    dataset = encode_rows(data=new_data, vocabulary=vocabulary, **new_rows).outputs["dataset"]
    trained = refresh_pretrain(
        refresh=refresh,
        pretrain=pretrain,
        work_dir=work_dir,
        champion=champion,
        dataset=dataset,
        vocabulary=vocabulary,
        **learn,
    )
    recoded = recode(
        refresh=refresh,
        quantize=quantize,
        champion=champion,
        pretrained=trained.outputs["pretrained"],
        vocabulary=vocabulary,
        **learn,
    )
    coded = {"vocabulary": vocabulary, "codebook": recoded.outputs["codebook"], "codes": recoded.outputs["codes"]}
    evaluated = refresh_evaluate(
        refresh=refresh, evaluate=evaluate, code_hash=code_hash, champion=champion, dataset=dataset, **coded
    )
    decided = decide(refresh=refresh, code_hash=code_hash, evaluation=evaluated.outputs["evaluation"])
    run = {"run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER, "champion": champion, **place}
    measured = {"evaluation": evaluated.outputs["evaluation"], "decision": decided.outputs["decision"]}
    with dsl.If(decided.outputs["Output"] == "promote", name="promote"):
        published = publish_generation(publish=publish, tracking=tracking, store=store, champion=champion, **coded)
        published.set_caching_options(False)
        promoted = promote_generation(
            settings=settings,
            new_data=new_data,
            dataset=dataset,
            row_hashes=arrived.outputs["row_hashes"],
            pretrained=trained.outputs["pretrained"],
            publication=published.outputs["publication"],
            **coded,
            **measured,
            **run,
        )
        promoted.set_caching_options(False)
    with dsl.Elif(decided.outputs["Output"] == "train", name="train"):
        called = keep_champion(then_train=True, **rows, **measured, **run)
        called.set_caching_options(False)
        all_rows = {"data": called.outputs["train_data"], "count": count, "pretrain": pretrain, "quantize": quantize}
        shared = {**learn, "store": store, "work_dir": work_dir, "publish": publish, **all_rows}
        space = space_steps(data_version=called.outputs["train_data_version"], **shared)
        backbone_steps(space, name=name, train=train, evaluate=evaluate, tracking=tracking, **shared)
    with dsl.Elif(decided.outputs["Output"] == "escalate", name="escalate"):
        escalated = keep_champion(then_train=False, **rows, **measured, **run)
        escalated.set_caching_options(False)
    with dsl.Else(name="keep"):
        kept = keep_champion(then_train=False, **rows, **measured, **run)
        kept.set_caching_options(False)
    return RefreshOutputs(
        champion=champion,
        arrivals=arrived.outputs["arrivals"],
        row_hashes=arrived.outputs["row_hashes"],
        counts=counted.outputs["counts"],
        dataset=dataset,
        pretrained=trained.outputs["pretrained"],
        evaluation=evaluated.outputs["evaluation"],
        decision=decided.outputs["decision"],
        outcome=dsl.OneOf(
            promoted.outputs["Output"], called.outputs["facts"], escalated.outputs["facts"], kept.outputs["facts"]
        ),
        **coded,
    )
