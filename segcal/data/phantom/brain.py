"""Brain tumours in four MRI channels, generated: they show how methods behave and are never to be called realistic MRI.

Anatomy comes from the grey- and white-matter maps of the MNI152 template (Fonov et al. 2011, as nilearn ships it),
warped and pushed aside by a nested tumour: necrosis, an enhancing rim, edema along the white matter. Signals are
fractions of each channel's range. Everything is laid out in mm on a grid with thin slices and averaged to thick ones
last. The label is one rater's: his outline wanders about the true one, which leaves uncertainty no model can remove.
"""

__all__ = ["BrainPhantom", "brain_phantom"]

import functools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segcal.data.phantom.fields import Grid, smooth_field, soft_step, thick_slices, thin_grid

SITES = ("CBICA", "TCIA")
CHANNELS = ("t1", "t1ce", "t2", "flair")
CENTRE_MM = np.array([8.0, 18.0, 0.0])  # of the template's brain, (z, y, x) in LPS

# Signal of each tissue in t1, t1ce, t2, flair
SIGNAL = {
    "csf": (0.20, 0.22, 0.92, 0.14),
    "grey": (0.48, 0.50, 0.58, 0.48),
    "white": (0.66, 0.62, 0.43, 0.42),
    "edema": (0.46, 0.50, 0.80, 0.80),
    "rim": (0.50, 0.86, 0.56, 0.57),
    "core": (0.32, 0.40, 0.84, 0.46),
    "vessel": (0.50, 0.90, 0.45, 0.42),
}
RATER_OFFSET_MM, RATER_WANDER_MM, RATER_SMOOTH_MM = 0.25, 0.45, 6.0


@dataclass(frozen=True)
class BrainPhantom:
    """Skull-stripped channels (Z, Y, X) in scanner units, 0 outside the brain; one rater's BraTS labels 0, 1, 2, 4."""

    channels: dict[str, np.ndarray]
    truth: np.ndarray
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Tumour:
    """Signed distances in mm (negative inside) on the fine grid; nested, so the necrosis lies in the core."""

    core: np.ndarray
    necrosis: np.ndarray
    edema: np.ndarray


def brain_phantom(
    rng: np.random.Generator,
    site: str,
    shape: tuple[int, int, int] = (12, 96, 96),
    spacing_mm: tuple[float, float, float] = (8.0, 2.0, 2.0),
) -> BrainPhantom:
    """One patient of a site: CBICA, or TCIA with thicker slices, other contrast, more bias and noise.

    shape and spacing_mm (z, y, x). The field of view is centred on the brain in-plane and on the tumour along z. The
    same state of the generator gives the same patient, bit for bit.
    """
    if site not in SITES:
        raise ValueError(f"site must be one of {', '.join(SITES)}, got site={site!r}")
    centre_mm = _tumour_centre(rng, spacing_mm[0] * shape[0])
    view_mm = np.array([_view_centre(rng, centre_mm[0]), CENTRE_MM[1], CENTRE_MM[2]])
    fine = thin_grid(shape, spacing_mm, view_mm)
    per_slice = fine.shape[0] // shape[0]
    tissue = _anatomy(rng, fine, centre_mm)
    tumour = _tumour(rng, fine, centre_mm, tissue)
    truth = _rate(rng, fine, tumour, tissue["brain"], per_slice)
    channels = _acquire(rng, fine, tumour, tissue, site, per_slice)
    return BrainPhantom(channels, truth, spacing_mm)


@functools.cache
def _template() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Grey matter, white matter and brain on the template's own grid, and its affine (voxel -> RAS mm)."""
    from nilearn import datasets  # slow to import, needed once

    grey = datasets.load_mni152_gm_template(resolution=2)
    white = datasets.load_mni152_wm_template(resolution=2)
    brain = datasets.load_mni152_brain_mask(resolution=2)
    maps = {
        "grey": np.asarray(grey.get_fdata(), dtype=np.float32),
        "white": np.asarray(white.get_fdata(), dtype=np.float32),
        "brain": ndimage.gaussian_filter(np.asarray(brain.get_fdata(), dtype=np.float32), 0.7),
    }
    return maps, np.asarray(grey.affine)


def _sample(name: str, points_mm: np.ndarray) -> np.ndarray:
    """A template map at points (3, ...) in LPS mm (z, y, x)."""
    maps, affine = _template()
    inverse = np.linalg.inv(affine)
    z, y, x = points_mm
    ras = (-x, -y, z)
    voxel = [sum(inverse[row, col] * ras[col] for col in range(3)) + inverse[row, 3] for row in range(3)]
    sampled: np.ndarray = ndimage.map_coordinates(maps[name], voxel, order=1, mode="constant")
    return sampled


def _tumour_centre(rng: np.random.Generator, height_mm: float) -> np.ndarray:
    """A point (z, y, x) in deep white matter, off the midline."""
    while True:
        side = rng.choice((-1.0, 1.0))
        point = np.array([rng.uniform(2, 45), rng.uniform(-38, 72), side * rng.uniform(17, 44)])
        around = point[:, None] + rng.normal(0, 5, (3, 64))
        if _sample("white", around).mean() > 0.45 and _sample("brain", around * 1.12).min() > 0.9:
            return point


def _view_centre(rng: np.random.Generator, tumour_z_mm: float) -> float:
    return float(0.6 * tumour_z_mm + 0.4 * CENTRE_MM[0] + rng.uniform(-8, 8))


def _anatomy(rng: np.random.Generator, grid: Grid, centre_mm: np.ndarray) -> dict[str, np.ndarray]:
    """Shares of grey matter, white matter and CSF, and the brain mask, of a warped head with a mass in it."""
    points = grid.points_mm()
    outward = points - centre_mm[:, None, None, None]
    distance = np.sqrt((outward**2).sum(axis=0)) + 1e-6
    push_mm = rng.uniform(3, 8) * np.exp(-((distance / rng.uniform(32, 45)) ** 2)) * np.minimum(distance / 12, 1)
    scale = rng.normal(1, 0.035, 3)
    angle = np.deg2rad(rng.normal(0, 4))
    z, y, x = (points - outward / distance * push_mm) - CENTRE_MM[:, None, None, None]
    y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    warped = np.stack([z, y, x]) * scale[:, None, None, None] + CENTRE_MM[:, None, None, None]
    warped += [smooth_field(rng, grid, 30.0, 2.4) for _ in range(3)]
    grey, white = _sample("grey", warped), _sample("white", warped)
    brain = _sample("brain", warped)
    return {
        "grey": grey,
        "white": white,
        "csf": np.clip(brain - grey - white, 0, 1),
        "brain": brain > 0.5,
        "deep": distance,
    }


def _tumour(rng: np.random.Generator, grid: Grid, centre_mm: np.ndarray, tissue: dict[str, np.ndarray]) -> Tumour:
    """Irregular nested shapes: a lobed core, a rim of uneven thickness, edema that follows the white matter."""
    whole_ml = float(np.clip(rng.lognormal(np.log(62), 0.45), 18, 150))
    core_ml = whole_ml * rng.uniform(0.28, 0.45)
    radius = (3 * core_ml * 1000 / (4 * np.pi)) ** (1 / 3)
    offset = (grid.points_mm() - centre_mm[:, None, None, None]) / rng.lognormal(0, 0.14, 3)[:, None, None, None]
    core = np.sqrt((offset**2).sum(axis=0)) + smooth_field(rng, grid, 0.7 * radius, 0.16 * radius)
    core += smooth_field(rng, grid, 5.0, 0.8) + 6.0 * soft_step(0.4 - tissue["white"] - tissue["grey"], 0.1)
    core -= _level(core, tissue["brain"], core_ml, grid)
    thickness = rng.uniform(0.22, 0.36) * radius * np.exp(smooth_field(rng, grid, 9.0, 0.35))
    # Where this field is high the rim does not enhance: broken rings, as gliomas have them.
    broken = soft_step(smooth_field(rng, grid, 12.0, 1.0) - rng.uniform(1.1, 1.9), 0.15)
    necrosis = core + thickness * (1 - broken)
    follows = 0.35 + 0.65 * ndimage.gaussian_filter(tissue["white"], [2.0 / side for side in grid.spacing_mm])
    edema = (core + smooth_field(rng, grid, 10.0, 3.5)) / follows + 30.0 * (tissue["csf"] > 0.6)
    edema = np.minimum((edema - _level(edema, tissue["brain"], whole_ml, grid)) * follows, core)
    return Tumour(core, necrosis, edema)


def _level(field: np.ndarray, inside: np.ndarray, volume_ml: float, grid: Grid) -> float:
    """The level below which the field holds the volume, within the mask."""
    voxels = np.sort(field[inside])
    wanted = int(volume_ml * 1000 / np.prod(grid.spacing_mm))
    return float(voxels[min(wanted, voxels.size - 1)])


def _rate(rng: np.random.Generator, grid: Grid, tumour: Tumour, brain: np.ndarray, per_slice: int) -> np.ndarray:
    """One rater's labels: each outline displaced by a small offset and a smooth wander, then drawn slice by slice."""

    def outline(distance: np.ndarray) -> np.ndarray:
        wander = smooth_field(rng, grid, RATER_SMOOTH_MM, RATER_WANDER_MM)
        drawn = soft_step(-(distance + rng.normal(0, RATER_OFFSET_MM) + wander), 0.3)
        return thick_slices(drawn, per_slice) > 0.5

    whole, core, necrosis = outline(tumour.edema), outline(tumour.core), outline(tumour.necrosis)
    truth = np.zeros(whole.shape, dtype=np.uint8)
    truth[whole | core] = 2
    truth[core] = 4
    truth[core & necrosis] = 1
    truth[thick_slices(brain, per_slice) <= 0.5] = 0
    return truth


def _acquire(
    rng: np.random.Generator, grid: Grid, tumour: Tumour, tissue: dict[str, np.ndarray], site: str, per_slice: int
) -> dict[str, np.ndarray]:
    """The channels as the site's scanner shows them."""
    shifted = site == "TCIA"
    shares = _shares(rng, grid, tumour, tissue)
    mask = thick_slices(tissue["brain"], per_slice) > 0.5
    heterogeneity = smooth_field(rng, grid, 4.5, 1.0)
    blur_mm = (rng.uniform(2.0, 5.0), rng.uniform(0.8, 1.6)) if shifted else (0.8, 0.5)
    noise = 0.03 * (rng.uniform(1.3, 2.5) if shifted else 1.0)
    bias_sd = 0.10 * (2.0 if shifted else 1.0)
    channels = {}
    for index, name in enumerate(CHANNELS):
        signal = np.zeros(grid.shape)
        for kind, share in shares.items():
            level = SIGNAL[kind][index] * np.exp(rng.normal(0, 0.05))
            rough = 0.10 if kind in ("edema", "rim", "core") else 0.04
            signal += share * level * (1 + rough * heterogeneity)
        signal *= 1 + smooth_field(rng, grid, 3.0, 0.035)
        sigma = [mm / side for mm, side in zip((blur_mm[0], blur_mm[1], blur_mm[1]), grid.spacing_mm, strict=True)]
        thick = thick_slices(ndimage.gaussian_filter(signal, sigma), per_slice)
        bias = np.exp(smooth_field(rng, grid, 60.0, bias_sd)[::per_slice])
        gamma = rng.uniform(0.8, 1.25) if shifted else rng.uniform(0.95, 1.05)
        seen = np.clip(thick * bias, 0, None) ** gamma
        real, imaginary = rng.normal(0, noise, (2, *seen.shape))
        rician = np.hypot(seen + real, imaginary)
        channels[name] = np.where(mask, np.maximum(rician * rng.uniform(500, 1000), 1.0), 0.0).astype(np.float32)
    return channels


def _shares(
    rng: np.random.Generator, grid: Grid, tumour: Tumour, tissue: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """How much of each voxel is which tissue, with soft boundaries; they add up to 1 inside the brain."""
    edema = soft_step(-tumour.edema, 1.4) * (1 - 0.35 * tissue["grey"])
    core = soft_step(-tumour.core, 0.7)
    necrosis = soft_step(-tumour.necrosis, 0.9) * core
    healthy = (1 - core) * (1 - edema)
    # Where two smooth fields vanish together there is a curve: vessels, mostly in and about the cortex.
    first, second = smooth_field(rng, grid, 14.0, 1.0), smooth_field(rng, grid, 14.0, 1.0)
    vessel = np.exp(-((first**2 + second**2) / 0.09**2)) * np.clip(tissue["grey"] + tissue["csf"], 0, 1)
    plexus = tissue["csf"] * (tissue["deep"] < 70) * soft_step(smooth_field(rng, grid, 5.0, 1.0) - 1.6, 0.2)
    bright = np.clip(vessel + 0.5 * plexus, 0, 1) * healthy
    rest = healthy - bright
    total = tissue["grey"] + tissue["white"] + tissue["csf"] + 1e-6
    return {
        "csf": rest * tissue["csf"] / total,
        "grey": rest * tissue["grey"] / total,
        "white": rest * tissue["white"] / total,
        "edema": (1 - core) * edema,
        "rim": core - necrosis,
        "core": necrosis,
        "vessel": bright,
    }
