"""Builds what is published."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def build(folder: Path, out: Path, *what: str) -> Path:
    """The one file that `python -m build` makes of a folder, with the setuptools that is installed."""
    command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(out), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    (made,) = out.iterdir()
    return made
