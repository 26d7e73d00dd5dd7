"""Reads a task by name or from a user's YAML file, and prints one as such a file."""

__all__ = ["load_task", "read_yaml", "task_yaml", "validate"]

import math
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from segcal.data.cohort import SPLITS
from segcal.data.layouts import LAYOUTS, recognise, task_of
from segcal.errors import UsageError, nearest
from segcal.tasks import TASKS, TaskSpec

T = TypeVar("T")


def load_task(name: str, overrides: dict[str, Any] | None = None) -> TaskSpec:
    """A task by its name, the task of a YAML file, or the one that a data folder suggests; some fields replaced.

    Raises UsageError, or a DataFault for a folder that suggests none.
    """
    if name in TASKS:
        given = asdict(TASKS[name])
    elif name.endswith((".yaml", ".yml")):
        given = read_yaml(Path(name))
    elif Path(name).is_dir():
        given = asdict(_task_of_folder(Path(name)))
    else:
        raise UsageError(f"{TASKS.unknown(name)}, or a YAML file, or a folder of data")
    task = validate(TypeAdapter(TaskSpec), given | (overrides or {}), f"task {name}")
    _check_values(task, f"task {name}")
    _check_names(task, f"task {name}")
    return task


def _check_names(task: TaskSpec, where: str) -> None:
    """Raise UsageError for a name that is unknown, empty or there twice."""
    for layout in (task.layout, task.ood_layout):
        if layout and layout not in LAYOUTS:
            raise UsageError(f"{where}: {LAYOUTS.unknown(layout)}")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", task.name):
        raise UsageError(
            f"{where}: name must be letters, digits, _, - and . (it names registered models), got {task.name}"
        )
    if not task.channels or len(set(task.channels)) < len(task.channels) or "label" in task.channels:
        got = ", ".join(task.channels) or "none"
        raise UsageError(f"{where}: channels must be different names other than 'label', got {got}")
    taken = {"box", "whole"} & set(task.structures)
    if taken:
        raise UsageError(f"{where}: structures must not be named box or whole (the regions), got {min(taken)}")
    unknown = set(task.structure_weights) - set(task.structures)
    if unknown:
        raise UsageError(f"{where}: no structure named '{min(unknown)}'; {nearest(min(unknown), task.structures)}")
    unknown = (set(task.split_sites) | set(task.split_counts)) - set(SPLITS)
    if unknown:
        raise UsageError(f"{where}: no split named '{min(unknown)}'; {nearest(min(unknown), SPLITS)}")


def _check_values(task: TaskSpec, where: str) -> None:
    """Raise UsageError for a value out of its range."""
    sides = [side for side in task.spacing_mm if side is not None]
    weights, shares = task.structure_weights.values(), task.split_fractions
    shared = any(shares) and all(0 <= share < math.inf for share in shares)
    rules = [
        ("labels", "name values from 1 to 255", task.labels and all(0 < value < 256 for value in task.labels)),
        ("crop", "be (y, x) or (z, y, x)", len(task.crop) in (2, 3)),
        ("crop", "be multiples of 16, at most 1024", all(n % 16 == 0 and 16 <= n <= 1024 for n in task.crop)),
        ("spacing_mm", "be null or 0.05 to 50", all(0.05 <= side <= 50 for side in sides)),
        ("batch", "be at least 1", task.batch >= 1),
        ("split_fractions", "be at least 0 and not all 0", shared),
        ("split_counts", "be at least 1", all(count >= 1 for count in task.split_counts.values())),
        ("split_seed", "be at least 0", task.split_seed >= 0),
        ("structure_weights", "be finite and at least 0", all(0 <= weight < math.inf for weight in weights)),
        ("box_margin_mm", "be finite and at least 0", 0 <= task.box_margin_mm < math.inf),
        ("box_margin_slices", "be at least 0", task.box_margin_slices >= 0),
        ("ensemble_sizes", "be at least 1", task.ensemble_sizes and min(task.ensemble_sizes) >= 1),
        ("curve_draws", "be at least 1", task.curve_draws >= 1),
    ]
    for field, rule, holds in rules:
        if not holds:
            raise UsageError(f"{where}: {field} must {rule}, got {getattr(task, field)}")


def _task_of_folder(root: Path) -> TaskSpec:
    """The task of a folder's layout."""
    layout = recognise(root)
    if layout is None:
        known = ", ".join(LAYOUTS)
        raise UsageError(f"{root}: the layout must be one of {known}, got none of these; name a task with --task")
    return task_of(root, layout)


def task_yaml(task: TaskSpec) -> str:
    """The task as a YAML file, each field with its meaning: the schema of a user's own task."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(task).items()}
    lines = [f"# a segcal task; use it with: segcal sweep --task {task.name}.yaml"]
    for field in fields(TaskSpec):
        style = None if isinstance(values[field.name], list | dict) else False
        value = yaml.safe_dump({field.name: values[field.name]}, sort_keys=False, default_flow_style=style, width=100)
        lines += [f"# {field.metadata['help']}", value.strip()]
    return "\n".join(lines) + "\n"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UsageError."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; check the path") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} must be YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold key: value pairs, got {type(content).__name__}")
    return content


def validate(adapter: TypeAdapter[T], given: dict[str, Any], what: str) -> T:
    """The validated object; the first fault as a one-line UsageError with the nearest known key."""
    try:
        return adapter.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            known = adapter.json_schema().get("properties", {})
            raise UsageError(f"{what}: no key named '{key}'; {nearest(key, known)}") from None
        raise UsageError(f"{what}: {key}: {first['msg']}, got {first['input']!r}") from None
