"""What a search found: its best candidate as a sweep file, and the table of all."""

__all__ = ["Score", "best_first", "candidates_csv", "score_of", "top_lines", "winner_yaml"]

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from segcal.search.space import SearchPlan
from segcal.search.study import Candidate
from segcal.sweep.plan import RECIPE_FIELDS
from segcal.trial import TrialConfig

_ORDER = {"finished": 0, "pruned": 1, "running": 2, "diverged": 3}
LABEL = "winner"


@dataclass(frozen=True)
class Score:
    """The mean over seeds and its standard error, s / sqrt(n); NaN for one seed."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if math.isnan(self.error) else f" ± {self.error:.4f}")


def score_of(candidate: Candidate) -> Score | None:
    """None where no epoch of it was trained."""
    if candidate.score is None or not candidate.seeds or candidate.state == "diverged":
        return None
    values = list(candidate.seeds.values())
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Score(candidate.score, error)


def best_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that were trained to their end by their score, then the others; of equal ones the earlier."""

    def place(candidate: Candidate) -> tuple[int, float, int]:
        return _ORDER[candidate.state], -(candidate.score or 0.0), candidate.number

    return sorted(candidates, key=place)


def winner_yaml(plan: SearchPlan, winner: Candidate, config: TrialConfig, tried: int, data: str, source: str) -> str:
    """A sweep file with one recipe, every setting of it resolved. config: of any of its seeds."""
    recipe = {name: _plain(value) for name, value in asdict(config).items() if name in RECIPE_FIELDS}
    if not config.loss_options:
        del recipe["loss_options"]  # a loss of segcal has none
    task = plan.task
    content = {
        "task": str(Path(task).absolute()) if task.endswith((".yaml", ".yml")) or Path(task).is_dir() else task,
        **({"task_fields": plan.task_fields} if plan.task_fields else {}),
        "experiment": plan.plan.experiment,
        "seeds": list(plan.seeds),
        "recipes": {LABEL: recipe},
        "resources": plan.plan.resources.model_dump(),
    }
    head = [
        f"The best of {tried} candidates of the search '{plan.plan.experiment}' ({source}): {winner.label}",
        f"Drawn: {winner.told}",
        f"Mean validation Dice over {len(winner.seeds or {})} seeds: {score_of(winner)} (standard error over seeds)",
        "That is optimistic: the best of many on the same validation cases is best by luck, too. Judge the recipe by",
        "the test cases, with seeds that the search has not seen.",
        f"  segcal sweep FILE --data {data}                    its seeds are trained already",
        f"  segcal sweep FILE --data {data} --set seeds=10     more of them",
    ]
    return "".join(f"# {line}\n" for line in head) + yaml.safe_dump(content, sort_keys=False, default_flow_style=None)


def candidates_csv(plan: SearchPlan, candidates: Sequence[Candidate]) -> str:
    """A row a candidate, the best first."""
    names = list(plan.search.space)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["candidate", "state", "score", "standard_error", *names, *(f"seed_{s}" for s in plan.seeds), "epochs", "error"]
    )
    for candidate in best_first(candidates):
        score = score_of(candidate)
        numbers = [score.mean, score.error] if score else [candidate.score, math.nan]
        dices = [(candidate.seeds or {}).get(seed) for seed in plan.seeds]
        table.writerow(
            [candidate.label, candidate.state, *map(_cell, numbers), *(_cell(candidate.drawn[name]) for name in names),
             *map(_cell, dices), candidate.epochs, candidate.error]
        )  # fmt: skip
    return text.getvalue()


def top_lines(candidates: Sequence[Candidate], most: int = 5) -> list[str]:
    """The best candidates for people."""
    best = best_first(candidates)[:most]
    width = max((len(str(score_of(candidate) or "")) for candidate in best), default=0)
    return [
        f"{candidate.label}  {score_of(candidate) or '-'!s:{width}}  {candidate.state:8}  {candidate.told}"
        for candidate in best
    ]


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return json.dumps(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
