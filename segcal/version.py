"""Which code made a number."""

__all__ = ["code_version"]

import functools
import subprocess
from pathlib import Path

from segcal import __version__


@functools.cache
def code_version() -> str:
    """The package version; in a git checkout with its commit, and `.dirty` where files differ from it."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return __version__
    try:
        command = ["git", "describe", "--always", "--dirty=.dirty", "--abbrev=10", "--exclude=*"]
        commit = subprocess.run(
            command, cwd=here, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+g{commit}"
