"""Short-axis cine slices of the heart, generated: they show how methods behave, never to be called realistic MRI.

The left ventricle is a truncated ellipsoid with an uneven wall; the right one is an ovoid from which the left has been
cut, so a crescent hugging the septum. Signals are those of a balanced steady-state sequence, as fractions of its range.
Everything is laid out in mm on a grid with thin slices and averaged to thick ones last, base first. The label is one
rater's: his outlines wander about the true ones. Image x runs to the patient's left, y to the back.
"""

__all__ = ["GROUPS", "HeartPhantom", "heart_phantom"]

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segcal.data.phantom.chest import Canvas, surroundings
from segcal.data.phantom.fields import Grid, smooth_field, soft_step, thick_slices, thin_grid
from segcal.data.phantom.ventricles import BUILDS, GROUPS, PHASES, Frame, Heart, frame, heart

RATER_OFFSET_MM, RATER_WANDER_MM, RATER_SMOOTH_MM = 0.25, 0.45, 6.0
SMALLEST_MM2 = {"cavity": 30.0, "rv": 80.0, "epi": 60.0}  # smaller pieces in a slice are not outlined


@dataclass(frozen=True)
class HeartPhantom:
    """Image (Z, Y, X) in scanner units; one rater's labels: 1 RV cavity, 2 LV myocardium, 3 LV cavity, 0 the rest."""

    image: np.ndarray
    truth: np.ndarray
    spacing_mm: tuple[float, float, float]


def heart_phantom(
    rng: np.random.Generator,
    group: str,
    phase: str = "ED",
    shape: tuple[int, int, int] = (10, 112, 112),
    spacing_mm: tuple[float, float, float] = (8.0, 2.0, 2.0),
) -> HeartPhantom:
    """One patient of a pathology group at end-diastole (ED) or end-systole (ES); shape and spacing_mm are (z, y, x).

    The same state of the generator gives the same patient, bit for bit, and in the other phase the same patient
    contracted, under other noise and outlined anew.
    """
    if group not in GROUPS:
        raise ValueError(f"group must be one of {', '.join(GROUPS)}, got group={group!r}")
    if phase not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, got phase={phase!r}")
    fine = thin_grid(shape, spacing_mm, np.zeros(3))
    per_slice = fine.shape[0] // shape[0]
    length_mm = BUILDS[group].length + float(rng.normal(0, 2.5))
    place = frame(rng, fine, per_slice, length_mm)
    ventricles = heart(rng, fine, place, group, phase, length_mm)
    canvas = surroundings(rng, fine, place, ventricles)
    _paint_heart(rng, fine, canvas, place, ventricles)
    coil = _coil(rng, fine)
    # One seed per phase: whatever is drawn from here on differs between the phases of a patient.
    seeds = rng.integers(2**63, size=len(PHASES))
    moment = np.random.default_rng(seeds[PHASES.index(phase)])
    truth = _rate(moment, fine, ventricles, per_slice)
    gain = float(rng.uniform(420, 680))
    return HeartPhantom(_acquire(moment, fine, canvas, coil * gain, gain, per_slice), truth, spacing_mm)


def _paint_heart(rng: np.random.Generator, grid: Grid, canvas: Canvas, frame: Frame, heart: Heart) -> None:
    """Muscle and blood, with papillary muscles on the left, trabeculae mostly on the right, atria above the valves."""
    grain, swirl = smooth_field(rng, grid, 4.0, 1.0), smooth_field(rng, grid, 14.0, 1.0)
    strands = smooth_field(rng, grid, 8.0, 1.0) ** 2 + smooth_field(rng, grid, 8.0, 1.0) ** 2
    blood = 0.80 * (1 + 0.05 * swirl + 0.03 * grain)
    muscle = 0.27 * (1 + 0.11 * swirl + 0.10 * grain)
    level = heart.below_base / heart.below_base.max()
    canvas.paint(heart.rv - 2.2, muscle)
    mesh = np.exp(-strands / 0.32**2) * (0.2 + 0.8 * soft_step(heart.rv + 8, 3.0)) * soft_step(level, 0.3)
    canvas.paint(heart.rv, blood * rng.uniform(0.92, 1.05) * (1 - 0.65 * mesh))
    canvas.paint(heart.epi, muscle)
    lining = np.exp(-strands / 0.30**2) * soft_step(heart.endo + 4, 1.5)
    canvas.paint(heart.endo, blood * rng.uniform(0.95, 1.05) * (1 - 0.5 * lining))
    rho = np.hypot(frame.septal, frame.along)
    room = np.clip((rho - heart.endo) / 18, 0.2, 1)  # in a small cavity, small papillary muscles
    for middle in (-2.25, 2.25):
        turned = frame.angle - rng.normal(middle, 0.15)
        across = rho * np.sin(turned) + 100.0 * (np.cos(turned) < 0)
        size = rng.uniform(4.0, 5.4) * soft_step(level - rng.uniform(0.2, 0.3), 0.08) * soft_step(0.85 - level, 0.08)
        blob = np.hypot(across, 0.75 * (heart.endo + rng.uniform(3.0, 6.0) * room)) - size * room + 0.6 * grain
        canvas.paint(np.maximum(blob, heart.endo), 1.1 * muscle)
    # Above the valves: atria and the roots of the great vessels, blood in thin walls.
    above = 0.7 * (heart.below_base + 1)
    canvas.paint(np.maximum(np.minimum(heart.epi + 1.5, heart.rv - 1), above), 0.40 * (1 + 0.1 * swirl), fat=0.3)
    canvas.paint(np.maximum(np.minimum(heart.epi + 4.0, np.maximum(heart.rv + 1.5, 2 - heart.epi)), above), blood)


def _coil(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    """Sensitivity of the anterior coils, and dark bands where the field is off resonance."""
    _, y, x = grid.points_mm()
    bias = np.exp(smooth_field(rng, grid, 80.0, 0.10) - rng.uniform(0.10, 0.25) * y / 112)
    field = smooth_field(rng, grid, 70.0, 1.0) + rng.normal(0, 0.6) * x / 112 + rng.normal(0, 0.6) * y / 112
    band = 1 - rng.uniform(0.1, 0.3) * np.exp(-(((np.abs(field) - rng.uniform(1.5, 2.2)) / 0.25) ** 2))
    coil: np.ndarray = bias * band
    return coil


def _rate(rng: np.random.Generator, grid: Grid, heart: Heart, per_slice: int) -> np.ndarray:
    """One rater's labels: each outline displaced by a small offset and a smooth wander, then drawn slice by slice."""
    pixel_mm2 = grid.spacing_mm[1] * grid.spacing_mm[2]

    def outline(distance: np.ndarray) -> np.ndarray:
        wander = smooth_field(rng, grid, RATER_SMOOTH_MM, RATER_WANDER_MM)
        drawn = soft_step(-(distance + rng.normal(0, RATER_OFFSET_MM) + wander), 0.3)
        # Whoever draws decides slice by slice whether it is still ventricle.
        mask: np.ndarray = (thick_slices(drawn, per_slice) > 0.5) & (thick_slices(heart.below_base, per_slice) > 0)
        return mask

    epi, endo, rv = outline(heart.epi), outline(heart.endo), outline(heart.rv)
    # A pixel of muscle all round the cavity, so that thin walls stay closed.
    cavity = endo & ndimage.binary_erosion(epi, np.ones((1, 3, 3), dtype=bool))
    cavity = _largest(cavity, SMALLEST_MM2["cavity"] / pixel_mm2)
    truth = np.zeros(epi.shape, dtype=np.uint8)
    truth[_largest(rv & ~epi, SMALLEST_MM2["rv"] / pixel_mm2)] = 1
    truth[_largest(epi, SMALLEST_MM2["epi"] / pixel_mm2)] = 2
    truth[cavity] = 3
    return truth


def _largest(mask: np.ndarray, at_least: float) -> np.ndarray:
    """Each slice's largest piece, if it has enough pixels."""
    kept = np.zeros_like(mask)
    for one, out in zip(mask, kept, strict=True):
        pieces, count = ndimage.label(one)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        if count and sizes.max() >= at_least:
            out[:] = pieces == sizes.argmax() + 1
    return kept


def _acquire(
    rng: np.random.Generator, grid: Grid, canvas: Canvas, coil: np.ndarray, gain: float, per_slice: int
) -> np.ndarray:
    """The slices as the scanner shows them, in scanner units: fat's dark rim, blur, slice profile, Rician noise."""
    rim = (4 * canvas.fat * (1 - canvas.fat)) ** 2
    signal = np.clip(canvas.signal * (1 - 0.45 * rim), 0, None) * coil
    sigma = [0.8 / side for side in grid.spacing_mm]
    thick = thick_slices(ndimage.gaussian_filter(signal, [0, sigma[1], sigma[2]]), per_slice)
    real, imaginary = rng.normal(0, 0.03 * gain, (2, *thick.shape))
    image: np.ndarray = np.hypot(thick + real, imaginary).astype(np.float32)
    return image
