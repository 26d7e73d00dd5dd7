"""A search file, validated: one recipe, and the space of settings in which a better one is looked for."""

__all__ = ["Dimension", "Search", "SearchPlan", "is_whole", "load_search", "round_drawn"]

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from segcal.data.taskfile import validate
from segcal.errors import UsageError, nearest
from segcal.learn.losses import LOSSES
from segcal.sweep.plan import (
    RECIPE_FIELDS,
    Plan,
    SweepFile,
    plan_of,
    read_sweep,
    recipe_of,
    settings_of,
    sweep_file,
    trials,
)
from segcal.trial import TrialConfig

OPTION = "loss_options."  # of a plug-in's loss; a range of one is of floats, whole numbers are choices
SEARCHABLE = RECIPE_FIELDS - {
    "epochs",
    "loss_options",
}  # how long a candidate may take is the search's cost, not its question
MOST_CORNERS = 4096
DIGITS = 4  # of a number that is drawn: a recipe that people can read
_TYPES = {name: kind for name, kind in get_type_hints(TrialConfig).items() if kind in (int, float)}


class Dimension(BaseModel):
    """What one setting may be: a number from low to high, in equal ratios with `log`; or one of the choices."""

    model_config = ConfigDict(extra="forbid")
    low: float | None = None  # the least value
    high: float | None = None  # the greatest value
    log: bool = False  # drawn evenly in its logarithm
    choices: list[Any] | None = None  # one of these, in the place of low and high


class Search(BaseModel):
    """The key `search` of a search file.

    A candidate's score is the mean over seeds of the metric in each seed's best epoch so far. `grace`: epochs before
    any is pruned. `asha` goes on at grace, grace x reduction, grace x reduction^2, ... with the best 1/reduction that
    came so far; `median` with those that are not below the median of the finished at the same epoch.
    """

    model_config = ConfigDict(extra="forbid")
    trials: Annotated[int, Field(ge=1)] = 40  # candidates, each with all seeds
    metric: Literal["val_dice"] = "val_dice"  # mean over structures of the validation cases; the higher the better
    space: Annotated[dict[str, Dimension], Field(min_length=1)]  # settings of the recipe, and what each may be
    pruner: Literal["asha", "median", "none"] = "asha"  # the rule by which poor candidates end early
    grace: Annotated[int, Field(ge=1)] = 5  # epochs before any is pruned
    reduction: Annotated[int, Field(ge=2)] = 3  # of asha: the best 1/reduction go on
    seed: Annotated[int, Field(ge=0)] = 0  # of the draws
    startup: Annotated[int, Field(ge=1)] = 10  # candidates drawn at random before the sampler learns from them


@dataclass(frozen=True)
class SearchPlan:
    """A search, resolved except for what only the prepared data know."""

    plan: Plan  # of the one recipe that candidates start from
    search: Search
    base: dict[str, Any]  # its settings as they were given
    task: str  # as it was named
    task_fields: dict[str, Any]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of every candidate."""
        return next(iter(self.plan.seeds.values()))

    def candidate(
        self, label: str, drawn: Mapping[str, Any], data_digest: str, class_voxels: Sequence[int]
    ) -> list[TrialConfig]:
        """The trials of a candidate, one a seed. Raises UsageError for a value that a trial cannot have."""
        recipe = recipe_of(label, _with(self.base, drawn))
        plan = dataclasses.replace(self.plan, recipes={label: recipe}, seeds={label: self.seeds})
        return trials(plan, data_digest, class_voxels)

    def study(self, data_digest: str) -> str:
        """The name of the study: scores compare only where everything but the number of candidates is the same."""
        content = {
            "base": self.base, "seeds": self.seeds, "data": data_digest, "task": self.plan.task.name,
            **self.search.model_dump(include={"metric", "space", "seed"}),
        }  # fmt: skip
        if plugins := self._plugins():
            content["plugins"] = plugins
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{self.plan.experiment}-{digest[:8]}"

    def _plugins(self) -> list[str]:
        """The packages that the task, its layout and the losses come from: another version makes other networks."""
        losses = self.search.space["loss"].choices if "loss" in self.search.space else None
        of_losses = {origin for loss in losses or [self.base["loss"]] for origin in LOSSES.origin(loss)}
        return sorted({*self.plan.plugins, *of_losses})

    def as_yaml(self) -> str:
        """The resolved search, for the record."""
        search = self.search.model_dump(exclude_defaults=False)
        search["space"] = {name: d.model_dump(exclude_unset=True) for name, d in self.search.space.items()}
        return self.plan.as_yaml() + yaml.safe_dump({"search": search}, sort_keys=False)


def load_search(
    path: Path | None = None,
    task: str | None = None,
    scale: str | None = None,
    experiment: str | None = None,
    settings: Sequence[str] = (),
) -> SearchPlan:
    """Read a search file (the task's own where none is named), apply a scale and `key=value` settings, and validate.

    Raises UsageError with the first thing that is wrong.
    """
    path = path or sweep_file(task or "brain", "search")
    sweep, scale = read_sweep(path, task, scale, experiment, settings)
    if sweep.search is None:
        raise UsageError(f"{path}: a file for `segcal search` must have the key `search`, got none: use `segcal sweep`")
    if len(sweep.recipes) != 1:
        raise UsageError(f"{path}: a search must start from one recipe, got {len(sweep.recipes)}")
    search = validate(TypeAdapter(Search), sweep.search, f"{path}: search")
    base = _base(sweep)
    plan = SearchPlan(plan_of(sweep, scale), search, base, sweep.task, sweep.task_fields)
    _check_space(search, str(path))
    _check_budget(plan, str(path))
    _check_corners(plan, str(path))
    return plan


def round_drawn(value: float, dimension: Dimension) -> float:
    """A number as a recipe has it: a few digits, within the bounds."""
    assert dimension.low is not None
    assert dimension.high is not None
    return min(max(float(f"{value:.{DIGITS}g}"), dimension.low), dimension.high)


def is_whole(name: str) -> bool:
    """Whether a setting is a whole number."""
    return _TYPES.get(name) is int


def _with(base: Mapping[str, Any], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with what was drawn in their place; loss_options.gamma is one of the loss's own options."""
    options = {name.removeprefix(OPTION): value for name, value in drawn.items() if name.startswith(OPTION)}
    settings = {**base, **{name: value for name, value in drawn.items() if not name.startswith(OPTION)}}
    return {**settings, "loss_options": {**(base.get("loss_options") or {}), **options}} if options else settings


def _base(sweep: SweepFile) -> dict[str, Any]:
    (recipe,) = sweep.recipes.values()
    return {**sweep.training, **settings_of(recipe)}


def _check_space(search: Search, path: str) -> None:
    for name, dimension in search.space.items():
        where = f"{path}: search.space.{name}"
        if name == "epochs":
            raise UsageError(f"{where}: epochs must be the same for all candidates; set it in training")
        if name not in SEARCHABLE and not name.startswith(OPTION):  # the corners tell an option that the loss has not
            raise UsageError(f"{path}: search.space: no setting named '{name}'; {nearest(name, SEARCHABLE)}")
        if dimension.choices is not None:
            _check_choices(dimension, where)
        else:
            _check_range(name, dimension, where)


def _check_choices(dimension: Dimension, where: str) -> None:
    if dimension.low is not None or dimension.high is not None or dimension.log:
        raise UsageError(f"{where}: must be either low and high or choices, got both")
    different = {json.dumps(choice) for choice in dimension.choices or []}
    if len(different) < 2 or len(different) < len(dimension.choices or []):
        raise UsageError(f"{where}: choices must be two different values at least, got {dimension.choices}")


def _check_range(name: str, dimension: Dimension, where: str) -> None:
    low, high = dimension.low, dimension.high
    if low is None or high is None:
        raise UsageError(f"{where}: must have low and high, or choices, got {_given(dimension)}")
    if name not in _TYPES and not name.startswith(OPTION):
        raise UsageError(f"{where}: {name} is no number: it must have choices, got low {low:g} and high {high:g}")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"{where}: low must be below high, got low {low:g} and high {high:g}")
    if dimension.log and low <= 0:
        raise UsageError(f"{where}: low must be above 0 with log, got {low:g}")
    if is_whole(name) and not (low.is_integer() and high.is_integer()):
        raise UsageError(f"{where}: {name} is a whole number: so must low and high be, got {low:g} and {high:g}")


def _given(dimension: Dimension) -> str:
    return json.dumps(dimension.model_dump(exclude_unset=True)) if dimension.model_fields_set else "nothing"


def _check_budget(plan: SearchPlan, path: str) -> None:
    search, epochs = plan.search, plan.base.get("epochs", TrialConfig.__dataclass_fields__["epochs"].default)
    if search.pruner != "none" and isinstance(epochs, int) and search.grace >= epochs:
        raise UsageError(
            f"{path}: search.grace must be below epochs, {epochs}, got {search.grace}; or set pruner: none"
        )
    sizes = [_size(name, dimension) for name, dimension in search.space.items()]
    if (most := math.prod(sizes)) < search.trials:
        raise UsageError(
            f"{path}: search.trials must be at most the number of different candidates, {most:g}, got {search.trials}"
        )


def _size(name: str, dimension: Dimension) -> float:
    if dimension.choices is not None:
        return len(dimension.choices)
    return float(dimension.high or 0) - float(dimension.low or 0) + 1 if is_whole(name) else math.inf


def _check_corners(plan: SearchPlan, path: str) -> None:
    """A trial's rules are bounds and exclusions, so a space whose corners keep them has no bad candidate."""
    ends = {name: _ends(name, dimension) for name, dimension in plan.search.space.items()}
    if (corners := math.prod(len(values) for values in ends.values())) > MOST_CORNERS:
        raise UsageError(
            f"{path}: search.space must have at most {MOST_CORNERS} corners, got {corners}; fewer settings or choices"
        )
    for corner in itertools.product(*ends.values()):
        drawn = dict(zip(ends, corner, strict=True))
        try:
            plan.candidate("candidate", drawn, "not yet known", [1] * plan.plan.task.n_classes)
        except UsageError as error:
            at = ", ".join(f"{name} {value}" for name, value in drawn.items())
            raise UsageError(f"{path}: search.space: every candidate must be a trial, got at {at}: {error}") from None


def _ends(name: str, dimension: Dimension) -> list[Any]:
    if dimension.choices is not None:
        return dimension.choices
    kind = int if is_whole(name) else float
    return [kind(dimension.low or 0), kind(dimension.high or 0)]
