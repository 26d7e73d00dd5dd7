"""A sweep file, validated: which recipes, which seeds, with what resources; and the trials that follow from it."""

__all__ = [
    "RECIPE_FIELDS", "Plan", "Resources", "SweepFile", "load_plan", "plan_of", "read_sweep", "recipe_of",
    "settings_of", "sweep_file", "trials",
]  # fmt: skip

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

import segcal
from segcal.data.layouts import LAYOUTS
from segcal.data.taskfile import load_task, read_yaml, validate
from segcal.errors import UsageError, nearest
from segcal.learn.losses import LOSSES, options_of, silent_choice
from segcal.tasks import TASKS, TaskSpec
from segcal.trial import TrialConfig

# What the task, the data or the sweep decides; every other field of a trial may stand in a recipe.
_NOT_IN_RECIPES = {
    "task", "label", "data_digest", "in_channels", "n_classes", "dims", "seed", "class_weights", "plugins",
}  # fmt: skip
RECIPE_FIELDS = {field.name for field in fields(TrialConfig)} - _NOT_IN_RECIPES


class Resources(BaseModel):
    """What one trial takes; GPUs count only where the machine has some. custom: names that a cluster's nodes have."""

    model_config = ConfigDict(extra="forbid")
    cpus: Annotated[float, Field(gt=0)] = 1  # cores
    gpus: Annotated[float, Field(ge=0)] = 0.25  # GPUs, or a share of one; of no meaning where there is none
    custom: dict[str, Annotated[float, Field(gt=0)]] = {}  # resources that a cluster's nodes were started with


class SweepFile(BaseModel):
    """The file's keys. `training` holds settings of all recipes; a scale replaces any of the other keys.

    A recipe may have `seeds` of its own: fewer of what is costly to predict, such as Monte Carlo dropout.
    `search` makes it a file for `segcal search`, which validates it (segcal.search.space).
    """

    model_config = ConfigDict(extra="forbid")
    task: str = "brain"  # a built-in task or a task file
    experiment: Annotated[str, Field(min_length=1)] = "calib"  # of MLflow
    task_fields: dict[str, Any] = {}  # fields of the task that are other than its own
    seeds: int | list[int] = 5  # how many, from 0, or which; a recipe may have its own
    training: dict[str, Any] = {}  # settings of all recipes
    recipes: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]  # each with settings of its own
    resources: Resources = Resources()  # that one trial takes
    search: dict[str, Any] | None = None  # makes it a file for `segcal search`
    scales: dict[str, dict[str, Any]] = {}  # keys that `--scale NAME` puts in the place of those above


@dataclass(frozen=True)
class Plan:
    """A sweep, resolved except for what only the prepared data know."""

    experiment: str
    task: TaskSpec
    scale: str
    seeds: dict[str, tuple[int, ...]]  # of each recipe
    recipes: dict[str, dict[str, Any]]
    resources: Resources
    plugins: tuple[str, ...] = ()  # packages that the task and the layout of its data come from, name==version

    def as_yaml(self) -> str:
        """The resolved plan, for the record."""
        content = {
            "experiment": self.experiment,
            "scale": self.scale,
            "task": TypeAdapter(TaskSpec).dump_python(self.task, mode="json"),
            "recipes": {label: {**recipe, "seeds": list(self.seeds[label])} for label, recipe in self.recipes.items()},
            "resources": self.resources.model_dump(),
        }
        return yaml.safe_dump(content, sort_keys=False)


def load_plan(
    path: Path | None = None,
    task: str | None = None,
    scale: str | None = None,
    experiment: str | None = None,
    settings: Sequence[str] = (),
) -> Plan:
    """Read a sweep file (the task's own where none is named), apply a scale and `key=value` settings, and validate.

    Raises UsageError with the first thing that is wrong.
    """
    path = path or sweep_file(task or "brain")
    sweep, scale = read_sweep(path, task, scale, experiment, settings)
    if sweep.search is not None:
        raise UsageError(f"{path}: a file with `search` is for `segcal search`, got it for a sweep")
    plan = plan_of(sweep, scale)
    trials(plan, "not yet known", [1] * plan.task.n_classes)  # every value is checked before any data are read
    return plan


def read_sweep(
    path: Path, task: str | None, scale: str | None, experiment: str | None, settings: Sequence[str]
) -> tuple[SweepFile, str]:
    """The file with its scale and the settings applied, and the scale's name; its values are not checked yet."""
    raw = read_yaml(path)
    scales = raw.get("scales") or {}
    if scale is None:
        scale = "demo" if "demo" in scales else ""
    if scale and scale not in scales:
        raise UsageError(f"{path}: no scale named '{scale}'; {nearest(scale, scales)}")
    raw = _merge(raw, scales.get(scale) or {})
    for setting in settings:
        raw = _merge(raw, _setting(setting))
    if task:
        raw["task"] = task
    if experiment:
        raw["experiment"] = experiment
    return validate(TypeAdapter(SweepFile), raw, str(path)), scale


def plan_of(sweep: SweepFile, scale: str) -> Plan:
    """The plan of a file's content. Raises UsageError for an unknown name."""
    task = load_task(sweep.task, sweep.task_fields)
    return Plan(
        experiment=sweep.experiment,
        task=task,
        scale=scale,
        seeds={label: _seeds(fields_.get("seeds", sweep.seeds)) for label, fields_ in sweep.recipes.items()},
        recipes={label: recipe_of(label, {**sweep.training, **settings_of(f)}) for label, f in sweep.recipes.items()},
        resources=sweep.resources,
        plugins=TASKS.origin(sweep.task) + LAYOUTS.origin(task.layout),
    )


def trials(plan: Plan, data_digest: str, class_voxels: Sequence[int]) -> list[TrialConfig]:
    """All trials, seed by seed, so that every recipe has members early. Raises UsageError for a bad value."""
    configs = []
    every = sorted({seed for seeds in plan.seeds.values() for seed in seeds})
    for seed, (label, recipe) in itertools.product(every, plan.recipes.items()):
        if seed in plan.seeds[label]:
            resolved = {
                "batch": plan.task.batch,
                **recipe,
                "task": plan.task.name,
                "label": label,
                "data_digest": data_digest,
                "in_channels": len(plan.task.channels),
                "n_classes": plan.task.n_classes,
                "dims": plan.task.dims,
                "class_weights": class_weights(recipe["weights"], plan.task, class_voxels),
                "plugins": tuple(sorted({*plan.plugins, *LOSSES.origin(recipe["loss"])})),
                "seed": seed,
            }
            config = validate(TypeAdapter(TrialConfig), resolved, f"recipe {label}")
            _check_trial(config)
            configs.append(config)
    same = {config.recipe for config in configs}
    if len(same) < len(plan.recipes):
        raise UsageError(f"recipes must differ in a setting, got {len(plan.recipes)} names for {len(same)} recipes")
    return configs


def class_weights(rule: str, task: TaskSpec, class_voxels: Sequence[int]) -> tuple[float, ...]:
    """Weights by class, background first. Inverse frequencies (section VI-A) are scaled to a mean of 1 over voxels."""
    if rule == "inverse_frequency":
        voxels = np.maximum(np.asarray(class_voxels, dtype=np.float64), 1)
        weights = voxels.sum() / (len(voxels) * voxels)
        return tuple(float(weight) for weight in weights)
    if rule == "structures":
        return (1.0, *(task.structure_weights.get(name, 1.0) for name in task.structures))
    return (1.0,) * task.n_classes


def sweep_file(task: str, verb: str = "sweep") -> Path:
    """sweeps/<task>.yaml here or in the package; sweeps/default.yaml for a user's own task.

    That of a search is sweeps/<task>-search.yaml.
    """
    name = f"{task if task in TASKS.built_in else 'default'}{'-search' if verb == 'search' else ''}.yaml"
    if task not in TASKS and not task.endswith((".yaml", ".yml")):
        load_task(task)  # raises with the names that are known
    for folder in (Path.cwd(), Path(segcal.__file__).parent):
        if (folder / "sweeps" / name).exists():
            return folder / "sweeps" / name
    raise UsageError(f"no {verb} file sweeps/{name} here or in the package; name one: segcal {verb} FILE")


def settings_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe of a file without its seeds."""
    return {key: value for key, value in recipe.items() if key != "seeds"}


def recipe_of(label: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with the paper's choices for its loss, or the plug-in's, where it is silent."""
    for key in given:
        if key not in RECIPE_FIELDS:
            raise UsageError(f"recipe {label}: no key named '{key}'; {nearest(key, RECIPE_FIELDS)}")
    loss = given.get("loss")
    if not isinstance(loss, str) or loss not in LOSSES:
        raise UsageError(f"recipe {label}: {LOSSES.unknown(str(loss))}")
    silent = {key: value for key, value in silent_choice(loss).items() if key in RECIPE_FIELDS}
    options = _options(label, loss, given.get("loss_options") or {})
    said = {key: value for key, value in given.items() if key != "loss_options"}
    return {**silent, **said, **({"loss_options": options} if options else {})}


def _options(label: str, loss: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise UsageError(f"recipe {label}: loss_options must be a mapping such as {{gamma: 2}}, got {given!r}")
    try:
        return options_of(loss, given)
    except UsageError as error:
        raise UsageError(f"recipe {label}: {error}") from None


def _check_trial(config: TrialConfig) -> None:
    where = f"recipe {config.label}"
    positive = {name: getattr(config, name) for name in ("batch", "lr", "lr_patience", "epochs", "patience", "smooth")}
    for name, value in positive.items():
        if value <= 0:
            raise UsageError(f"{where}: {name} must be above 0, got {value}")
    if not 0 <= config.dropout < 1:
        raise UsageError(f"{where}: dropout must lie in [0, 1), got {config.dropout}")
    if config.mc_samples < 0:
        raise UsageError(f"{where}: mc_samples must not be negative, got {config.mc_samples}")
    if config.mc_validation and not config.sampled:
        raise UsageError(
            f"{where}: mc_validation needs dropout and mc_samples above 0, got {config.dropout} and {config.mc_samples}"
        )
    if not 0 < config.lr_factor < 1:
        raise UsageError(f"{where}: lr_factor must lie between 0 and 1, got {config.lr_factor}")
    if len(config.kernels) % 2 or not 4 <= len(config.kernels) <= 10:
        raise UsageError(f"{where}: kernels must be two for each of 2 to 5 levels, got {len(config.kernels)}")
    fixed = {"sigmoid": False, "raw_sum": True}  # one has no channel for it, the other would never train it
    if config.loss == "soft_dice" and fixed.get(config.head, config.background) != config.background:
        needs = "false" if config.background else "true"
        raise UsageError(
            f"{where}: head {config.head} needs background: {needs} in the Dice loss, got {config.background}"
        )


def _seeds(given: Any) -> tuple[int, ...]:
    whole = [given] if isinstance(given, int) else given
    if not isinstance(whole, list) or not all(isinstance(seed, int) for seed in whole):
        raise UsageError(f"seeds must be a number above 0 or a list of numbers, got {given}")
    seeds = list(range(given)) if isinstance(given, int) else given
    if not seeds:
        raise UsageError(f"seeds must be a number above 0 or a list of numbers, got {given}")
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if repeated:
        raise UsageError(f"seeds must differ, got {repeated[0]} more than once")
    if min(seeds) < 0:
        raise UsageError(f"seeds must not be negative, got {min(seeds)}")
    return tuple(seeds)


def _setting(text: str) -> dict[str, Any]:
    """`recipes.ce.lr=0.01` as nested keys; a bare field of a trial goes to `training`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"a setting must read key=value, got '{text}'")
    path = key.strip().split(".")
    if path[0] in RECIPE_FIELDS:
        path = ["training", *path]
    elif path[0] not in SweepFile.model_fields:
        known = RECIPE_FIELDS | {*SweepFile.model_fields}
        raise UsageError(f"--set: no key named '{path[0]}'; {nearest(path[0], known)}")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"the value of a setting must be YAML, got '{text}'") from None
    for part in reversed(path):
        nested = {part: nested}
    return dict(nested)


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged
