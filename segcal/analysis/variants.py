"""Other readings of the same networks, for the sensitivity table. A reading is one function and one line here."""

__all__ = ["PLAIN", "VARIANTS", "Variant"]

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segcal.trial import TrialConfig

PLAIN = ""  # the reading that every table but one uses


@dataclass(frozen=True)
class Variant:
    """Which recipes it says anything about, and what it makes of members' probabilities (members, K, ...)."""

    title: str
    applies: Callable[[TrialConfig], bool]
    reading: Callable[[np.ndarray, TrialConfig], np.ndarray]

    def read(self, probs: np.ndarray, config: TrialConfig, out: np.ndarray | None = None) -> np.ndarray:
        """The reading of a slab (members, K, z, Y, X), float32, into `out` where its shape fits.

        Made slice by slice of each member: what it needs besides stays in the cache.
        """
        every = out if out is not None and out.shape == probs.shape else np.empty(probs.shape, np.float32)
        for member in range(len(probs)):
            for z in range(probs.shape[2]):
                every[member, :, z] = self.reading(probs[member : member + 1, :, z], config)[0]
        return every


def prior_corrected(probs: np.ndarray, config: TrialConfig) -> np.ndarray:
    """p_k / w_k, renormalised: what a network trained with class weights w says of p(y|x).

    The weighted cross-entropy (Eq. 1) has its minimum at q_k ~ w_k p_k: it is no proper score of p.
    """
    weights = np.asarray(config.class_weights, np.float32).reshape(1, -1, *[1] * (probs.ndim - 2))
    corrected: np.ndarray = probs / weights
    corrected /= corrected.sum(axis=1, keepdims=True)
    return corrected


def raw_sum(probs: np.ndarray, config: TrialConfig) -> np.ndarray:
    """Sigmoids of the structures, the background as the product of their complements, divided by their sum.

    The plain reading is softmax([0, z_1 .. z_F]); its odds against the background are exp(z). For one structure both
    are the sigmoid.
    """
    background, structures = probs[:, :1], probs[:, 1:]
    with np.errstate(invalid="ignore"):
        sigmoids = np.where(structures > 0, structures / (structures + background), 0)
    every = np.concatenate([np.prod(1 - sigmoids, axis=1, keepdims=True), sigmoids], axis=1)
    summed: np.ndarray = every / every.sum(axis=1, keepdims=True)
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
