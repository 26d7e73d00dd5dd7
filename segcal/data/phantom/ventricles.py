"""Both ventricles in mm: an ellipsoid with an uneven wall, and an ovoid that the left one has been cut from."""

__all__ = ["BUILDS", "GROUPS", "PHASES", "Frame", "Heart", "frame", "heart"]

from dataclasses import dataclass

import numpy as np

from segcal.data.phantom.fields import Grid, smooth_field, soft_step

GROUPS = ("NOR", "MINF", "DCM", "HCM", "RV")
PHASES = ("ED", "ES")


@dataclass(frozen=True)
class Build:
    """A group's mean left ventricle in mm at end-diastole, its right one against a normal one, and the share of each
    that is left at end-systole."""

    radius: float
    wall: float
    length: float
    rv_size: float
    radius_left: float
    length_left: float
    rv_left: float


BUILDS = {
    "NOR": Build(25.0, 8.0, 84.0, 1.00, 0.66, 0.88, 0.80),
    "MINF": Build(27.0, 8.0, 85.0, 1.00, 0.80, 0.93, 0.82),
    "DCM": Build(33.0, 6.8, 88.0, 1.06, 0.87, 0.95, 0.88),
    "HCM": Build(22.8, 10.5, 83.0, 0.97, 0.62, 0.89, 0.78),
    "RV": Build(24.0, 7.8, 82.0, 1.18, 0.68, 0.90, 0.89),
}


@dataclass(frozen=True)
class Frame:
    """Fields on the fine grid, in mm: depth below the mitral plane at rest, the offset from the left ventricle's axis
    towards the septum and down along it, and the angle from the septum, growing downwards."""

    depth: np.ndarray
    septal: np.ndarray
    along: np.ndarray
    angle: np.ndarray


@dataclass(frozen=True)
class Heart:
    """Signed in-plane distances in mm (negative inside) on the fine grid, and how far below the valves a point lies."""

    endo: np.ndarray
    epi: np.ndarray
    rv: np.ndarray
    below_base: np.ndarray


def frame(rng: np.random.Generator, grid: Grid, per_slice: int, length_mm: float) -> Frame:
    """Where the heart lies: its tilted axis, jumping from slice to slice between breath-holds, and its septum."""
    z, y, x = grid.points_mm()
    height = grid.shape[0] * grid.spacing_mm[0]
    # A stack starts near the valves and, if it is tall enough, ends in the apex.
    start = min(max(rng.uniform(-2, 4), length_mm - height + rng.uniform(-4, 4)), 12.0)
    middle = np.array([rng.normal(-2, 4), rng.normal(14, 4)])
    tilt = np.array([rng.normal(0.05, 0.06), rng.normal(0.12, 0.06)])
    jumps = np.clip(rng.normal(0, 0.9, (grid.shape[0] // per_slice, 2)), -2, 2).repeat(per_slice, axis=0)
    y = y - middle[0] - tilt[0] * z - jumps[:, 0, None, None]
    x = x - middle[1] - tilt[1] * z - jumps[:, 1, None, None]
    turn = np.deg2rad(rng.normal(12, 11))  # how far the septum faces up from the left
    septal = -np.cos(turn) * x - np.sin(turn) * y
    along = np.cos(turn) * y - np.sin(turn) * x
    return Frame(z + height / 2 + start, septal, along, np.arctan2(along, septal))


def heart(rng: np.random.Generator, grid: Grid, place: Frame, group: str, phase: str, length_mm: float) -> Heart:
    """Both ventricles at a phase; muscle keeps its volume as it contracts, but for an infarct, which does not."""
    build, systole = BUILDS[group], phase == "ES"
    radius, wall = build.radius * np.exp(rng.normal(0, 0.05)), build.wall * np.exp(rng.normal(0, 0.07))
    left = np.clip(build.radius_left + rng.normal(0, 0.03), 0, 0.95)
    diseased = _sector(rng, place, group, length_mm)
    bulge, thinning, thickening = rng.uniform(0, 3.5), rng.uniform(0.42, 0.6), rng.uniform(5, 8.5)
    flat = rng.uniform(0.66, 0.8) if group == "RV" else rng.uniform(0.93, 1.05)
    oval, axis = rng.uniform(0, 0.05), rng.uniform(0, np.pi)
    base = length_mm * (1 - build.length_left) if systole else 0.0
    length = length_mm - base
    small = radius * left if systole else radius
    thick = np.sqrt(small**2 + ((radius + wall) ** 2 - radius**2) * length_mm / length) - small
    inner, muscle = small, np.full_like(place.depth, thick)
    if group == "MINF":
        inner = small + diseased * ((0.96 * radius - small) + bulge)
        muscle = thick + diseased * (wall * thinning - thick)
    if group == "HCM":
        inner = small - 0.35 * thickening * diseased
        muscle = thick + thickening * diseased * thick / wall
    inner = inner * (1 + oval * np.cos(2 * (place.angle - axis)))
    below = place.depth - base
    outer = (inner + muscle) * _profile(below, length) + smooth_field(rng, grid, 22.0, 0.8)
    cavity = inner * _profile(below, length - 0.85 * wall)
    rho = np.hypot(place.septal, place.along)
    epi = _blunt(rho - outer, place.septal - flat * outer)
    endo = _blunt(rho - cavity, place.septal - (flat * outer - (outer - cavity)))
    endo = np.maximum(endo + smooth_field(rng, grid, 12.0, 0.7) + smooth_field(rng, grid, 5.0, 0.35), epi + 2.5)
    size = build.rv_size * np.exp(rng.normal(0, 0.05)) * (build.rv_left if systole else 1.0)
    rv = _right_ventricle(rng, grid, place, below, outer, size, length)
    return Heart(endo, epi, rv, below)


def _profile(depth: np.ndarray, length_mm: float) -> np.ndarray:
    """Share of the largest radius at a depth below the valves: 1 a little below them, 0 at the apex, then negative."""
    along = (depth / length_mm - 0.12) / 0.88
    inside = np.clip(1 - np.abs(along) ** 2.6, 0, None) ** 0.52
    profile: np.ndarray = inside - np.clip(along - 1, 0, None) * 4
    return profile


def _blunt(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The larger of two distances, with a rounded corner."""
    larger: np.ndarray = 0.5 * (first + second + np.sqrt((first - second) ** 2 + 9.0)) - 0.2
    return larger


def _sector(rng: np.random.Generator, frame: Frame, group: str, length_mm: float) -> np.ndarray:
    """Share of disease: an infarct's sector of 60-90 degrees anywhere, or the thickened septum."""
    centre = rng.uniform(-np.pi, np.pi) if group == "MINF" else rng.normal(-0.3, 0.3)
    half = np.deg2rad(rng.uniform(30, 45)) if group == "MINF" else np.deg2rad(rng.uniform(55, 75))
    first, last = rng.uniform(-0.1, 0.25), rng.uniform(0.75, 1.1)
    away = np.abs((frame.angle - centre + np.pi) % (2 * np.pi) - np.pi)
    level = frame.depth / length_mm
    sector: np.ndarray = (
        soft_step(half - away, 0.22 if group == "MINF" else 0.45)
        * soft_step(level - first, 0.08)
        * soft_step(last - level, 0.08)
    )
    return sector


def _right_ventricle(
    rng: np.random.Generator,
    grid: Grid,
    frame: Frame,
    below: np.ndarray,
    outer: np.ndarray,
    size: float,
    length_mm: float,
) -> np.ndarray:
    """Distance to an ovoid on the septal side with a blunt corner below; the left ventricle is cut out by the user."""
    reach = length_mm * rng.uniform(0.82, 0.88)
    taper = np.clip(1 - np.clip(below / reach, 0, 1) ** 2.1, 0.01, None) ** 0.55
    deep = 35.5 * size * taper * np.exp(rng.normal(0, 0.04))
    tall = 41.0 * size * taper * np.exp(rng.normal(0, 0.04))
    septal = frame.septal - 0.68 * np.maximum(outer, 3)
    along = frame.along + rng.uniform(2, 7) * taper  # towards the outflow tract
    rho = np.hypot(septal / deep, along / tall) + 1e-6
    angle = np.arctan2(along / tall, septal / deep)
    corner = 1 + rng.uniform(0.03, 0.08) * np.cos(3 * (angle - rng.normal(1.0, 0.12)))
    distance = np.hypot(septal, along) * (1 - corner / rho) + 2.5 * np.clip(below - reach, 0, None)
    bumpy: np.ndarray = distance + smooth_field(rng, grid, 18.0, 1.0) + smooth_field(rng, grid, 6.0, 0.4)
    return bumpy
