"""What the figures of cases show: which cases, which slice, and every method's probabilities there."""

__all__ = ["Gallery", "plates"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from segcal.analysis.members import Member, mean_prediction, predictions
from segcal.analysis.roles import Roles
from segcal.analysis.score_cache import ScoreCache
from segcal.analysis.scores import SOURCE, TARGET, Scores
from segcal.analysis.segments import segments_of
from segcal.analysis.workers import one_thread
from segcal.measure.calibration import reliability_of_bins
from segcal.measure.case import column
from segcal.records import CaseView, Map, Method, Plate, ReliabilityBins
from segcal.tasks import TaskSpec
from segcal.volume import Case

GROWING = (2, 20, 50)  # members of the ensembles in Figures S5 and S6


@dataclass
class Gallery:
    """Draws pictures out of the pool; what was predicted once is not predicted again."""

    scores: Scores
    roles: Roles
    task: TaskSpec
    pool: Mapping[str, Sequence[Member]]
    typical: Mapping[str, int]  # recipe -> its member with the median validation Dice
    cases: Mapping[str, tuple[Case, str]]  # case id -> case, split
    caches: Mapping[str, ScoreCache]  # by split: cases of two cohorts may share a name

    def __post_init__(self) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._slices: dict[tuple[str, str, int], np.ndarray] = {}  # of this run: ensembles share members

    def view(self, case_id: str, methods: Sequence[Method], caption: str, detail: bool = True) -> CaseView:
        """The slice with most of the structures; an ensemble of M is that of the M lowest seeds, a single model the
        one whose validation Dice is the median.

        detail: with each map's scores, reliability and histogram over the volume (means over the method's draws).
        """
        case, split = self.cases[case_id]
        z = int(np.argmax((case.truth > 0).sum(axis=(1, 2))))
        domain = str(self.scores.frame.loc[self.scores.frame.case_id == case_id, "domain"].iloc[0])
        maps = tuple(self._map(case, split, method, z, detail) for method in methods)
        return CaseView(
            case_id, caption, domain, z, case.spacing_mm[1:], np.array(case.image[-1, z]), np.array(case.truth[z]), maps
        )

    def _map(self, case: Case, split: str, method: Method, z: int, detail: bool) -> Map:
        members = self.pool[method.recipe][: method.size]
        if method.size == 1:
            members = [self.pool[method.recipe][self.typical[method.recipe]]]
        foreground = self.caches[split].picture(
            case.case_id, [member.name for member in members], z,
            lambda: 1 - mean_prediction([self._slice(member, case, z) for member in members])[0],
        )  # fmt: skip
        if not detail:
            return Map(method.title, foreground)
        bins, segments = self.scores.of_case(method, case.case_id, split)
        r = reliability_of_bins(*bins.T)
        names = {"ECE %": ("ece", 100.0), "NLL": ("nll", 1.0), "Brier": ("brier", 1.0)}
        values = []
        for title, (metric, scale) in names.items():
            (value,) = self.scores.by_patient(method, column(metric, "whole"), cases=[case.case_id], split=split)
            values.append((title, scale * float(value)))
        shown = ReliabilityBins(method.title, "whole", r.edges, r.count, r.confidence, r.accuracy, r.ece)
        return Map(method.title, foreground, tuple(values), shown, segments.sum(axis=0))

    def _slice(self, member: Member, case: Case, z: int) -> np.ndarray:
        key = (member.name, case.case_id, z)
        if key not in self._slices:
            with one_thread():
                net = member.net(self._device)
                ((first, slab),) = predictions(member, net, case, self._device, slice(z, z + 1))
            self._slices[key] = slab.probs[:, z - first].copy()
        return self._slices[key]


def plates(gallery: Gallery) -> tuple[Plate, ...]:
    """The figures of cases that this experiment has the methods and cases for."""
    ranking = _by_dice(gallery, SOURCE)
    if ranking.empty:
        return ()
    found = [_methods(gallery, ranking), _confidence(gallery)]
    for key, loss in (("members_dice", "DSC"), ("members_ce", "CE")):
        found.append(_growing(gallery, key, loss, ranking))
    found += [_domains(gallery, ranking), _targets(gallery)]
    return tuple(plate for plate in found if plate is not None and plate.views)


def _by_dice(gallery: Gallery, domain: str) -> pd.Series:
    """Mean Dice over structures and methods of each case of a domain, best first."""
    frame = gallery.scores.frame
    shown = np.any(
        [gallery.scores.rows(m) | gallery.scores.rows(m, split="ood") for m in gallery.roles.methods], axis=0
    )
    names = [column("dice", name) for name in gallery.task.structures]
    mine = frame[shown & (frame.domain == domain).to_numpy()]
    by_method = mine.groupby(["case_id", "recipe", "size"], observed=True)[names].mean().mean(axis=1)
    dice: pd.Series = by_method.groupby("case_id", observed=True).mean().dropna()
    return dice.sort_values(ascending=False)


def _ranks(dice: pd.Series) -> list[tuple[str, str]]:
    """Case and caption of the best, the median and the worst."""
    at = {0: "best", len(dice) // 2: "median", len(dice) - 1: "worst"} if len(dice) > 1 else {0: "only"}
    return [(str(dice.index[i]), f"{rank}, mean Dice {dice.iloc[i]:.2f}") for i, rank in sorted(at.items())]


def _methods(gallery: Gallery, dice: pd.Series) -> Plate:
    views = [gallery.view(case_id, gallery.roles.methods, caption) for case_id, caption in _ranks(dice)]
    return Plate("methods", tuple(views))


def _growing(gallery: Gallery, key: str, loss: str, dice: pd.Series) -> Plate | None:
    """Ensembles of M = 2, 20, 50, or of the smallest, a middle and the largest size that the pool allows."""
    single = gallery.roles.method(loss)
    if single is None or gallery.roles.pools[single.recipe] < 2:
        return None
    pool = gallery.roles.pools[single.recipe]
    allowed = [m for m in GROWING if m <= pool]
    if len(allowed) < len(GROWING):
        allowed = sorted({2, max(2, round(pool / 2)), pool})
    grown = [Method(single.recipe, single.label, size, single.loss) for size in allowed]
    chosen = list(dict.fromkeys((len(dice) // 2, len(dice) - 1)))
    views = [gallery.view(str(dice.index[i]), grown, f"mean Dice {dice.iloc[i]:.2f}", detail=False) for i in chosen]
    return Plate(key, tuple(views))


def _best_ensemble(gallery: Gallery) -> Method | None:
    order = ("EN DSC", "DSC", "EN CE", "CE")
    return next((m for m in map(gallery.roles.method, order) if m is not None), None)


def _confidence(gallery: Gallery) -> Plate | None:
    """Test cases by H(S), mean over structures, of the ensemble with Dice loss: from sure to unsure."""
    method = _best_ensemble(gallery)
    if method is None:
        return None
    table = segments_of(gallery.scores, method, gallery.task)
    by_case = table[table.domain == SOURCE].groupby("case_id", observed=True)[["entropy", "dice"]].mean().dropna()
    by_case = by_case.sort_values("entropy")
    chosen = dict.fromkeys((0, len(by_case) // 2, len(by_case) - 1)) if len(by_case) else {}
    views = []
    for i in chosen:
        caption = f"H(S) {by_case.entropy.iloc[i]:.3f}, Dice {by_case.dice.iloc[i]:.2f}"
        views.append(gallery.view(str(by_case.index[i]), [method], caption))
    return Plate("confidence", tuple(views))


def _domains(gallery: Gallery, dice: pd.Series) -> Plate | None:
    """Figure 1: a case like the training data and one that is not; a single model and the ensemble, Dice loss."""
    methods = [m for m in (gallery.roles.method("DSC"), gallery.roles.method("EN DSC")) if m is not None]
    far = _by_dice(gallery, TARGET)
    if len(methods) < 2 or far.empty:
        return None
    near = str(dice.index[len(dice) // 2])
    views = [
        gallery.view(near, methods, f"in distribution, mean Dice {dice.iloc[len(dice) // 2]:.2f}"),
        gallery.view(str(far.index[-1]), methods, f"out of distribution, mean Dice {far.iloc[-1]:.2f}"),
    ]
    return Plate("figure_1", tuple(views))


def _targets(gallery: Gallery) -> Plate | None:
    """Figure 3, below: the best and the worst out-of-distribution case."""
    method, far = _best_ensemble(gallery), _by_dice(gallery, TARGET)
    if method is None or far.empty:
        return None
    chosen = dict.fromkeys((0, len(far) - 1))
    views = [
        gallery.view(str(far.index[i]), [method], f"case {'I' * n}, mean Dice {far.iloc[i]:.2f}")
        for n, i in enumerate(chosen, start=1)
    ]
    return Plate("figure_3", tuple(views))
