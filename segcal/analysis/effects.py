"""The paper's empirical laws L1 to L8: does what it found hold here? PASS and FAIL only where the interval says so."""

__all__ = ["check_effects"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segcal.analysis.roles import DICE, Roles
from segcal.analysis.scores import Scores
from segcal.analysis.segments import segment_entropy_of, segments_of
from segcal.measure.case import column
from segcal.measure.uncertainty import logit
from segcal.records import EffectCheck, Interval, Method
from segcal.stats import auroc, bootstrap_of
from segcal.tasks import TaskSpec

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
FEWEST = 6  # patients: of 5, all differences of one sign still have p = 2 / 2^5 > 0.05
NO_METHOD = "the experiment lacks a method for it"
NO_INTERVAL = Interval(float("nan"), float("nan"), "ci")


@dataclass(frozen=True)
class _Bench:
    """What the laws are measured with."""

    scores: Scores
    roles: Roles
    task: TaskSpec
    seed: int
    n_resamples: int

    def box(self, method: Method, metric: str) -> np.ndarray:
        return self.scores.by_patient(method, column(metric, "box"))

    def drawn(self, size: int) -> Method | None:
        """Ensembles of so many networks with Dice loss; None where none were drawn."""
        return self.roles.ensemble(DICE, size) if size in self.task.ensemble_sizes else None

    def dice(self, method: Method) -> np.ndarray:
        """Mean over structures, by patient."""
        names = [column("dice", structure) for structure in self.task.structures]
        table = np.array([self.scores.by_patient(method, name) for name in names])
        known = np.isfinite(table).any(axis=0)
        return np.where(known, np.nanmean(np.where(known, table, 0.0), axis=0), np.nan)

    def interval(self, sizes: int | tuple[int, ...], statistic: Callable[..., float]) -> Interval:
        low, high = bootstrap_of(sizes, statistic, np.random.default_rng(self.seed), self.n_resamples)
        return Interval(low, high, "ci")

    def judge(
        self,
        name: str,
        statement: str,
        measured: str,
        value: float,
        ci: Interval,
        low: float,
        high: float,
        patients: int,
        note: str = "",
    ) -> EffectCheck:
        """The law holds for values from low to high: surely, surely not, or this experiment cannot tell."""
        verdict: Verdict = "INCONCLUSIVE"
        if patients < FEWEST:
            note = f"{patients} of at least {FEWEST} patients that a verdict needs"
        elif not np.isnan(ci.low):
            if low <= ci.low and ci.high <= high:
                verdict = "PASS"
            elif ci.high < low or ci.low > high:
                verdict = "FAIL"
        elif not note:
            note = "too few patients for an interval"
        return EffectCheck(name, statement, measured, value, ci, verdict, note)

    def difference(
        self, name: str, statement: str, measured: str, a: Method | None, b: Method | None,
        of: Callable[[Method], np.ndarray], low: float, high: float, note: str = "", missing: str = NO_METHOD,
    ) -> EffectCheck:  # fmt: skip
        """Mean over patients of a minus b."""
        if a is None or b is None:
            return self.absent(name, statement, measured, missing)
        difference = of(a) - of(b)
        difference = difference[np.isfinite(difference)]
        value = float(difference.mean()) if difference.size else float("nan")
        ci = self.interval(difference.size, lambda at: float(difference[at].mean()))
        return self.judge(name, statement, measured, value, ci, low, high, difference.size, note)

    @staticmethod
    def absent(name: str, statement: str, measured: str, why: str = NO_METHOD) -> EffectCheck:
        return EffectCheck(name, statement, measured, float("nan"), NO_INTERVAL, "INCONCLUSIVE", why)


def check_effects(scores: Scores, roles: Roles, task: TaskSpec, seed: int, n_resamples: int) -> tuple[EffectCheck, ...]:
    """L1 to L8 with bootstrap intervals over patients; the trained networks are taken as given."""
    bench = _Bench(scores, roles, task, seed, n_resamples)
    above, below = np.nextafter(0, 1), np.inf
    ce, dice = roles.method("CE"), roles.method("DSC")
    return (
        bench.difference(
            "L1", "NLL of the Dice loss > NLL of cross-entropy", "difference of NLL in the box, single models",
            dice, ce, lambda m: bench.box(m, "nll"), above, below,
        ),
        bench.difference(
            "L2", "Dice of the Dice loss >= Dice of cross-entropy - 0.01", "difference of mean Dice, single models",
            dice, ce, bench.dice, -0.01, np.inf,
        ),
        bench.difference(
            "L3", "ECE of the Dice loss > ECE of cross-entropy", "difference of ECE in the box, single models",
            dice, ce, lambda m: bench.box(m, "ece"), above, below, "the paper's own prostate does not show it",
        ),
        _l4(bench),
        bench.difference(
            "L5", "NLL of 10 networks with Dice loss < NLL of one with cross-entropy",
            "difference of NLL in the box, M = 10 against M = 1", bench.drawn(10), ce,
            lambda m: bench.box(m, "nll"), -np.inf, -above, missing=_why(bench, 10) if ce else NO_METHOD,
        ),
        _l6(bench),
        _l7(bench),
        *_l8(bench),
    )  # fmt: skip


def _why(bench: _Bench, size: int) -> str:
    """Why there is no ensemble of `size` networks with Dice loss."""
    single = bench.roles.method("DSC")
    if single is None:
        return NO_METHOD
    pool = bench.roles.pools[single.recipe]
    return f"the pool holds {pool} networks" if pool < size else f"no ensembles of {size} were drawn"


def _l4(bench: _Bench) -> EffectCheck:
    name, statement = "L4", "5 networks with Dice loss lower the NLL by at least 15%"
    measured = "1 - NLL(M = 5) / NLL(M = 1), box"
    one, five = bench.roles.method("DSC"), bench.drawn(5)
    if one is None or five is None:
        return bench.absent(name, statement, measured, _why(bench, 5))
    before, after = bench.box(one, "nll"), bench.box(five, "nll")
    kept = np.isfinite(before) & np.isfinite(after)
    before, after = before[kept], after[kept]
    ci = bench.interval(before.size, lambda at: float(1 - after[at].mean() / before[at].mean()))
    value = float(1 - after.mean() / before.mean()) if before.size else float("nan")
    return bench.judge(name, statement, measured, value, ci, 0.15, np.inf, before.size, "paper: 0.66, 0.44 and 0.62")


def _l6(bench: _Bench) -> EffectCheck:
    """Patients are resampled with all their segments, which are not independent."""
    name, statement = "L6", "r of H(S) and logit Dice <= -0.5"
    measured = "Pearson's r over the segments of both domains, largest ensemble with Dice loss"
    method = bench.roles.method("EN DSC") or bench.roles.method("DSC")
    if method is None:
        return bench.absent(name, statement, measured)
    table = segments_of(bench.scores, method, bench.task).dropna(subset=["entropy", "dice"])
    x = table.pivot(index="case_id", columns="structure", values="entropy").to_numpy()
    y = logit(table.pivot(index="case_id", columns="structure", values="dice").to_numpy())

    def r(at: np.ndarray) -> float:
        a, b = x[at].ravel(), y[at].ravel()
        kept = np.isfinite(a) & np.isfinite(b)
        if kept.sum() < 3 or np.ptp(a[kept]) == 0 or np.ptp(b[kept]) == 0:
            return float("nan")
        return float(np.corrcoef(a[kept], b[kept])[0, 1])

    value = r(np.arange(len(x)))
    return bench.judge(
        name, statement, measured, value, bench.interval(len(x), r), -1.0, -0.5, len(x), "paper: |r| 0.77 to 0.92"
    )


def _l7(bench: _Bench) -> EffectCheck:
    name, statement = "L7", "AUROC of H(S) for out-of-distribution cases > 0.6"
    measured = "AUROC over cases, largest ensemble with Dice loss"
    method = bench.roles.method("EN DSC") or bench.roles.method("DSC")
    if method is None:
        return bench.absent(name, statement, measured)
    source, target = (v[~np.isnan(v)] for v in segment_entropy_of(bench.scores, method, bench.task))
    if not source.size or not target.size:
        return bench.absent(name, statement, measured, "no out-of-distribution cases")
    ci = bench.interval((source.size, target.size), lambda s, t: auroc(source[s], target[t]))
    return bench.judge(
        name,
        statement,
        measured,
        auroc(source, target),
        ci,
        np.nextafter(0.6, 1),
        np.inf,
        min(source.size, target.size),
    )


def _l8(bench: _Bench) -> list[EffectCheck]:
    found = []
    for suffix, loss in (("CE", "cross-entropy"), ("DSC", "Dice loss")):
        found.append(
            bench.difference(
                f"L8 {suffix}", f"NLL of the ensemble <= NLL of MC dropout, {loss}", "difference of NLL in the box",
                bench.roles.method(f"EN {suffix}"), bench.roles.method(f"MCDO {suffix}"),
                lambda m: bench.box(m, "nll"), -np.inf, 0.0,
            )
        )  # fmt: skip
    return found
