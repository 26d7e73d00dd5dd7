"""Other readings of the same networks, for the sensitivity table. A reading is one function and one line here."""

__all__ = ["PLAIN", "VARIANTS", "Variant"]

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segcal.trial import TrialConfig

PLAIN = ""  # the reading that every table but one uses


@dataclass(frozen=True)
class Variant:
    """Which recipes it says anything about, and what it makes of their probabilities (members, K, ...)."""

    title: str
    applies: Callable[[TrialConfig], bool]
    read: Callable[[np.ndarray, TrialConfig], np.ndarray]


def prior_corrected(probs: np.ndarray, config: TrialConfig) -> np.ndarray:
    """p_k / w_k, renormalised: what a network trained with class weights w says of p(y|x).

    The weighted cross-entropy's minimiser is q_k ~ w_k p_k (science: Eq. 1 with weights is not a proper score of p).
    """
    weights = np.asarray(config.class_weights, np.float64).reshape(1, -1, *[1] * (probs.ndim - 2))
    divided = probs / weights
    corrected: np.ndarray = (divided / divided.sum(axis=1, keepdims=True)).astype(np.float32)
    return corrected


def raw_sum(probs: np.ndarray, config: TrialConfig) -> np.ndarray:
    """Sigmoids of the structures, the background as the product of their complements, divided by their sum.

    The plain reading is softmax([0, z_1 .. z_F]); its odds against the background are exp(z). For one structure both
    are the sigmoid.
    """
    structures = probs[:, 1:].astype(np.float64)
    with np.errstate(invalid="ignore"):
        sigmoids = np.where(structures > 0, structures / (structures + probs[:, :1]), 0.0)
    background = np.prod(1 - sigmoids, axis=1, keepdims=True)
    every = np.concatenate([background, sigmoids], axis=1)
    summed: np.ndarray = (every / every.sum(axis=1, keepdims=True)).astype(np.float32)
    return summed


VARIANTS: dict[str, Variant] = {
    "prior_corrected": Variant(
        "prior-corrected (p/w, renormalised)",
        lambda config: config.loss == "cross_entropy" and len(set(config.class_weights)) > 1 and not config.sampled,
        prior_corrected,
    ),
    "raw_sum": Variant(
        "head: sigmoids over their sum",
        lambda config: config.head == "sigmoid" and config.n_classes > 2 and not config.sampled,
        raw_sum,
    ),
}
