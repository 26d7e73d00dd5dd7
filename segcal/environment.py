"""Environment variables: where segcal keeps things, and those that hold for a while."""

__all__ = ["environment", "home"]

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


def home() -> Path:
    """Where segcal keeps generated and prepared data: $SEGCAL_HOME, or ~/.cache/segcal."""
    return Path(os.environ.get("SEGCAL_HOME") or Path.home() / ".cache" / "segcal").absolute()


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set these variables within the block, in which started processes inherit them; then they are as they were."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
