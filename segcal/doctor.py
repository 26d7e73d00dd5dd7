"""What is here to work with, and what the default sweep would do with it."""

__all__ = ["examine"]

import importlib.metadata
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

from segcal.data.parallel import cores
from segcal.environment import home
from segcal.errors import StoreUnreachable
from segcal.ledger.location import tracking_uri
from segcal.ledger.store import open_store
from segcal.sweep.plan import load_plan
from segcal.version import code_version

LIBRARIES = ("torch", "mlflow", "ray", "numpy", "scipy", "nibabel", "SimpleITK")


def examine(task: str) -> dict[str, Any]:
    """Findings by name; "store answers" is False where the tracking store does not."""
    plan = load_plan(task=task)
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    side_by_side = (
        int(len(gpus) / plan.resources.gpus) if gpus and plan.resources.gpus else int(cores() // plan.resources.cpus)
    )
    answers = True
    try:
        open_store()
    except StoreUnreachable:
        answers = False
    return {
        "segcal": code_version(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "cores": cores(),
        "gpus": gpus or "none",
        "tracking store": tracking_uri(),
        "store answers": answers,
        "data and caches": str(home()),
        "free disk GB": round(shutil.disk_usage(_existing(home())).free / 1e9, 1),
        "would run": f"{sum(map(len, plan.seeds.values()))} trials of {len(plan.recipes)} recipes of {plan.task.name} "
        f"(scale {plan.scale or 'none'}), {max(1, side_by_side)} at a time, into experiment '{plan.experiment}'",
    }


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
