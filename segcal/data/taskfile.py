"""Reads a task by name or from a user's YAML file, and prints one as such a file."""

__all__ = ["load_task", "read_yaml", "task_yaml", "validate"]

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from segcal.data.layouts import LAYOUTS, recognise
from segcal.errors import UsageError, nearest
from segcal.tasks import TASKS, TaskSpec

T = TypeVar("T")


def load_task(name: str, overrides: dict[str, Any] | None = None) -> TaskSpec:
    """A built-in task, the task of a YAML file, or the one that a data folder suggests; some fields replaced.

    Raises UsageError, or a DataFault for a folder that suggests none.
    """
    if name in TASKS:
        given = asdict(TASKS[name])
    elif name.endswith((".yaml", ".yml")):
        given = read_yaml(Path(name))
    elif Path(name).is_dir():
        given = asdict(_task_of_folder(Path(name)))
    else:
        raise UsageError(f"no task named '{name}'; {nearest(name, TASKS)}, or a YAML file, or a folder of data")
    task = validate(TypeAdapter(TaskSpec), given | (overrides or {}), f"task {name}")
    for layout in (task.layout, task.ood_layout):
        if layout and layout not in LAYOUTS:
            raise UsageError(f"task {name}: no layout named '{layout}'; {nearest(layout, LAYOUTS)}")
    if 0 in task.labels or len(task.labels) < 1:
        raise UsageError(f"task {name}: labels must name at least one value other than 0, got {dict(task.labels)}")
    if len(task.crop) not in (2, 3):
        raise UsageError(f"task {name}: crop must be (y, x) or (z, y, x), got {task.crop}")
    if any(side < 16 or side % 16 for side in task.crop):
        raise UsageError(f"task {name}: crop must be multiples of 16, got {task.crop}")
    unknown = set(task.structure_weights) - set(task.structures)
    if unknown:
        raise UsageError(f"task {name}: no structure named '{min(unknown)}'; {nearest(min(unknown), task.structures)}")
    return task


def _task_of_folder(root: Path) -> TaskSpec:
    """The task of a folder's layout."""
    layout = recognise(root)
    if layout is None:
        known = ", ".join(LAYOUTS)
        raise UsageError(f"{root}: the layout must be one of {known}, got none of these; name a task with --task")
    task = LAYOUTS[layout].task
    if task is None:
        raise UsageError(f"{root}: the {layout} layout does not tell the labels; name a task with --task")
    return replace(task(root), layout=layout)


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
