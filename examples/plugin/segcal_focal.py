"""The focal loss (Lin et al. 2017), and how far the mean confidence lies from the accuracy, for segcal."""

from segcal.learn.heads import log_probabilities
from segcal.measure.metric import Metric


def focal(logits, truth, weights=None, *, gamma: float = 2.0, head: str = "softmax"):
    """-1/N sum_i w(y_i) (1 - p_i)^gamma ln p_i, with p_i of the true class; cross-entropy at gamma = 0."""
    log_p = log_probabilities(logits, head).gather(1, truth.long().unsqueeze(1)).squeeze(1)
    loss = -((-log_p.expm1()).clamp_min(1e-8) ** gamma) * log_p
    return (loss if weights is None else loss * weights[truth.long()]).mean()


def gap(region):
    """|mean confidence - accuracy| over a region's voxels: calibration in the large, for each subset of members."""
    return abs((region.top[..., 1] - region.top[..., 2]).sum(axis=-1)) / region.voxels


GAP = Metric("region", gap, title="|confidence - accuracy| %", better="low", scale=100.0)
