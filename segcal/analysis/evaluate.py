"""Scores every single model and every drawn ensemble on every test case. The case is the outer loop.

Members are predicted together, a slab of slices at a time; no probability map outlives its slab.
"""

__all__ = ["Evaluation", "Member", "Subset", "evaluate", "mean_prediction", "predict_foreground"]

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from segcal.learn.predict import predict_slabs
from segcal.learn.unet import UNet
from segcal.measure.case import N_BINS, CaseTally
from segcal.records import CaseScore
from segcal.tasks import TaskSpec
from segcal.volume import Case, Prediction


@dataclass(frozen=True)
class Member:
    """A trained network that is ready to predict."""

    seed: int
    net: UNet
    head: str


@dataclass(frozen=True)
class Subset:
    """One drawn ensemble of a recipe; a single model is an ensemble of one."""

    recipe: str
    label: str
    draw: int
    members: tuple[int, ...]  # positions in the recipe's list of members


@dataclass
class Evaluation:
    """Scores in long format, and reliability bins summed over cases and draws."""

    rows: list[CaseScore] = field(default_factory=list)
    bins: dict[tuple[str, int, str], np.ndarray] = field(default_factory=dict)  # (recipe, size, region) -> (3, N_BINS)


def evaluate(
    cases: Sequence[Case],
    task: TaskSpec,
    pool: dict[str, list[Member]],
    subsets: Sequence[Subset],
    device: torch.device,
    say: Callable[[str], None],
) -> Evaluation:
    """Score all subsets of the pool (recipe -> members) on all cases."""
    evaluation = Evaluation()
    started = time.monotonic()
    for number, case in enumerate(cases, start=1):
        for recipe, members in pool.items():
            chosen = [subset for subset in subsets if subset.recipe == recipe]
            tallies = [CaseTally(case, task) for _ in chosen]
            for first, slabs in member_slabs(members, case, device):
                for subset, tally in zip(chosen, tallies, strict=True):
                    tally.add(mean_prediction([slabs[member] for member in subset.members]), first)
            for subset, tally in zip(chosen, tallies, strict=True):
                _collect(evaluation, case, subset, [members[m].seed for m in subset.members], tally)
        left = (time.monotonic() - started) / number * (len(cases) - number)
        say(f"scored {number}/{len(cases)}: {case.case_id}, ETA {int(left) // 60}:{int(left) % 60:02d}")
    return evaluation


def member_slabs(members: Sequence[Member], case: Case, device: torch.device) -> Iterator[tuple[int, list[Prediction]]]:
    """First slice of each slab, and every member's prediction of it."""
    streams = [predict_slabs(member.net, member.head, case.image, device) for member in members]
    for parts in zip(*streams, strict=True):
        yield parts[0][0], [prediction for _, prediction in parts]


def mean_prediction(predictions: Sequence[Prediction]) -> Prediction:
    """The ensemble (Eq. 6): mean of the members' probabilities. One member stays what it is."""
    if len(predictions) == 1:
        return predictions[0]
    total = np.zeros(predictions[0].probs.shape)  # float64
    for prediction in predictions:
        total += prediction.probs
    return Prediction((total / len(predictions)).astype(np.float32))


def predict_foreground(members: Sequence[Member], case: Case, device: torch.device, z: int) -> np.ndarray:
    """The ensemble's probability of any structure in slice z, (Y, X)."""
    over_volumes = members[0].net.dims == 3
    image = case.image if over_volumes else case.image[:, z : z + 1]
    part = Case(case.case_id, image, case.truth, case.spacing_mm)
    ((_, slabs),) = member_slabs(members, part, device)
    foreground: np.ndarray = 1 - mean_prediction(slabs).probs[0, z if over_volumes else 0]
    return foreground


def _collect(evaluation: Evaluation, case: Case, subset: Subset, seeds: list[int], tally: CaseTally) -> None:
    size = len(subset.members)
    for score in tally.scores():
        evaluation.rows.append(
            CaseScore(
                recipe=subset.recipe,
                label=subset.label,
                size=size,
                draw=subset.draw,
                seeds=tuple(seeds),
                case_id=case.case_id,
                site=case.site,
                region=score.region,
                structure=score.structure,
                metric=score.metric,
                value=score.value,
            )
        )
    for region, sums in tally.regions().items():
        key = (subset.recipe, size, region)
        evaluation.bins[key] = evaluation.bins.get(key, np.zeros((3, N_BINS))) + sums.bins
