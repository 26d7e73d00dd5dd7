"""The file that MLflow runs to load an ensemble (models from code); it knows where the manifest lies, segcal the rest.

model = mlflow.pyfunc.load_model("models:/segcal-brain-ensemble@champion")
found = model.predict(image)  # (C, Z, Y, X) float32 in [0, 1], on the task's grid
found["probabilities"], found["labels"], found["entropy"], found["confidence"]["edema"]["entropy"]
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from segcal.ensemble.loaded import assemble, confidence
from segcal.ensemble.manifest import from_json
from segcal.errors import BadData
from segcal.ledger.ensemble_version import is_registered
from segcal.ledger.store import open_store


class RegisteredEnsemble(PythonModel):  # type: ignore[misc]
    """Members are read from the registry, by version, and their weights' hashes checked."""

    def load_context(self, context: PythonModelContext) -> None:
        """Called once, by mlflow.pyfunc.load_model."""
        path = Path(context.artifacts["manifest"])
        text, client = path.read_text(), open_store(mlflow.get_tracking_uri())
        manifest = from_json(text, str(path))
        if not is_registered(client, text):
            raise BadData(f"{path}: the manifest must be that of a registered version, got an altered one; restore it")
        self.ensemble = assemble(client, manifest, f"ensemble {manifest.label}")

    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: Any = None) -> dict[str, Any]:
        """probabilities (K, Z, Y, X), labels and entropy (Z, Y, X), confidence: structure -> entropy H(S), probability.

        params: case_id, which Monte Carlo dropout draws its masks from.
        """
        found = self.ensemble.predict(model_input, (params or {}).get("case_id", ""))
        return {
            "probabilities": found.probs,
            "labels": found.labels,
            "entropy": found.entropy,
            "confidence": confidence(found),
        }


set_model(RegisteredEnsemble())
