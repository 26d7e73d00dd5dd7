"""The 95th percentile Hausdorff distance of many predictions, against MONAI on the same masks, on one core.

MONAI is no dependency of segcal: where it is missing the comparison is left out, and the rows say so.
"""

__all__ = ["measure"]

import importlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from benchmarks.table import Row
from benchmarks.timing import interleaved, one_core
from segcal.measure.surface import TruthSurface, hd95, hd95_of

PREDICTIONS = 20
CASES = 1000
GOAL = "4x MONAI"

Spacing = tuple[float, float, float]
Monai = Callable[[np.ndarray, np.ndarray, Spacing], np.ndarray]


@dataclass(frozen=True, eq=False)
class Masks:
    """Predictions of one volume and its truth: nested structures S of smoothed noise around a centre."""

    spacing_mm: Spacing
    truth: np.ndarray  # (S, Z, Y, X)
    predictions: np.ndarray  # (N, S, Z, Y, X)


def measure() -> list[Row]:
    """All rows."""
    monai = _monai()
    rng = np.random.default_rng(0)
    brain = _masks(rng, (78, 240, 240), (2.0, 1.0, 1.0), radii_mm=(14.0, 24.0, 38.0))
    small = _masks(rng, (10, 80, 64), (8.0, 2.4, 2.4), radii_mm=(14.0, 22.0, 32.0))
    rows = []
    for name, masks in (("brain", brain), ("small", small)):
        rows += _speed(name, masks, monai)
    return [*rows, _agreement(rng, monai)]


def _speed(name: str, masks: Masks, monai: Monai | None) -> list[Row]:
    """Seconds for all predictions: with the truth prepared once (its preparation is timed too), and one by one."""

    def cached() -> list[list[float]]:
        truths = [TruthSurface.of(truth, masks.spacing_mm) for truth in masks.truth]
        return [[hd95_of(truth.distances(mask)) for truth, mask in zip(truths, prediction, strict=True)]
                for prediction in masks.predictions]  # fmt: skip

    def alone() -> list[list[float]]:
        return [[hd95(mask, truth, masks.spacing_mm) for truth, mask in zip(masks.truth, prediction, strict=True)]
                for prediction in masks.predictions]  # fmt: skip

    ways: dict[str, Callable[[], object]] = {"cached": cached, "alone": alone}
    difference_mm = float(np.abs(np.subtract(cached(), alone())).max())
    if monai:
        ways["monai"] = lambda: [monai(prediction, masks.truth, masks.spacing_mm) for prediction in masks.predictions]
    with one_core():
        seconds = interleaved(ways)
    plain = seconds.get("monai")
    shape = "x".join(map(str, masks.truth.shape[1:]))
    what = f"{len(masks.predictions)} maps, {name} {shape}, {len(masks.truth)} structures"
    note = f"both ways within {difference_mm:.0e} mm" if monai else "MONAI is not installed: not compared"
    return [
        Row(f"HD95 of {what}", seconds["cached"], plain, goal=GOAL, note=f"truth prepared once; {note}"),
        Row("  the same, one by one", seconds["alone"], plain, goal=GOAL),
    ]


def _agreement(rng: np.random.Generator, monai: Monai | None) -> Row:
    """The largest difference to MONAI in mm, in the note; the seconds are ours and MONAI's for all cases."""
    ours, theirs, largest_mm = 0.0, 0.0, 0.0
    for _ in range(CASES):
        spacing: Spacing = (float(rng.uniform(0.3, 8)), float(rng.uniform(0.3, 8)), float(rng.uniform(0.3, 8)))
        shape = tuple(rng.integers(2, 24, size=3).tolist())
        prediction, truth = _random_mask(rng, shape), _random_mask(rng, shape)
        started = time.perf_counter()
        found = hd95(prediction, truth, spacing)
        ours += time.perf_counter() - started
        if monai:
            started = time.perf_counter()
            expected = float(monai(prediction[np.newaxis], truth[np.newaxis], spacing)[0])
            theirs += time.perf_counter() - started
            largest_mm = max(largest_mm, abs(found - expected))
    note = f"largest difference {largest_mm:.1e} mm" if monai else "MONAI is not installed: not compared"
    what = f"HD95 of {CASES} random anisotropic pairs of masks"
    return Row(what, ours, theirs if monai else None, goal="1e-4 mm", note=note)


def _masks(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: Spacing, radii_mm: tuple[float, ...]
) -> Masks:
    grid_mm = np.meshgrid(*[np.arange(n) * side for n, side in zip(shape, spacing_mm, strict=True)], indexing="ij")
    centre_mm = [0.45 * n * side for n, side in zip(shape, spacing_mm, strict=True)]
    distance_mm = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(grid_mm, centre_mm, strict=True)))
    field = distance_mm + 7.0 * _noise(rng, shape, spacing_mm, 8.0)
    truth = np.stack([field < radius for radius in radii_mm])
    predictions = []
    for _ in range(PREDICTIONS):
        shifted = field + 3.0 * _noise(rng, shape, spacing_mm, 4.0)
        predictions.append(np.stack([shifted < radius for radius in radii_mm]))
    return Masks(spacing_mm, truth, np.stack(predictions))


def _noise(rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: Spacing, width_mm: float) -> np.ndarray:
    """Smooth noise of unit variance."""
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), [width_mm / side for side in spacing_mm])
    scaled: np.ndarray = smooth / smooth.std()
    return scaled


def _random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    mask: np.ndarray = ndimage.gaussian_filter(rng.random(shape), rng.uniform(0, 2)) < rng.uniform(0.3, 0.7)
    mask[tuple(rng.integers(n) for n in shape)] = True  # never empty
    return mask


def _monai() -> Monai | None:
    """MONAI's function for masks (S, Z, Y, X), or None where it is not installed."""
    try:
        distance = importlib.import_module("monai.metrics").compute_hausdorff_distance
    except ImportError:
        return None

    def run(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
        pair = (torch.from_numpy(masks[np.newaxis]) for masks in (prediction, truth))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = distance(*pair, include_background=True, percentile=95, directed=False, spacing=spacing_mm)
        return np.asarray(found[0])

    return run
