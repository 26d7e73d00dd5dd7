"""What is known of a predicted case, as `result.json` keeps it: volumes, H(S), predicted Dice, the flag, warnings."""

__all__ = ["FORMAT", "LEVEL", "Outcome", "case_result", "mask_volume_ml", "warnings_of"]

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from segcal.ensemble.foresight import is_novel, predicted_dice
from segcal.ensemble.loaded import Ensemble, EnsemblePrediction
from segcal.ensemble.manifest import DiceLine
from segcal.version import code_version
from segcal.volume import Volume

FORMAT = 1  # of the file
LEVEL = 0.95  # of the prediction interval
FAR = 0.25  # share that a spacing may lie beyond those of training
_ROUNDING = 1e-4  # of headers
_SUMMED = 1e-6  # nats: H(S) of one case differs so much by the order in which its voxels are added up
_MM3_PER_ML = 1000.0
_NOTHING = "nothing is predicted: look whether the structures are there"
_AXES = ("z", "y", "x")


@dataclass(frozen=True)
class Outcome:
    """A case between its images and its files: what was said of it on the prepared grid, and where it lies."""

    case_id: str
    found: EnsemblePrediction  # prepared grid
    way_back: dict[str, Any]  # of `prepare_image`
    classes: Volume  # (Z, Y, X) uint8, native grid
    sources: dict[str, list[dict[str, str]]]  # channel -> files with their sha256


def mask_volume_ml(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """Volume of the voxels (Z, Y, X) of a mask in ml; spacing_mm (z, y, x). An empty mask: 0.

    >>> mask_volume_ml(np.ones((2, 5, 10), dtype=bool), (5.0, 1.0, 2.0))
    1.0
    """
    return float(np.count_nonzero(mask)) * math.prod(spacing_mm) / _MM3_PER_ML


def case_result(ensemble: Ensemble, outcome: Outcome, files: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """The content of result.json. Where a number is unknown stands None, with a reason beside it.

    H(S) is taken on the prepared grid, on which the Dice was fitted to it; volumes on the native one.
    """
    manifest, native = ensemble.manifest, outcome.way_back["native"]
    values = label_values(ensemble)
    return {
        "format": FORMAT,
        "case": outcome.case_id,
        "model": {
            "name": ensemble.name,
            "version": ensemble.version,
            "task": ensemble.task.name,
            "recipe": manifest.label,
            "members": [
                {"name": m.name, "version": m.version, "weights_sha256": m.weights_sha256} for m in manifest.members
            ],
        },
        "code_version": code_version(),
        "sources": outcome.sources,
        "native": {"axes": "zyx", **{key: native[key] for key in ("shape", "spacing_mm", "affine")}},
        "structures": {
            name: {
                "label": values[number],
                "volume_ml": mask_volume_ml(outcome.classes.array == number, outcome.classes.spacing_mm),
                "segment_entropy_nats": _finite(outcome.found.segment_entropy[name]),
                **_dice(manifest.dice.get(name), outcome.found.segment_entropy[name]),
            }
            for number, name in enumerate(ensemble.task.structures, start=1)
        },
        **_novelty(ensemble, outcome.found),
        "warnings": warnings,
        "files": files,
    }


def label_values(ensemble: Ensemble) -> dict[int, int]:
    """Class -> value in the task's label files: the first of the values that mean the same structure; background 0."""
    values = {0: 0}
    for value, number in ensemble.task.classes.items():
        values.setdefault(number, value)
    return values


def warnings_of(ensemble: Ensemble, outcome: Outcome) -> list[str]:
    """What a reader of the result should know before trusting it; none for a case like those of training."""
    entropies = outcome.found.segment_entropy
    empty = [] if any(map(math.isfinite, entropies.values())) else [_NOTHING + _beyond(ensemble, outcome)]
    return [*_far_spacings(ensemble, outcome), *_cut(ensemble, outcome), *empty, *_extrapolated(ensemble, entropies)]


def _dice(line: DiceLine | None, entropy: float) -> dict[str, Any]:
    if not math.isfinite(entropy):
        return {"predicted_dice": None, "predicted_dice_reason": "nothing is predicted of this structure"}
    if line is None:
        reason = "the ensemble's scored cases were too few, or too alike, for a line of Dice on H(S)"
        return {"predicted_dice": None, "predicted_dice_reason": reason}
    point, low, high = predicted_dice(line, entropy, LEVEL)
    found = {"point": point, "low": low, "high": high, "level": LEVEL, "extrapolated": _is_beyond(line, entropy)}
    return {"predicted_dice": found, "predicted_dice_reason": None}


def _novelty(ensemble: Ensemble, found: EnsemblePrediction) -> dict[str, Any]:
    novelty, score = ensemble.manifest.novelty, found.mean_entropy
    if novelty is None:
        reason = "the ensemble has no threshold: too few cases were scored, or nothing is predicted in many of them"
        return {"out_of_distribution": None, "out_of_distribution_reason": reason}
    return {
        "out_of_distribution": {
            "flag": is_novel(novelty, score),
            "score_nats": _finite(score),  # None: nothing is predicted, which is beyond every threshold
            "threshold_nats": novelty.threshold,
            "false_positive_rate": novelty.false_positive_rate,
            "n_source": novelty.n_source,
            "n_target": novelty.n_target,
            "detected_share": novelty.detected,
        },
        "out_of_distribution_reason": None,
    }


def _far_spacings(ensemble: Ensemble, outcome: Outcome) -> list[str]:
    spacing_mm = outcome.way_back["native"]["turned_spacing_mm"]
    far = []
    for axis, side, (low, high) in zip(_AXES, spacing_mm, ensemble.manifest.native_spacing_mm, strict=False):
        if not low * (1 - FAR) * (1 - _ROUNDING) <= side <= high * (1 + FAR) * (1 + _ROUNDING):
            seen = f"{low:.3g}" if math.isclose(low, high, rel_tol=5e-3) else f"{low:.3g} to {high:.3g}"
            far.append(f"{side:.3g} mm along {axis} (training: {seen} mm)")
    if not far:
        return []
    return [f"voxels are far from those of training: {', '.join(far)}; predicted Dice and flag need not hold"]


def _cut(ensemble: Ensemble, outcome: Outcome) -> list[str]:
    """Structures at a border of the crop beyond which the image goes on."""
    labels, task = outcome.found.labels, ensemble.task
    offsets, whole = outcome.way_back["crop_offset"], outcome.way_back["resampled_shape"]
    faces = []
    for axis, offset in enumerate(offsets, start=3 - len(offsets)):
        size = labels.shape[axis]
        if offset > 0:
            faces.append(labels.take(0, axis=axis))
        if offset + size < whole[axis]:
            faces.append(labels.take(size - 1, axis=axis))
    cut = [name for number, name in enumerate(task.structures, 1) if any((face == number).any() for face in faces)]
    if not cut:
        return []
    seen = _seen_mm(ensemble, outcome)
    return [f"{', '.join(cut)} cut at the border of the {seen} that the networks see: what lies beyond has no label"]


def _beyond(ensemble: Ensemble, outcome: Outcome) -> str:
    """Where the image goes on beyond the crop, the structures may lie there."""
    if max(outcome.way_back["crop_offset"]) <= 0:
        return ""
    return f", within the {_seen_mm(ensemble, outcome)} around its centre that the networks see"


def _seen_mm(ensemble: Ensemble, outcome: Outcome) -> str:
    task, spacing_mm = ensemble.task, outcome.way_back["spacing_mm"]
    return "x".join(f"{n * mm:.0f}" for n, mm in zip(task.crop, spacing_mm[-task.dims :], strict=True)) + " mm"


def _extrapolated(ensemble: Ensemble, entropies: dict[str, float]) -> list[str]:
    lines = ((name, ensemble.manifest.dice.get(name), entropy) for name, entropy in entropies.items())
    return [
        f"H(S) of {name} is {entropy:.4g} nats, beyond the {line.low_entropy:.4g} to {line.high_entropy:.4g} of the "
        "cases that its Dice was fitted to: the predicted Dice is extrapolated"
        for name, line, entropy in lines
        if line is not None and _is_beyond(line, entropy)
    ]


def _is_beyond(line: DiceLine, entropy: float) -> bool:
    inside = line.low_entropy - _SUMMED <= entropy <= line.high_entropy + _SUMMED
    return math.isfinite(entropy) and not inside


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
