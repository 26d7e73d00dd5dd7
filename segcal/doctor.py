"""What is here to work with, and what the default sweep would do with it."""

__all__ = ["examine"]

import importlib.metadata
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from segcal.data.parallel import cores
from segcal.environment import home
from segcal.errors import MissingExtra, StoreUnreachable
from segcal.ledger.location import is_new, shown, sqlite_file, tracking_uri
from segcal.ledger.store import open_store
from segcal.sweep.plan import load_plan
from segcal.version import code_version

LIBRARIES = ("torch", "mlflow", "ray", "numpy", "scipy", "nibabel", "SimpleITK")
EXTRAS = ("search", "service", "dicom-seg", "s3", "postgres")


def examine(task: str) -> dict[str, Any]:
    """Findings by name; "store answers" is False where the tracking store does not, and "store says" tells why."""
    plan = load_plan(task=task)
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    side_by_side = (
        int(len(gpus) / plan.resources.gpus) if gpus and plan.resources.gpus else int(cores() // plan.resources.cpus)
    )
    refusal = _refusal(tracking_uri())
    return {
        "segcal": code_version(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "extras": _extras(),
        "cores": cores(),
        "gpus": gpus or "none",
        "tracking store": shown(tracking_uri()),
        "store answers": not refusal,
        **({"store says": refusal} if refusal else {}),
        "data and caches": str(home()),
        "free disk GB": round(shutil.disk_usage(_existing(home())).free / 1e9, 1),
        "would run": f"{sum(map(len, plan.seeds.values()))} trials of {len(plan.recipes)} recipes of {plan.task.name} "
        f"(scale {plan.scale or 'none'}), {max(1, side_by_side)} at a time, into experiment '{plan.experiment}'",
    }


def _refusal(uri: str) -> str:
    """Why the store does not answer; "" where it does, or where the first sweep can set it up: not to be done here."""
    path = sqlite_file(uri)
    if path and is_new(uri) and os.access(path.parent, os.W_OK):
        return ""
    try:
        open_store(uri)
    except (StoreUnreachable, MissingExtra) as error:
        return str(error)
    return ""


def _extras() -> str:
    """Which are installed, by the requirements that segcal itself was installed with."""
    try:
        requirements = importlib.metadata.requires("segcal") or []
    except importlib.metadata.PackageNotFoundError:
        return "unknown: segcal lies on the path and is not installed"
    missing = set()
    for requirement in requirements:
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if name and extra and not list(importlib.metadata.distributions(name=name[0])):
            missing.add(extra[1])
    here = ", ".join(extra for extra in EXTRAS if extra not in missing) or "none"
    away = ", ".join(extra for extra in EXTRAS if extra in missing)
    return here + (f"; not installed: {away}" if away else "")


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
