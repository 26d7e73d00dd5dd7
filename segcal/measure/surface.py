"""Distance between the surfaces of two segmentations."""

__all__ = ["hd95"]

import numpy as np
from scipy.ndimage import binary_erosion, find_objects
from scipy.spatial import KDTree


def hd95(prediction: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """95th percentile Hausdorff distance in mm: the larger of the two directed 95th percentiles.

    prediction, truth: masks (Z, Y, X); spacing_mm (z, y, x). The surface of a mask is the mask without its
    6-neighbour erosion; outside the volume counts as background. Both empty: 0. One empty: NaN.
    """
    prediction, truth = np.asarray(prediction, dtype=bool), np.asarray(truth, dtype=bool)
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction and truth must have one shape, got {prediction.shape} and {truth.shape}")
    if min(spacing_mm) <= 0:
        raise ValueError(f"spacing_mm must be positive, got {spacing_mm}")
    if not prediction.any() and not truth.any():
        return 0.0
    if not prediction.any() or not truth.any():
        return float("nan")
    a, b = surface_points_mm(prediction, spacing_mm), surface_points_mm(truth, spacing_mm)
    return max(_directed95(a, b), _directed95(b, a))


def surface_points_mm(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Centres of the surface voxels of a mask in mm, (n, 3) as (z, y, x)."""
    box = find_objects(mask.astype(np.uint8))[0]
    inside = mask[box]  # the crop's border is background, as the eroded mask outside its bounding box is
    surface = inside & ~binary_erosion(inside)
    corner = np.array([side.start for side in box])
    points: np.ndarray = (np.argwhere(surface) + corner) * np.asarray(spacing_mm, dtype=np.float64)
    return points


def _directed95(source: np.ndarray, target: np.ndarray) -> float:
    distances, _ = KDTree(target).query(source)
    return float(np.percentile(distances, 95))
