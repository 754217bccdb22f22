"""The registered model: MLflow runs this file where a version is loaded, so nothing is ever pickled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from mec.serving.scorer import Scorer
from mec.serving.sources import codes_settings


class ScorerModel(PythonModel):
    """The scorer bundle among the model's artifacts, with the codes that its config names.

    The config is ``{"codes": {"kind": "feast", "repo": …, "feature_service": …}}`` or
    ``{"codes": {"kind": "bundle", "codes": …, "vocabulary": …}}``; it holds what was published at training
    and is overridden by ``mlflow.pyfunc.load_model(uri, model_config=…)``.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Open the scorer and its source of codes."""
        self._scorer = Scorer.open(context.artifacts["scorer"], codes_settings(context.model_config["codes"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> NDArray[np.float64]:
        """Click probabilities (B,) of raw rows, one column per field."""
        return self._scorer.score(model_input)


set_model(ScorerModel())
