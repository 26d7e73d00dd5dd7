"""The report's first lines: what the comparison shows, in sentences that carry their numbers."""

__all__ = ["findings"]

from collections.abc import Sequence

import numpy as np

from segcal.analysis.compare import SIGNIFICANT, Column, Comparison, mean
from segcal.records import Method
from segcal.report.tables import p_text


def findings(comparison: Comparison, methods: Sequence[Method]) -> tuple[str, ...]:
    """One sentence for each recipe's ensemble, and one for each pair of recipes, on the NLL and the mean Dice."""
    nll = next(column for column in comparison.columns if column.name.startswith("nll@"))
    dice = [column for column in comparison.columns if column.name.startswith("dice@")]
    sentences = []
    for ensemble in (method for method in methods if method.size > 1):
        single = next(m for m in methods if m.recipe == ensemble.recipe and m.size == 1)
        before, after = _mean(comparison, single, [nll]), _mean(comparison, ensemble, [nll])
        change = 100 * (after - before) / before
        gain = _mean(comparison, ensemble, dice) - _mean(comparison, single, dice)
        sentences.append(
            f"{ensemble.label}: an ensemble of {ensemble.size} changes the NLL in the box from {before:.3f} to "
            f"{after:.3f} ({change:+.0f}%, {_verdict(comparison, ensemble, single, nll)}) "
            f"and the mean Dice by {gain:+.3f}."
        )
    for sampled in (method for method in methods if method.mc_samples):
        for other in methods:
            if other.loss == sampled.loss and not other.mc_samples and other.size > 1:
                sentences.append(
                    f"{sampled.title} against {other.title}: NLL in the box {_mean(comparison, sampled, [nll]):.3f} "
                    f"against {_mean(comparison, other, [nll]):.3f} ({_verdict(comparison, sampled, other, nll)})."
                )
    singles = [method for method in methods if method.size == 1 and not method.mc_samples]
    for index, first in enumerate(singles):
        for second in singles[index + 1 :]:
            sentences.append(
                f"Single models, {second.label} against {first.label}: NLL in the box "
                f"{_mean(comparison, second, [nll]):.3f} against {_mean(comparison, first, [nll]):.3f} "
                f"({_verdict(comparison, second, first, nll)}), mean Dice {_mean(comparison, second, dice):.3f} "
                f"against {_mean(comparison, first, dice):.3f}."
            )
    return tuple(sentences)


def _mean(comparison: Comparison, method: Method, columns: Sequence[Column]) -> float:
    return mean(np.array([comparison.values[method, column] for column in columns]))


def _verdict(comparison: Comparison, a: Method, b: Method, column: Column) -> str:
    p = comparison.p(a, b, column)
    if np.isnan(p):
        return "too few patients for a test"
    return f"{'significant' if p < SIGNIFICANT else 'not significant'}, {p_text(p)}"
