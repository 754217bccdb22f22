"""The scorer bundle: a model, its codebooks, a calibration, and what turns raw columns into values."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mec.bundle import MANIFEST, Bundle, open_bundle, write_bundle
from mec.config import DataConfig
from mec.data.layout import OOV_ID, FieldLayout
from mec.data.vocabulary import Vocabularies
from mec.errors import BundleError, SpaceError
from mec.evaluation.calibration import Calibration
from mec.quantize.codes import EXACT_FILE
from mec.serving.schema import FORMAT, InputField, input_fields

_EXAMPLE_ROWS = 3


def write_scorer(
    *,
    model: Bundle,
    codebook: Bundle,
    vocabulary: Bundle,
    evaluation: Bundle,
    data: DataConfig,
    out: Path,
    codes: Bundle | None = None,
) -> Bundle:
    """Put together what serving needs, the codes of coded vocabularies left out: those come from the online store.

    Args:
        model: Model bundle, on codes.
        codebook: A codebook bundle of its space.
        vocabulary: Vocabulary bundle of the codes.
        evaluation: Evaluation bundle of this model with this codebook; its calibration is served.
        data: Where the columns of sequence fields are text, how they are separated.
        out: Directory to make.
        codes: Codes bundle of a refresh: where it renews the rows of vocabularies without codes, these are served.

    Raises:
        BundleError: The model is not one on codes, or the evaluation is of another model.
        SpaceError: The evaluation was made with another codebook.
    """
    _check(model, codebook, evaluation)
    layout = FieldLayout.from_json(model.extra["layout"])
    vocabularies = Vocabularies(vocabulary)
    facts = vocabulary.extra["vocabularies"]
    looked_up = {f.vocabulary for f in layout.fields if f.kind != "linear"}
    fields = input_fields(
        layout,
        types={name: facts[name]["type"] for name in looked_up},
        nullable={name: vocabularies.values(name).slice(OOV_ID + 1).null_count > 0 for name in looked_up},
        numeric=vocabulary.extra["numeric"],
        separators={f.name: f.separator for f in data.sequence},
    )
    measured = evaluation.json("evaluation.json")
    calibration = Calibration(measured["calibration"]["scale"], measured["calibration"]["bias"])
    with write_bundle(out, "scorer", parents={"model": model, "codebook": codebook}) as draft:
        copy_bundle(model, draft.path / "model")
        copy_bundle(codebook, draft.path / "codebook")
        (draft.path / "values").mkdir()
        values = {}
        for name in sorted(looked_up & set(codebook.extra["exact"])):
            values[name] = f"values/{name}.parquet"
            pq.write_table(pa.table({"value": vocabularies.values(name).slice(OOV_ID + 1)}), draft.path / values[name])
        draft.extra |= {
            "format": FORMAT,
            "space": model.extra["space"],
            "codebook": codebook.uuid,
            "embedding_dim": model.extra["embedding_dim"],
            "layout": layout.to_json(),
            "fields": [f.to_json() for f in fields],
            "values": values,
            "calibration": calibration.to_json(),
            "example": {f.name: _example(f, vocabularies) for f in fields},
        }
        if codes is not None and "exact" in codes.extra:
            shutil.copyfile(codes.file(EXACT_FILE), draft.path / EXACT_FILE)
            draft.extra["exact"] = codes.uuid
    return open_bundle(out, "scorer")


def _example(field: InputField, vocabularies: Vocabularies) -> list[Any]:
    """Raw values of one field for a request of ``_EXAMPLE_ROWS`` rows: its most frequent ones."""
    if field.kind == "linear":
        return [field.mean] * _EXAMPLE_ROWS
    if field.kind == "bucketed":
        return [1.0] * _EXAMPLE_ROWS
    top = vocabularies.values(field.vocabulary).slice(OOV_ID + 1, 2 * _EXAMPLE_ROWS).drop_null().to_pylist()
    values = [top[row % len(top)] for row in range(_EXAMPLE_ROWS)]
    return [[value] for value in values] if field.kind == "sequence" else values


def copy_bundle(bundle: Bundle, to: Path) -> None:
    """Copy the files that a bundle's manifest lists, and the manifest last."""
    for name in [*sorted(bundle.manifest.files), MANIFEST]:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, target)


def _check(model: Bundle, codebook: Bundle, evaluation: Bundle) -> None:
    if model.extra["embedding"] != "codes":
        raise BundleError(
            f"{model.path} is not a model on codes, so there is nothing to look up when serving",
            found=f"embedding {model.extra['embedding']!r}",
            fix="pass the model of the train step",
        )
    parents = evaluation.manifest.parents
    if parents.get("model") != model.uuid:
        raise BundleError(
            f"the evaluation {evaluation.path} is not of the model {model.path}",
            found=f"model {parents.get('model')}",
            fix="run the evaluate step on this model",
        )
    if parents.get("codebook") != codebook.uuid:
        raise SpaceError(
            f"the evaluation {evaluation.path} was not made with the codebook {codebook.path}",
            found=f"codebook {parents.get('codebook')}",
            fix="pass the codebook that the evaluate step was given",
        )
