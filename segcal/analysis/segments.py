"""Can the networks tell where they fail? H(S) (Eq. 7) against Dice, and against the domain a case comes from."""

__all__ = ["detection_table", "fit_table", "scatters", "segment_entropy_of"]

from collections.abc import Sequence

import numpy as np
import pandas as pd

from segcal.analysis.scores import SOURCE, TARGET, Scores
from segcal.analysis.variants import PLAIN
from segcal.measure.case import column
from segcal.measure.uncertainty import logit
from segcal.records import Fit, Method, Point, Scatter, Table
from segcal.report.tables import number, p_text
from segcal.stats import auroc, bootstrap_of, correlations, fpr_at_tpr
from segcal.tasks import TaskSpec

LOWEST, HIGHEST = 0.001, 0.999  # Dice beyond is clipped before the logit


def segments_of(scores: Scores, method: Method, task: TaskSpec) -> pd.DataFrame:
    """One row a case and structure, test and out-of-distribution: entropy and dice, means over the method's draws."""
    f = scores.frame
    mine = f[(f.recipe == method.recipe) & (f["size"] == method.size) & (f.variant == PLAIN)]
    parts = []
    for structure in task.structures:
        names = {column("entropy", structure): "entropy", column("dice", structure): "dice"}
        means = mine.groupby(["case_id", "domain"], observed=True)[list(names)].mean().rename(columns=names)
        parts.append(means.reset_index().assign(structure=structure))
    return pd.concat(parts, ignore_index=True)


def scatters(scores: Scores, methods: Sequence[Method], task: TaskSpec) -> tuple[Scatter, ...]:
    """H(S) against logit Dice of every predicted segment, with correlations within each domain and together."""
    found = []
    for method in methods:
        table = segments_of(scores, method, task)
        defined = table.dropna(subset=["entropy", "dice"])
        odds = logit(defined.dice.to_numpy())
        points = tuple(
            Point(str(case_id), str(structure), str(domain), float(entropy), float(odd))
            for case_id, structure, domain, entropy, odd in zip(
                defined.case_id, defined.structure, defined.domain, defined.entropy.to_numpy(), odds, strict=True
            )
        )
        domains = [d for d in (SOURCE, TARGET) if (defined.domain == d).any()]
        groups = {"all": np.ones(len(defined), bool)}
        if len(domains) > 1:
            groups |= {domain: (defined.domain == domain).to_numpy() for domain in domains}
        entropy, structures = defined.entropy.to_numpy(), defined.structure.to_numpy(dtype=str)
        fits = tuple(_fit(name, entropy[at], odds[at], structures[at]) for name, at in groups.items())
        clipped = int(((defined.dice < LOWEST) | (defined.dice > HIGHEST)).sum())
        found.append(Scatter(method.title, method.loss, points, fits, clipped, len(table) - len(defined)))
    return tuple(found)


def fit_table(found: Sequence[Scatter]) -> Table:
    """The correlations as numbers."""
    rows = []
    for scatter in found:
        for fit in scatter.fits:
            cells = (
                str(fit.n), f"{number(fit.pearson_r)}, {p_text(fit.pearson_p)}", f"{number(fit.spearman_r)}, "
                f"{p_text(fit.spearman_p)}", number(fit.within_r), f"{number(fit.slope)} H {fit.intercept:+.2f}",
                str(scatter.clipped), str(scatter.empty),
            )  # fmt: skip
            domain = "both domains" if fit.domain == "all" and len(scatter.fits) > 1 else fit.domain
            rows.append((f"{scatter.title}: {domain}", cells))
    return Table(
        "segments",
        "Segment entropy against Dice",
        "H(S) (Eq. 7, nats) against logit Dice over predicted segments: Pearson's r and Spearman's rank correlation "
        "with two-sided p, and the least-squares line of logit Dice. Segments of one patient are not independent; the "
        "p take no account of it. Within structures: Pearson's r of the deviations from each structure's means, as "
        "structures may differ in both. Clipped: Dice outside [0.001, 0.999]. Empty: no voxel, or no Dice.",
        ("segments", "Pearson r", "Spearman ρ", "r within structures", "logit Dice =", "clipped", "empty"),
        tuple(rows),
    )


def segment_entropy_of(scores: Scores, method: Method, task: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """Mean H(S) over a case's structures, of source and of target cases."""
    table = segments_of(scores, method, task)
    by_case = table.groupby(["domain", "case_id"], observed=True).entropy.mean()
    both = [by_case.loc[domain].to_numpy() if domain in by_case.index else np.empty(0) for domain in (SOURCE, TARGET)]
    return both[0], both[1]


def detection_table(scores: Scores, methods: Sequence[Method], task: TaskSpec, seed: int, n: int) -> Table | None:
    """How well H(S) tells target cases from source cases; None where there is only one domain."""
    rows = []
    for method in methods:
        source, target = segment_entropy_of(scores, method, task)
        if not source.size or not target.size:
            return None
        kept = source[~np.isnan(source)], target[~np.isnan(target)]

        def flagged(s: np.ndarray, t: np.ndarray, of: tuple[np.ndarray, np.ndarray] = kept) -> float:
            return fpr_at_tpr(of[0][s], of[1][t])[0]

        def area(s: np.ndarray, t: np.ndarray, of: tuple[np.ndarray, np.ndarray] = kept) -> float:
            return auroc(of[0][s], of[1][t])

        sizes = kept[0].size, kept[1].size
        intervals = [bootstrap_of(sizes, statistic, np.random.default_rng(seed), n) for statistic in (area, flagged)]
        points = auroc(*kept), fpr_at_tpr(*kept)[0]
        texts = [
            f"{number(point)}" + ("" if np.isnan(low) else f"\n[{number(low)}, {number(high)}]")
            for point, (low, high) in zip(points, intervals, strict=True)
        ]
        left_out = len(source) + len(target) - sum(sizes)
        cells = (*texts, number(fpr_at_tpr(*kept)[1]), f"{sizes[0]} / {sizes[1]}", str(left_out))
        rows.append((method.title, cells))
    return Table(
        "ood",
        "Out-of-distribution detection by segment entropy",
        "A case's score is H(S), mean over its structures; target (out-of-distribution) cases are the positives. "
        "AUROC: probability that a target case scores higher than a source case, ties half. FPR95: share of source "
        f"cases that are flagged at the threshold that flags 95% of the target cases. [95% bootstrap interval over "
        f"cases, {n} resamples.] Left out: cases without any predicted segment.",
        ("AUROC", "FPR95", "threshold, nats", "cases source / target", "left out"),
        tuple(rows),
    )


def _fit(domain: str, entropy: np.ndarray, odds: np.ndarray, structures: np.ndarray) -> Fit:
    c = correlations(entropy, odds)
    within = correlations(_centred(entropy, structures), _centred(odds, structures)).pearson_r
    return Fit(domain, c.n, c.pearson_r, c.pearson_p, c.spearman_r, c.spearman_p, c.slope, c.intercept, within)


def _centred(values: np.ndarray, structures: np.ndarray) -> np.ndarray:
    """Deviations from each structure's mean."""
    means = {name: values[structures == name].mean() for name in np.unique(structures)}
    centred: np.ndarray = values - np.array([means[name] for name in structures], dtype=float)
    return centred
