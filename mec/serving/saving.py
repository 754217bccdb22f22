"""A scorer bundle as an MLflow model: signature, requirements, and mec's own code inside it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import mec
from mec.bundle import Bundle
from mec.serving.schema import InputField
from mec.serving.sources import BundleCodes, FeastCodes

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec

_REQUIRED = ("mlflow", "feast", "numpy", "pandas", "pyarrow", "pydantic", "PyYAML", "safetensors", "torch")


def save_pyfunc(path: Path, *, scorer: Bundle, codes: FeastCodes | BundleCodes, model_id: str, run_id: str) -> None:
    """Write a scorer bundle as an MLflow pyfunc model.

    Args:
        path: Directory to make.
        scorer: The scorer bundle; copied.
        codes: Where the loaded model gets codes from, unless it is told otherwise.
        model_id: Of the MLflow model that the directory is for.
        run_id: MLflow run that made it.
    """
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model

    fields = [InputField(**f) for f in scorer.extra["fields"]]
    pyfunc.save_model(
        str(path),
        python_model=str(Path(__file__).with_name("pyfunc_model.py")),
        artifacts={"scorer": str(scorer.path)},
        code_paths=[str(Path(mec.__file__).parent)],
        signature=signature(fields),
        input_example=pd.DataFrame(scorer.extra["example"]),
        pip_requirements=pip_requirements(),
        model_config={"codes": codes.model_dump()},
        mlflow_model=Model(artifact_path="scorer", run_id=run_id, model_uuid=model_id, model_id=model_id),
    )
    for cache in path.rglob("__pycache__"):
        for file in cache.iterdir():
            file.unlink()
        cache.rmdir()


def pip_requirements() -> list[str]:
    """What scoring needs, pinned to the versions of now; builds such as ``+cpu`` are left to the installer."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in _REQUIRED]


def signature(fields: Sequence[InputField]) -> ModelSignature:
    """Raw columns in, one probability per row out.

    MLflow takes no null in a column of integers, and no integers in a column of doubles: fields that may
    hold nulls, and numeric ones, are declared as any type, and checked by the scorer itself.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    return ModelSignature(inputs=Schema([_column(f) for f in fields]), outputs=Schema([ColSpec(DataType.double)]))


def _column(field: InputField) -> ColSpec:
    from mlflow.types import ColSpec, DataType
    from mlflow.types.schema import AnyType

    if field.kind == "categorical" and field.type == "string":
        return ColSpec(DataType.string, name=field.name)
    if field.kind == "categorical" and not field.has_null:
        return ColSpec(DataType.long, name=field.name)
    return ColSpec(AnyType(), name=field.name)  # type: ignore[no-untyped-call]
