"""Statistics over patients: intervals, paired tests, multiplicity, detection. The rng is always passed in."""

__all__ = [
    "Correlations",
    "auroc",
    "bootstrap_ci",
    "bootstrap_means",
    "bootstrap_of",
    "correlation",
    "correlations",
    "draws_error",
    "effect_size",
    "fpr_at_tpr",
    "hierarchical_bootstrap",
    "holm",
    "paired_bootstrap",
    "paired_tests",
    "spread",
]

from segcal.stats.association import Correlations, correlation, correlations
from segcal.stats.crossed import hierarchical_bootstrap
from segcal.stats.detection import auroc, fpr_at_tpr
from segcal.stats.draws import draws_error
from segcal.stats.intervals import bootstrap_ci, bootstrap_means, bootstrap_of, spread
from segcal.stats.multiplicity import holm
from segcal.stats.paired import effect_size, paired_bootstrap, paired_tests
