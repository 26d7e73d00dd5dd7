"""Laws that every correctly computed row obeys, checked on every row that a report is made of.

A broken law is a defect or a discovery; the report says which, and never hides it.
"""

__all__ = ["check_laws"]

import numpy as np
import pandas as pd

from segcal.records import LawCheck

SLACK = 1e-5  # float32 probabilities


def check_laws(scores: pd.DataFrame) -> tuple[LawCheck, ...]:
    """Check the laws on long-format scores (the columns of CaseScore)."""
    keys = ["recipe", "size", "draw", "case_id", "region"]
    regions = scores[scores.region != ""].pivot(index=keys, columns="metric", values="value").dropna()
    entropy = scores[scores.metric == "entropy"].set_index(["recipe", "size", "draw", "case_id", "structure"]).value
    return (
        _check("|mean confidence - accuracy| <= ECE", (regions.confidence - regions.accuracy).abs() - regions.ece),
        _check("ECE <= 1 - mean p(true class)", regions.ece - (1 - regions.p_true)),
        _check("1 - mean p(true class) <= 1 - exp(-NLL)", np.exp(-regions.nll) - regions.p_true),
        _check("Brier <= 0.8146 NLL", regions.brier - 0.8146 * regions.nll),
        _check("0 <= H(S) <= ln 2", np.maximum(-entropy, entropy - np.log(2)).dropna()),
        _check("NLL of an ensemble <= mean NLL of its members", _ensemble_excess(scores)),
    )


def _ensemble_excess(scores: pd.DataFrame) -> pd.Series:
    """NLL of each ensemble minus the mean of its members', by recipe, case, region and draw."""
    nll = scores[scores.metric == "nll"]
    singles = nll[nll["size"] == 1].copy()
    singles["seed"] = singles.seeds.str[0]
    by_member = singles.set_index(["recipe", "case_id", "region", "seed"]).value
    ensembles = nll[nll["size"] > 1].explode("seeds")
    at = pd.MultiIndex.from_frame(ensembles[["recipe", "case_id", "region", "seeds"]])
    ensembles = ensembles.assign(member=by_member.reindex(at).to_numpy())
    grouped = ensembles.groupby(["recipe", "size", "draw", "case_id", "region"])
    return (grouped.value.first() - grouped.member.mean()).dropna()


def _check(law: str, excess: pd.Series) -> LawCheck:
    """A law holds where the excess over its bound is not positive."""
    broken = excess[excess > SLACK]
    worst = f"{broken.idxmax()} by {broken.max():.2g}" if len(broken) else ""
    return LawCheck(law, len(excess), len(broken), worst)
