"""The model as MLflow's pyfunc, stored as this file (models from code): nothing is pickled.

In: a frame with the model's features (missing values as NaN or null). Out: probability of fraud per row.
Needs this project installed beside MLflow; the bundle itself lies among the model's artifacts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from jobs.serving.bundle import ModelBundle


class FraudModel(PythonModel):  # type: ignore[misc]  # the package has no types
    """Calibrated, blended probabilities, the same as the scoring service's."""

    def load_context(self, context: PythonModelContext) -> None:
        self.bundle = ModelBundle.load(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        del context, params
        matrix = model_input[list(self.bundle.features)].to_numpy(dtype=np.float32)
        return self.bundle.score(matrix)


set_model(FraudModel())
