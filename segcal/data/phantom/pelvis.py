"""The male pelvis in mm: where the gland and the rectum lie, in coordinates that a smooth field warps.

z runs from the apex to the base, y from anterior to posterior, x from the patient's right to the left. Distances are
negative inside a structure.
"""

__all__ = ["HALF_MM", "Pelvis", "pelvis"]

from dataclasses import dataclass

import numpy as np

from segcal.data.phantom.fields import Grid, smooth_field, soft_step, softer_max, to_mm

HALF_MM = np.array([21.5, 18.8, 26.8])  # half axes (z, y, x) of a gland of 50 ml
MOST_MM = np.array([30.0, 38.0])  # half axes (y, x) that the pelvis has room for
GROWTH = np.array([0.40, 0.34, 0.26])  # large glands are rounder: their width grows least
ROUNDNESS = 2.3  # of its outline in a slice: 2 is an ellipsoid
FILL = {"phased-array": 0.485, "endorectal": 0.455}  # share of the box of its axes that the gland takes
BALLOON_MM, SQUEEZE = 19.0, 0.84


@dataclass(frozen=True)
class Pelvis:
    """What all tissues are placed by: warped points in mm, the gland's half axes, and signed distances in mm.

    relative: the points in half axes of the gland, bent with it; column: distance to the gland's in-plane outline,
    carried on below the apex and above the base.
    """

    points: np.ndarray  # (3, Z, Y, X)
    half_mm: np.ndarray  # (3,)
    relative: np.ndarray  # (3, Z, Y, X)
    gland: np.ndarray
    column: np.ndarray
    rectum: np.ndarray


def pelvis(rng: np.random.Generator, grid: Grid, coil: str, slice_mm: float) -> Pelvis:
    """A patient's warped coordinates, gland and rectum."""
    room_mm = grid.shape[0] * grid.spacing_mm[0] / 2 - slice_mm - 1.0
    half = _half_axes(rng, coil, room_mm)
    slack = min(3.0, room_mm - half[0])
    middle = np.array([rng.uniform(-slack, slack), rng.normal(-4, 1.5), rng.normal(0, 1.5)])
    z, y, x = (grid.points_mm() - middle[:, None, None, None]).astype(np.float32)
    angle = np.deg2rad(rng.normal(0, 2.5))
    y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    points = np.stack([z, y, x])
    for axis, sd in enumerate((0.8, 2.0, 2.0)):
        points[axis] += smooth_field(rng, grid, 32.0, sd) + smooth_field(rng, grid, 13.0, 0.3 * sd)
    level, inplane, relative = _gland_level(rng, points, half)
    gland = to_mm(level + smooth_field(rng, grid, 12.0, 0.025), grid)
    profile = np.sqrt(np.clip(1 - relative[0] ** 2, 0.2, 1))
    column = (inplane - profile) * 0.5 * (half[1] + half[2])
    rectum = _rectum(rng, grid, points, half, coil)
    gap = rng.uniform(2.0, 3.5) + smooth_field(rng, grid, 15.0, 0.4)
    if coil == "endorectal":  # the balloon gives way to nothing
        gland = softer_max(gland, gap - rectum, 2.0)
    else:
        rectum = softer_max(rectum, gap - np.minimum(gland, column + 2), 3.0)
    return Pelvis(points, half, relative, gland, column, rectum)


def _half_axes(rng: np.random.Generator, coil: str, most_mm: float) -> np.ndarray:
    """Half axes (z, y, x) of the gland in mm, the first at most `most_mm`."""
    volume_ml = float(np.clip(rng.lognormal(np.log(50), 0.45), 20, 130))
    half = HALF_MM * (volume_ml / 50) ** GROWTH * np.exp(rng.normal(0, 0.05, 3))
    if coil == "endorectal":
        half *= np.array([SQUEEZE**-0.3, SQUEEZE, SQUEEZE**-0.7])
    half[0] = min(half[0], most_mm * rng.uniform(0.92, 1))
    half[1:] *= min(np.sqrt(volume_ml * 1000 / (FILL[coil] * np.prod(2 * half))), 1.25)
    half[1:] = np.minimum(half[1:], MOST_MM)
    return half


def _gland_level(
    rng: np.random.Generator, points: np.ndarray, half: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gland's shape: a field that is 0 on its surface, its in-plane part, and the points relative to its axes."""
    tilt, taper, hollow = rng.uniform(0.08, 0.28), rng.uniform(0.08, 0.2), rng.uniform(0.05, 0.22)
    z = points[0] / half[0]
    y = (points[1] - tilt * points[0]) / half[1]
    x = points[2] / (half[2] * (1 + taper * np.clip(z, -1.2, 0.8)))
    # The rectum flattens the posterior face and hollows it at the midline; the anterior face is narrower.
    bent = y + (0.08 + hollow * np.exp(-((x / 0.42) ** 2))) * soft_step(y - 0.25, 0.4)
    narrow = x * (1 + 0.22 * soft_step(-y - 0.2, 0.5))
    inplane = (np.abs(bent) ** ROUNDNESS + np.abs(narrow) ** ROUNDNESS) ** (1 / ROUNDNESS)
    level = np.hypot(inplane, z) - 1
    return level, inplane, np.stack([z, bent, x])


def _rectum(rng: np.random.Generator, grid: Grid, points: np.ndarray, half: np.ndarray, coil: str) -> np.ndarray:
    """Distance to the rectum's outer wall: a tube behind the gland, narrower below the apex; or the balloon."""
    z, y, x = points
    back = 0.88 * half[1]
    narrowing = np.ones_like(z)
    if coil == "endorectal":
        wide, deep = BALLOON_MM * 1.05, BALLOON_MM * 0.95
        centre = back + deep - rng.uniform(2.0, 5.0) + 0.1 * z
        wobble = 0.02
    else:
        wide, deep = rng.uniform(11, 18), rng.uniform(8, 13)
        narrowing -= 0.38 * soft_step(-z - 0.75 * half[0], 7.0)
        centre = back + deep + 1.0 + rng.uniform(0.1, 0.3) * z + 6.0 * (1 - narrowing)
        wobble = 0.14
    level = np.hypot((x - rng.normal(0, 2)) / wide, (y - centre) / deep) / narrowing - 1
    return to_mm(level + smooth_field(rng, grid, 14.0, wobble), grid)
