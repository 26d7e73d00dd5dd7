"""Distance between the surfaces of two segmentations, cheap where many predictions meet one truth."""

__all__ = ["SurfaceDistances", "TruthSurface", "hd95", "hd95_of", "hd95_pooled"]

import itertools
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

Box = tuple[slice, ...]

MARGIN_MM = 10.0  # around the truth, where distances to its surface are tabulated; beyond, a tree is asked
MANY = 2000  # points beyond: from there on one distance transform of the whole volume pays
PAIRS = 200  # of points, per voxel: from there on a distance transform of the box around them beats the tree
SHELLS = (0, 1, 7, 27, 67, 128)  # the nearest offsets, tried shell by shell before the tree: itself, the next 6, ...


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """From every surface point of one mask to the nearest of the other, in mm; the order of points has no meaning.

    If one mask is empty, the distances of the other's points are NaN.
    """

    to_truth: np.ndarray  # (n,), of the prediction's surface points
    to_prediction: np.ndarray  # (m,), of the truth's surface points


def hd95(prediction: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """95th percentile Hausdorff distance in mm: the larger of the two directed 95th percentiles.

    prediction, truth: masks (Z, Y, X); spacing_mm (z, y, x). The surface of a mask is the mask without its
    6-neighbour erosion; outside the volume counts as background. Both empty: 0. One empty: NaN. For many predictions
    of one truth build a `TruthSurface` once. Raises ValueError where the shapes differ or are not 3-D, and for a
    spacing that is not positive.

    >>> hd95(np.array([[[1, 0, 0]]]), np.array([[[0, 0, 1]]]), (1.0, 1.0, 2.0))
    4.0
    """
    _check_shapes(np.shape(prediction), np.shape(truth))
    a, b = _Surface.of(prediction, spacing_mm), _Surface.of(truth, spacing_mm)
    return hd95_of(SurfaceDistances(a.distances_to(b), b.distances_to(a)))


def hd95_of(distances: SurfaceDistances) -> float:
    """The larger of the two directed 95th percentiles in mm. Both masks empty: 0. One empty: NaN."""
    directed = (distances.to_truth, distances.to_prediction)
    if not any(side.size for side in directed):
        return 0.0
    if not all(side.size for side in directed):
        return float("nan")
    return float(max(np.percentile(side, 95) for side in directed))


def hd95_pooled(distances: SurfaceDistances) -> float:
    """The 95th percentile in mm of the distances of both directions together, a sensitivity variant.

    The larger surface weighs more. Not above `hd95_of`, but for the interpolation between a small surface's few
    distances. Both masks empty: 0. One empty: NaN.
    """
    pooled = np.concatenate([distances.to_truth, distances.to_prediction])
    return float(np.percentile(pooled, 95)) if pooled.size else 0.0


@dataclass(frozen=True, eq=False)
class TruthSurface:
    """The surface of a structure's truth in one volume, made once and asked for every prediction.

    The distance to it is tabulated by an exact Euclidean distance transform in a margin around the truth (a look-up
    per point of the prediction's surface), when first needed; points farther away ask a tree, or, where they are
    many, a transform of the whole volume. Either way the result is the same.
    """

    shape: tuple[int, ...]
    surface: "_Surface"

    @classmethod
    def of(cls, truth: np.ndarray, spacing_mm: tuple[float, float, float]) -> "TruthSurface":
        """truth: mask (Z, Y, X), may be empty; spacing_mm (z, y, x)."""
        return cls(np.shape(truth), _Surface.of(truth, spacing_mm))

    def distances(self, prediction: np.ndarray) -> SurfaceDistances:
        """From the surface of a prediction, mask (Z, Y, X), to the truth's and back."""
        _check_shapes(np.shape(prediction), self.shape)
        found = _Surface.of(prediction, self.surface.spacing_mm)
        return SurfaceDistances(self._to_truth(found), self.surface.distances_to(found))

    def _to_truth(self, found: "_Surface") -> np.ndarray:
        if not self.surface.size:
            return np.full(found.size, np.nan)
        here, there = _overlap(self._margin, found.box)
        near = found.inside[there]
        beyond = found.inside.copy()
        beyond[there] = False
        far = np.flatnonzero(beyond)
        if far.size > MANY:
            distances: np.ndarray = self._everywhere_mm[found.box][found.inside]
            return distances
        beyond_mm = self.surface.nearest_mm(_indices(far, beyond.shape, found.box))
        return np.concatenate([self._nearby_mm[here][near], beyond_mm])

    @cached_property
    def _margin(self) -> Box:
        voxels = np.ceil(MARGIN_MM / np.asarray(self.surface.spacing_mm)).astype(int)
        grown = _grown(self.surface.box, voxels)
        return tuple(slice(max(0, side.start), min(n, side.stop)) for side, n in zip(grown, self.shape, strict=True))

    @cached_property
    def _nearby_mm(self) -> np.ndarray:
        return self.surface.transformed(self._margin)

    @cached_property
    def _everywhere_mm(self) -> np.ndarray:
        return self.surface.transformed(tuple(slice(0, n) for n in self.shape))


@dataclass(frozen=True, eq=False)
class _Surface:
    """The surface voxels of a mask, within its bounding box."""

    box: Box  # in the volume; of no voxels if the mask is empty
    inside: np.ndarray  # bool, of the shape of the box
    spacing_mm: tuple[float, float, float]

    @classmethod
    def of(cls, mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> "_Surface":
        mask = np.asarray(mask, dtype=bool)
        if mask.ndim != 3:
            raise ValueError(f"a mask must be (Z, Y, X), got shape {mask.shape}")
        if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
            raise ValueError(f"spacing_mm must be positive, got {spacing_mm}")
        box = _bounding_box(mask)
        crop = mask[box]
        padded = np.pad(crop, 1)  # the crop's border is background, as outside its bounding box
        core = padded[:-2, 1:-1, 1:-1] & padded[2:, 1:-1, 1:-1]
        for beside in (
            padded[1:-1, :-2, 1:-1],
            padded[1:-1, 2:, 1:-1],
            padded[1:-1, 1:-1, :-2],
            padded[1:-1, 1:-1, 2:],
        ):
            core &= beside
        z_mm, y_mm, x_mm = map(float, spacing_mm)
        return cls(box, crop & ~core, (z_mm, y_mm, x_mm))

    @property
    def size(self) -> int:
        return int(np.count_nonzero(self.inside))

    @cached_property
    def points(self) -> np.ndarray:
        """Voxel indices (n, 3)."""
        return _indices(np.flatnonzero(self.inside), self.inside.shape, self.box)

    @cached_property
    def tree(self) -> cKDTree:
        return cKDTree(self.points * np.asarray(self.spacing_mm), leafsize=32, compact_nodes=False, balanced_tree=False)

    def nearest_mm(self, points: np.ndarray) -> np.ndarray:
        """From voxel indices (k, 3) to the surface, (k,): by the tree, or the transform of a box around both.

        A tree is quick near the surface, and looks at most of its points where many are about equally far.
        """
        if not len(points):
            return np.zeros(0)
        low = np.minimum(points.min(axis=0), [side.start for side in self.box])
        high = np.maximum(points.max(axis=0) + 1, [side.stop for side in self.box])
        if len(points) * self.size > PAIRS * int(np.prod(high - low)):
            window = tuple(map(slice, low.tolist(), high.tolist()))
            distances: np.ndarray = self.transformed(window)[tuple((points - low).T)]
            return distances
        _, nearest = self.tree.query(points * np.asarray(self.spacing_mm))
        return _length_mm(self.points[nearest] - points, self.spacing_mm)

    def pasted(self, window: Box) -> np.ndarray:
        """The surface in a window of the volume, which may reach beyond it."""
        field = np.zeros([side.stop - side.start for side in window], dtype=bool)
        here, there = _overlap(window, self.box)
        field[here] = self.inside[there]
        return field

    def transformed(self, window: Box) -> np.ndarray:
        """The distance to the surface in mm from every voxel of a window that holds all of it."""
        distances: np.ndarray = distance_transform_edt(~self.pasted(window), sampling=self.spacing_mm)
        return distances

    def distances_to(self, target: "_Surface") -> np.ndarray:
        """From each of these points to the target's surface in mm, (n,). Exact; target empty: NaN.

        Most points have the target within a few voxels: the offsets are tried from the nearest on, a shell of them
        at once, until a point meets the surface.
        """
        if not self.size or not target.size:
            return np.full(self.size, np.nan)
        offsets, lengths_mm = _neighbourhood(self.spacing_mm)
        window = _grown(self.box, np.abs(offsets).max(axis=0))
        field = target.pasted(window)
        surface, points = field.ravel(), np.flatnonzero(self.pasted(window))
        steps = offsets @ np.array([field[0].size, field[0, 0].size, 1])
        distances, left = np.zeros(points.size), np.arange(points.size)
        for first, last in itertools.pairwise(SHELLS):
            met = surface[points[left, np.newaxis] + steps[first:last]]
            nearest = met.argmax(axis=1)
            hit = met[np.arange(left.size), nearest]
            distances[left[hit]] = lengths_mm[first:last][nearest[hit]]
            left = left[~hit]
            if not left.size:
                return distances
        distances[left] = target.nearest_mm(_indices(points[left], field.shape, window))
        return distances


@lru_cache(maxsize=64)
def _neighbourhood(spacing_mm: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (SHELLS[-1], 3) to the voxels nearest to a voxel, from itself on, and their lengths in mm."""
    radius_mm = min(spacing_mm)
    while True:
        sides = [np.arange(-(radius_mm // side), radius_mm // side + 1) for side in spacing_mm]
        offsets = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.intp)
        lengths_mm = _length_mm(offsets, spacing_mm)
        near = np.flatnonzero(lengths_mm <= radius_mm)
        if near.size >= SHELLS[-1]:
            order = near[np.argsort(lengths_mm[near], kind="stable")[: SHELLS[-1]]]
            return offsets[order], lengths_mm[order]
        radius_mm *= 2


def _length_mm(offsets: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    z, y, x = ((offsets * np.asarray(spacing_mm)) ** 2).T
    lengths: np.ndarray = np.sqrt(z + y + x)
    return lengths


def _bounding_box(mask: np.ndarray) -> Box:
    """Slices around the voxels of a mask, in two quick passes; an empty mask gives slices of length 0."""
    z = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1)) if mask.size else np.empty(0, dtype=int)
    if not z.size:
        return (slice(0, 0),) * 3
    plane = np.any(mask[z[0] : z[-1] + 1], axis=0)
    sides = (z, np.flatnonzero(np.any(plane, axis=1)), np.flatnonzero(np.any(plane, axis=0)))
    return tuple(slice(int(side[0]), int(side[-1]) + 1) for side in sides)


def _check_shapes(prediction: tuple[int, ...], truth: tuple[int, ...]) -> None:
    if prediction != truth:
        raise ValueError(f"prediction and truth must have one shape, got {prediction} and {truth}")


def _grown(box: Box, voxels: np.ndarray) -> Box:
    """The box with a margin of so many voxels (3,) on both sides; it may reach beyond the volume."""
    pairs = zip(box, voxels.tolist(), strict=True)
    return tuple(slice(side.start - margin, side.stop + margin) for side, margin in pairs)


def _overlap(a: Box, b: Box) -> tuple[Box, Box]:
    """What two boxes share, as slices within a and as slices within b."""
    starts = [max(one.start, other.start) for one, other in zip(a, b, strict=True)]
    stops = [max(start, min(one.stop, other.stop)) for start, one, other in zip(starts, a, b, strict=True)]

    def within(box: Box) -> Box:
        edges = zip(box, starts, stops, strict=True)
        return tuple(slice(start - side.start, stop - side.start) for side, start, stop in edges)

    return within(a), within(b)


def _indices(flat: np.ndarray, shape: tuple[int, ...], box: Box) -> np.ndarray:
    """Voxel indices (n, 3) in the volume, of flat indices in a box."""
    corner = np.array([side.start for side in box])
    found: np.ndarray = np.stack(np.unravel_index(flat, shape), axis=1) + corner
    return found
