"""`mlflow run . -e sweep` without --experiment-name opens its run in the sweep's experiment.

MLflow would put it into "Default", where the trials' parent could not stand above its children. MLflow asks this
class through the entry point `mlflow.default_experiment_provider`; it answers for segcal's own project only.
"""

__all__ = ["SweepExperiment"]

import sys
from pathlib import Path

from segcal.ledger.names import DEFAULT_EXPERIMENT

# No import of mlflow up here: MLflow loads this class while it is being imported itself.


class SweepExperiment:
    """Has the two methods of MLflow's DefaultExperimentProvider."""

    def in_context(self) -> bool:
        """Whether this process is `mlflow run <a folder of segcal> -e sweep`."""
        program, *words = sys.argv
        if Path(program).stem != "mlflow" or words[:1] != ["run"] or "sweep" not in words:
            return False
        projects = (Path(word) / "MLproject" for word in words[1:])
        return any(path.is_file() and "name: segcal\n" in path.read_text() for path in projects)

    def get_experiment_id(self) -> str:
        """The experiment of `-P experiment=NAME`, or `calib`; created where it does not exist."""
        from mlflow import MlflowClient

        named = [word.removeprefix("experiment=") for word in sys.argv if word.startswith("experiment=")]
        name = named[-1] if named else DEFAULT_EXPERIMENT
        client = MlflowClient()
        found = client.get_experiment_by_name(name)
        return str(found.experiment_id if found else client.create_experiment(name))
