"""What `mlflow run` of this project needs to know before segcal is called.

- Without --experiment-name its run opens in the sweep's experiment. MLflow would put it into "Default", where the
  trials' parent could not stand above its children.
- The command works in the folder it was called from. MLflow changes to the project's folder, which of a git URL is a
  clone below the temporary files: checkpoints and reports would be left there.

MLflow loads this module through the entry point `mlflow.default_experiment_provider`; it acts for segcal's own project.
"""

__all__ = ["CALLER", "SweepExperiment"]

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

from segcal.errors import SegcalError
from segcal.ledger.names import DEFAULT_EXPERIMENT

# No import of mlflow up here: MLflow loads this class while it is being imported itself.

CALLER = "SEGCAL_CALLER"  # where `mlflow run` was called; the commands of MLproject go there


class SweepExperiment:
    """Has the two methods of MLflow's DefaultExperimentProvider."""

    def __init__(self) -> None:
        if _runs_segcal(sys.argv):
            os.environ[CALLER] = os.getcwd()

    def in_context(self) -> bool:
        """Whether this process is `mlflow run <segcal's folder or git URL> -e sweep`."""
        return _runs_segcal(sys.argv) and "sweep" in sys.argv[2:]

    def get_experiment_id(self) -> str:
        """The experiment of `-P experiment=NAME`, or `calib`; created where it does not exist."""
        from segcal.ledger.store import experiment_id, open_store

        named = [word.removeprefix("experiment=") for word in sys.argv if word.startswith("experiment=")]
        try:
            return experiment_id(open_store(), (named[-1] if named else "") or DEFAULT_EXPERIMENT)
        except SegcalError as error:
            print(f"segcal: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None


def _runs_segcal(argv: Sequence[str]) -> bool:
    program, *words = argv or [""]
    called = Path(program)
    if "mlflow" not in (called.stem, called.parent.name) or words[:1] != ["run"]:
        return False
    return any(_is_segcal(word) for word in words[1:] if "=" not in word and not word.startswith("-"))


def _is_segcal(uri: str) -> bool:
    """A folder by its project file; a git URL, which is not fetched yet, by its last name."""
    address, _, below = uri.strip("'\"").partition("#")
    folder = Path(urlparse(address).path if address.startswith("file://") else address) / below
    with contextlib.suppress(OSError, ValueError):
        if folder.exists():
            project = folder / "MLproject"
            return project.is_file() and "name: segcal\n" in project.read_text()
    remote = "://" in address or re.match(r"[\w.-]+@[\w.-]+:", address)
    return bool(remote and re.search(r"segcal[^/:]*/?$", address, re.IGNORECASE))
