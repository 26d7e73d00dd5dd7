"""Axial T2-weighted prostate MRI, generated: it shows how methods behave and is never to be called realistic MRI.

Anatomy is laid out in mm about the gland's middle, z from the apex to the base, y from anterior to posterior, x from
the patient's right to the left, in coordinates that a smooth field warps. Distances are negative inside a structure;
tissues are painted one over the other as fractions of the signal range, on thin slices averaged to thick ones last.
The endorectal coil is the shifted domain: a balloon flattens the gland and the signal falls off away from it. The
label is one rater's: his outline wanders about the true one, which leaves uncertainty no model can remove.
"""

__all__ = ["COILS", "ProstatePhantom", "prostate_phantom"]

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segcal.data.phantom.fields import Grid, smooth_field, soft_step, thick_slices, thin_grid
from segcal.data.phantom.pelvis import Pelvis, pelvis
from segcal.data.phantom.pelvis_tissue import tissue

COILS = ("phased-array", "endorectal")
NOISE, COIL_NOISE = 0.03, 1.6
RATER_OFFSET_MM, RATER_WANDER_MM, RATER_SMOOTH_MM = 0.25, 0.45, 6.0
CRUMB_MM2 = 40.0  # the smallest outline a rater draws in a slice


@dataclass(frozen=True)
class ProstatePhantom:
    """An image (Z, Y, X) in scanner units, one rater's whole gland in it (0, 1), and the outline he drew.

    outline_mm (Zf, Y, X) is the rater's distance, negative inside, on thinner slices that fill the same box.
    """

    image: np.ndarray
    truth: np.ndarray
    spacing_mm: tuple[float, float, float]
    outline_mm: np.ndarray
    outline_spacing_mm: tuple[float, float, float]


def prostate_phantom(
    rng: np.random.Generator,
    coil: str,
    shape: tuple[int, int, int] = (12, 112, 112),
    spacing_mm: tuple[float, float, float] = (4.0, 1.0, 1.0),
) -> ProstatePhantom:
    """One patient imaged with a coil: phased-array, or endorectal with its balloon, steep sensitivity and noise.

    shape and spacing_mm (z, y, x). The field of view is centred on the gland, give or take a few mm; a stack too low
    for the gland makes it lower and broader. The same state of the generator gives the same patient, bit for bit.
    """
    if coil not in COILS:
        raise ValueError(f"coil must be one of {', '.join(COILS)}, got coil={coil!r}")
    fine = thin_grid(shape, spacing_mm, np.zeros(3))
    per_slice = fine.shape[0] // shape[0]
    patient = pelvis(rng, fine, coil, spacing_mm[0])
    outline = _rate(rng, fine, patient, spacing_mm[0])
    outline = _without_crumbs(outline, fine, per_slice)
    truth = _drawn(outline, per_slice).astype(np.uint8)
    signal = tissue(rng, fine, patient, coil)
    image = _acquire(rng, fine, patient, signal, coil, per_slice)
    return ProstatePhantom(image, truth, spacing_mm, outline, fine.spacing_mm)


def _rate(rng: np.random.Generator, grid: Grid, pelvis: Pelvis, slice_mm: float) -> np.ndarray:
    """One rater's outline in mm: displaced by a small offset and a smooth wander, twice as wide at apex and base."""
    ends = 1 + soft_step(np.abs(pelvis.relative[0]) - 0.75, 0.15)
    wander = smooth_field(rng, grid, RATER_SMOOTH_MM, RATER_WANDER_MM) * ends
    outline = pelvis.gland + rng.normal(0, RATER_OFFSET_MM) + wander
    # Where the surface lies flat in the slice, a hand draws a rounder line than the surface has.
    sigma = [0.0, 3.0 / grid.spacing_mm[1], 3.0 / grid.spacing_mm[2]]
    rounder = ndimage.gaussian_filter(outline, sigma)
    outline += (ends - 1) * (rounder - outline)
    # No rater draws on the stack's first and last slice, nor at the edge of the picture.
    inset = np.abs(grid.points_mm()) + np.array([slice_mm, 3.0, 3.0])[:, None, None, None]
    edge = [n * side / 2 for n, side in zip(grid.shape, grid.spacing_mm, strict=True)]
    beyond = np.max([inset[axis] - edge[axis] for axis in range(3)], axis=0)
    drawn: np.ndarray = np.maximum(outline, beyond).astype(np.float32)
    return drawn


def _drawn(outline: np.ndarray, per_slice: int) -> np.ndarray:
    """The label on thick slices that an outline on thin ones makes."""
    label: np.ndarray = thick_slices(soft_step(-outline, 0.3), per_slice) > 0.5
    return label


def _without_crumbs(outline: np.ndarray, grid: Grid, per_slice: int) -> np.ndarray:
    """The outline without what a rater would not draw: tiny pieces, and pieces of a slice beside its largest one."""
    least = CRUMB_MM2 / (grid.spacing_mm[1] * grid.spacing_mm[2])
    label = _drawn(outline, per_slice)
    crumbs = np.zeros_like(label)
    for index, part in enumerate(label):
        pieces, count = ndimage.label(part)
        if count > 0:
            sizes = np.bincount(pieces[part])
            crumbs[index] = part & ((pieces != sizes.argmax()) | (sizes.max() < least))
    cleaned: np.ndarray = np.where(np.repeat(crumbs, per_slice, axis=0), np.maximum(outline, 0.6), outline)
    return cleaned


def _acquire(
    rng: np.random.Generator, grid: Grid, pelvis: Pelvis, signal: np.ndarray, coil: str, per_slice: int
) -> np.ndarray:
    """The image as the coil and the scanner show it, in scanner units."""
    signal = signal * (1 + smooth_field(rng, grid, 2.5, 0.05))
    blur_mm = (0.3, *([rng.uniform(0.6, 0.8)] * 2))
    sigma = [mm / side for mm, side in zip(blur_mm, grid.spacing_mm, strict=True)]
    sensitivity = np.exp(smooth_field(rng, grid, 70.0, 0.12))
    noise, scale = NOISE, rng.uniform(550, 900)
    if coil == "endorectal":
        near = np.clip(pelvis.rectum, 0, None)
        sensitivity *= 0.28 + 3.2 / (1 + (near / 11) ** 1.8)
        noise, scale = NOISE * COIL_NOISE, rng.uniform(280, 420)
    seen = thick_slices(ndimage.gaussian_filter(signal, sigma) * sensitivity, per_slice)
    real, imaginary = rng.normal(0, noise, (2, *seen.shape))
    image: np.ndarray = (np.hypot(np.clip(seen, 0, None) + real, imaginary) * scale).astype(np.float32)
    return image
