"""All scores of a report: a row for each subset of members and each case, a column for each metric."""

__all__ = ["SOURCE", "TARGET", "Scores", "collect", "domains"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from segcal.analysis.ensembles import Subset
from segcal.analysis.evaluate import Evaluation
from segcal.analysis.members import Member
from segcal.analysis.variants import PLAIN
from segcal.data.prepared import PreparedCohort
from segcal.measure.case import REGIONS, columns
from segcal.records import Method
from segcal.tasks import TaskSpec
from segcal.volume import Case

SOURCE, TARGET = "source", "target"  # domains: like the training data, and out of distribution


@dataclass(frozen=True)
class Scores:
    """The frame, and of the full subsets the bins that pool over cases.

    frame: recipe, label, variant, size, draw, seeds, full, case_id, site, split ("test" or "ood"), domain, and a column
    metric@where for each metric. The bins have a row for each full row of the frame, in its order.
    """

    frame: pd.DataFrame
    top: np.ndarray  # (full rows, 2, N_BINS, 3)
    classwise: np.ndarray  # (full rows, 2, K, N_BINS, 3)
    segments: np.ndarray  # (full rows, F, FINE)
    _rows: dict[tuple[str, int, str, str], np.ndarray] = field(default_factory=dict, repr=False)
    _means: dict[tuple[str, int, str, str], pd.DataFrame] = field(default_factory=dict, repr=False)

    @cached_property
    def cases(self) -> list[str]:
        """The test cases, sorted."""
        found: list[str] = sorted(self.frame.case_id[self.frame.split == "test"].unique())
        return found

    def rows(self, method: Method, variant: str = PLAIN, split: str = "test") -> np.ndarray:
        """Which rows are a method's: all draws, all cases of a split."""
        key = (method.recipe, method.size, variant, split)
        if key not in self._rows:
            f = self.frame
            of_method = (f.recipe == method.recipe) & (f["size"] == method.size)
            self._rows[key] = (of_method & (f.variant == variant) & (f.split == split)).to_numpy()
        return self._rows[key]

    def by_patient(
        self, method: Method, name: str, variant: str = PLAIN, cases: Sequence[str] | None = None, split: str = "test"
    ) -> np.ndarray:
        """A metric of each patient: its mean over the method's draws; NaN where no draw defines it."""
        key = (method.recipe, method.size, variant, split)
        if key not in self._means:  # of every metric at once
            chosen = self.frame[self.rows(method, variant, split)]
            metrics = [column for column in self.frame.columns if "@" in column]
            self._means[key] = chosen.groupby("case_id", observed=True)[metrics].mean()
        order = self.cases if cases is None else list(cases)
        means: np.ndarray = self._means[key][name].reindex(order).to_numpy(dtype=float)
        return means

    def by_draw(self, method: Method, name: str) -> np.ndarray:
        """A metric of every draw and patient, (draws, patients)."""
        chosen = self.frame.loc[self.rows(method), ["draw", "case_id", name]]
        table: np.ndarray = (
            chosen.pivot(index="draw", columns="case_id", values=name).reindex(columns=self.cases).to_numpy()
        )
        return table

    def pooled(self, method: Method, region: str) -> tuple[np.ndarray, np.ndarray]:
        """Bins over all draws and test cases: of the top label (N_BINS, 3), and of each class (K, N_BINS, 3)."""
        chosen, at = self.rows(method)[self.frame.full], REGIONS.index(region)
        return self.top[chosen, at].sum(axis=0), self.classwise[chosen, at].sum(axis=0)

    def of_case(self, method: Method, case_id: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        """One case, all draws: top-label bins of the whole volume (N_BINS, 3), segment histograms (F, FINE)."""
        mine = self.rows(method, split=split) & (self.frame.case_id == case_id).to_numpy()
        chosen = mine[self.frame.full]
        return self.top[chosen, REGIONS.index("whole")].sum(axis=0), self.segments[chosen].sum(axis=0)


def collect(
    evaluations: Mapping[str, Evaluation],
    subsets: Sequence[Subset],
    pool: Mapping[str, Sequence[Member]],
    cases: Mapping[str, Sequence[Case]],
    domains: Mapping[str, str],
    task: TaskSpec,
) -> Scores:
    """Scores out of what was evaluated, by split "test" and "ood" as cases; domains: case id -> source or target."""
    names = columns(task)
    values, top, classwise, segments = [], [], [], []
    about: dict[str, list[object]] = {name: [] for name in _ABOUT}
    for split, chosen in cases.items():
        evaluation = evaluations[split]
        asked = [subset for subset in subsets if subset in evaluation.keys]  # "ood": only what the tables show
        for case in chosen:
            for subset in asked:
                stored = evaluation.cases[case.case_id][evaluation.keys[subset]]
                seeds = tuple(pool[subset.recipe][m].seed for m in subset.members)
                row = (
                    subset.recipe, subset.label, subset.variant, len(subset.members), subset.draw, seeds, subset.full,
                    case.case_id, case.site, split, domains[case.case_id],
                )  # fmt: skip
                for name, value in zip(_ABOUT, row, strict=True):
                    about[name].append(value)
                values.append(stored.metrics)
                if subset.full:
                    top.append(stored.top)
                    classwise.append(stored.classwise)
                    segments.append(stored.segments)
    metrics = pd.DataFrame(np.array(values), columns=names)
    frame = pd.concat([pd.DataFrame(about), metrics], axis=1)
    for name in ("recipe", "label", "variant", "case_id", "site", "split", "domain"):
        frame[name] = frame[name].astype("category")
    return Scores(frame, np.array(top), np.array(classwise), np.array(segments))


def domains(cohort: PreparedCohort, ood: Sequence[Case]) -> dict[str, str]:
    """Domain of each test and out-of-distribution case.

    Target: the out-of-distribution cases; and, where the test set has cases of the sites that were learnt
    from and cases of other sites, the latter (CBICA and TCIA, where both are tested on).
    """
    entries = cohort.manifest["cases"]
    learnt = {entry["site"] for entry in entries if entry["split"] in ("train", "val")}
    test = [entry for entry in entries if entry["split"] == "test"]
    both = any(entry["site"] in learnt for entry in test)
    found = {e["case_id"]: SOURCE if e["site"] in learnt or not both else TARGET for e in test}
    return found | {case.case_id: TARGET for case in ood}


_ABOUT = ("recipe", "label", "variant", "size", "draw", "seeds", "full", "case_id", "site", "split", "domain")
