"""The convention card: which definition of everything a report used."""

__all__ = ["conventions"]

from segcal.measure.calibration import CLIP
from segcal.measure.case import N_BINS
from segcal.tasks import TaskSpec


def conventions(task: TaskSpec, seed: int, n_resamples: int) -> tuple[tuple[str, str], ...]:
    """Pairs of a quantity and its definition; equations are those of Mehrtash et al., IEEE TMI 39(12), 2020."""
    return (
        ("NLL", f"Eq. 3, mean over voxels, natural logarithm; ensembles clipped at {CLIP:g}, single models exact"),
        ("Brier", "Eq. 4 summed over classes, without its 1/K (0 to 2)"),
        ("class-wise ECE", "the same of each class's probability against its frequency, averaged over the K classes"),
        ("ECE", f"Eq. 5, top label, {N_BINS} bins ((m-1)/M, m/M], weighted by voxels; of each patient, then averaged"),
        ("Reliability diagrams", "pooled over test voxels (and over draws); bins of more than 1000 voxels are drawn"),
        (
            "Box",
            f"around all structures of the truth, grown by {task.box_margin_mm:g} mm in-plane and "
            f"{task.box_margin_slices} slices, clipped to the volume; evaluation only",
        ),
        ("Dice", "3-D per structure on the prepared grid; absent in truth and prediction: left out and counted"),
        ("HD95", "larger of the two directed 95th percentiles, mm, prepared grid; a miss: left out, or the diagonal"),
        ("H(S)", "Eq. 7, nats, over voxels whose most probable class is the structure; ties take the lowest class"),
        ("logit Dice", "Dice clipped to [0.001, 0.999]"),
        ("Ensemble", "Eq. 6, mean of the members' probabilities; draws without replacement"),
        ("MC dropout", "mean of the samples' probabilities; masks follow from weights, case and slice"),
        ("Single models", "each patient's value is the mean over all members of the recipe"),
        ("Probabilities", "softmax head: softmax; sigmoid head: softmax([0, z]); raw_sum: sigmoids over their sum"),
        ("spread", "2.5th and 97.5th percentile of the patients (the paper's \"95% CI\")"),
        ("ci", f"95% percentile bootstrap interval of the mean over patients, {n_resamples} resamples, seed {seed}"),
        ("p", "two-sided paired bootstrap over patients, add-one corrected; Holm over a table's pairs and columns"),
        ("d", "effect size: mean of the paired differences over their standard deviation"),
        ("Target domain", "the out-of-distribution cohort; test cases of other sites where the test set has both"),
        ("Training", "checkpoint of the best mean validation Dice; slices in 2-D; no augmentation"),
    )  # fmt: skip
