"""Every tag, metric and model name that segcal writes to MLflow, once."""

__all__ = ["metric_name", "model_name", "tag"]

import re

DEFAULT_EXPERIMENT = "calib"

# Files of a checkpoint
WEIGHTS, CONFIG, TASK = "weights.safetensors", "config.json", "task.json"

# Metrics of a trial; one value an epoch
TRAIN_LOSS, VAL_DICE, LR, SECONDS = "train_loss", "val_dice", "lr", "seconds"


def tag(name: str) -> str:
    """segcal's own tags: kind (sweep, trial, report or ensemble), experiment, task, recipe, label, loss, seed, key,
    data_digest, code_version, weights_sha256, val_dice, epoch, step, error, again_with_gpus, sweep_run; of a report
    analysis (the hash of its question), spec, tasks, progress, holder; of an ensemble source_experiment, select,
    members, identity, manifest_sha256."""
    return f"segcal.{name}"


def metric_name(*parts: str) -> str:
    """Parts joined by dots, with `_` for what MLflow refuses in names (a structure may be called anything)."""
    return re.sub(r"[^\w\-. ]", "_", ".".join(parts))


def model_name(task: str, recipe: str) -> str:
    """The registered model of a recipe; each seed is a version of it."""
    return f"segcal-{task}-{recipe}"
