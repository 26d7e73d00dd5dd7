"""The floors of the house hold: import-linter's contracts of pyproject.toml."""

import subprocess
import sys
from pathlib import Path


def test_imports_run_down():
    # In a process of its own: import-linter reconfigures logging, which would silence segcal's loggers here.
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    project = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", command], cwd=project, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
