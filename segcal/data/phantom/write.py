"""Generated patients as the files of the real cohorts, with their traps. Case i depends on the seed and i alone."""

__all__ = ["write_brain", "write_heart", "write_promise12", "write_prostatex"]

from pathlib import Path

import numpy as np

from segcal.data.layouts import acdc, brats, promise12, prostatex
from segcal.data.phantom.brain import brain_phantom
from segcal.data.phantom.heart import GROUPS, heart_phantom
from segcal.data.phantom.prostate import ProstatePhantom, prostate_phantom
from segcal.data.resample import resample_volume
from segcal.volume import Volume

Spacing = tuple[float, float, float]
COILS = ("endorectal", "phased-array")  # in turn, in the out-of-distribution cohort
UID_ROOT = "1.2.826.0.1.3680043.8.498"  # free for generated data (pydicom's)


def write_brain(out: Path, index: int, cases: int, size: int, seed: int) -> str:
    """BraTS17: two thirds CBICA-like, one third TCIA-like; a field of view of 192 mm."""
    site = "CBICA" if index < round(cases * 2 / 3) else "TCIA"
    pixel_mm = 192.0 / size
    phantom = brain_phantom(_rng(seed, index), site, (12, size, size), (8.0, pixel_mm, pixel_mm))
    case_id = f"Brats17_{site}_P{index:02d}_1"
    brats.write_case(out, case_id, "HGG", phantom.channels, phantom.truth, phantom.spacing_mm)
    return case_id


def write_heart(out: Path, index: int, cases: int, size: int, seed: int) -> str:
    """ACDC: the five groups in turn; end-diastole is not always frame 1, every fourth header has a false sform."""
    rng = _rng(seed, index)
    group = GROUPS[index % len(GROUPS)]
    pixel_mm = round(216.0 / size * rng.uniform(0.92, 1.08), 4)
    slice_mm = float(rng.choice([7.0, 8.0, 9.0, 10.0]))
    shape, spacing = (round(100 / slice_mm), size, size), (slice_mm, pixel_mm, pixel_mm)
    ed, es = int(rng.choice([1, 1, 1, 4])), int(rng.integers(9, 14))
    height, weight = rng.normal(170, 9), rng.normal(76, 13)
    state = int(rng.integers(2**62))
    affine = np.diag([pixel_mm, pixel_mm, slice_mm, 1.0])
    frames = {}
    for phase, number in (("ED", ed), ("ES", es)):
        phantom = heart_phantom(np.random.default_rng(state), group, phase, shape, spacing)
        frames[phase] = (number, Volume(phantom.image, spacing, affine), Volume(phantom.truth, spacing, affine))
    info = {"Group": group, "Height": f"{height:.1f}", "NbFrame": "30", "Weight": f"{weight:.1f}"}
    case_id = f"patient{index + 1:03d}"
    acdc.write_case(out / "training" / case_id, frames, info, identity_sform=index % 4 == 3)
    return case_id


def write_prostatex(out: Path, index: int, cases: int, size: int, seed: int) -> str:
    """PROSTATEx: tilted DICOM series of which one was annotated, on a finer grid along the patient's axes."""
    rng = _rng(seed, index)
    shape, spacing = _stack(rng, size)
    phantom = prostate_phantom(rng, "phased-array", shape, spacing)
    affine = _tilted(rng, np.deg2rad(rng.uniform(5, 17)), spacing, shape)
    image = Volume(phantom.image, spacing, affine)
    shifted = affine.copy()
    shifted[:3, 3] += rng.normal(0, 6, 3)
    repeated = Volume(np.abs(phantom.image[::-1] + rng.normal(0, 25, shape)), spacing, shifted)  # after a movement
    sagittal = Volume(phantom.image[:, :, ::4].transpose(2, 0, 1), (4 * spacing[2], spacing[0], spacing[1]),
                      affine[:, [1, 2, 0, 3]] @ np.diag([1.0, 1.0, 4.0, 1.0]))  # fmt: skip
    case_id = f"ProstateX-{index:04d}"
    series = {"t2_tse_sag": sagittal, "t2_tse_tra": image, "t2_tse_tra_repeat": repeated}
    uids = {name: f"{UID_ROOT}.{seed}.{index + 1}.{number}" for number, name in enumerate(series, start=1)}
    prostatex.write_case(out, case_id, series, uids, _outlined(phantom, affine), "t2_tse_tra")
    return case_id


def write_promise12(out: Path, index: int, cases: int, size: int, seed: int) -> str:
    """PROMISE12: MetaImage, matrices of several sizes, every second case with an endorectal coil (see coil.csv)."""
    rng = _rng(seed, 1000 + index)
    coil = COILS[index % 2]
    matrix = 16 * round(size * float(rng.choice([0.8, 1.0, 1.25])) / 16)
    shape, spacing = _stack(rng, matrix)
    phantom = prostate_phantom(rng, coil, shape, spacing)
    affine = _tilted(rng, np.deg2rad(rng.uniform(0, 8)), spacing, shape)
    case_id = f"Case{index:02d}"
    promise12.write_case(
        out, case_id, Volume(phantom.image, spacing, affine), Volume(phantom.truth, spacing, affine)
    )  # fmt: skip
    coils = [f"Case{number:02d},{COILS[number % 2]}" for number in range(cases)]
    (out / promise12.COIL_LIST).write_text("\n".join(["case,coil", *coils]) + "\n")  # the same whoever writes last
    return case_id


def _rng(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, index])


def _stack(rng: np.random.Generator, size: int) -> tuple[tuple[int, int, int], Spacing]:
    """A stack of 19 to 25 slices at full size, fewer and thicker ones for small matrices; a field of view of 120 mm."""
    slice_mm = float(rng.choice([3.0, 3.6, 4.0]))
    return (round(72 / slice_mm), size, size), (slice_mm, 120.0 / size, 120.0 / size)


def _tilted(rng: np.random.Generator, angle: float, spacing: Spacing, shape: tuple[int, int, int]) -> np.ndarray:
    """The RAS affine of an axial LPS stack that is tilted about the left-right axis and a little about the others."""
    small = rng.normal(0, np.deg2rad(1.0), 2)
    c, s = np.cos(angle), np.sin(angle)
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    about_y = np.array([[np.cos(small[0]), 0, np.sin(small[0])], [0, 1, 0], [-np.sin(small[0]), 0, np.cos(small[0])]])
    about_z = np.array([[np.cos(small[1]), -np.sin(small[1]), 0], [np.sin(small[1]), np.cos(small[1]), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ about_x @ about_y @ about_z @ np.diag(spacing[::-1])
    middle = affine[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    affine[:3, 3] = rng.normal((0, -20, -30), 8) - middle
    return affine


def _outlined(phantom: ProstatePhantom, affine: np.ndarray) -> Volume:
    """The rater's outline on an isotropic grid along the patient's axes that holds the gland."""
    z, y, x = phantom.outline_spacing_mm
    thick, ratio = phantom.spacing_mm[0], phantom.spacing_mm[0] / z
    fine = affine @ np.diag([1, 1, 1 / ratio, 1.0])
    fine[:3, 3] = (affine @ [0, 0, -0.5 + 0.5 / ratio, 1.0])[:3]  # both grids share their outer edges
    outline = Volume(phantom.outline_mm, (z, y, x), fine)
    at = np.argwhere(phantom.outline_mm < 2.0)[:, ::-1]
    corners_mm = at @ fine[:3, :3].T + fine[:3, 3]
    low, high = corners_mm.min(axis=0) - thick, corners_mm.max(axis=0) + thick
    side = round(max(0.5, 0.8 * x), 2)
    grid = np.diag([-side, -side, side, 1.0])
    grid[:3, 3] = [high[0], high[1], low[2]]
    counts = np.ceil((high - low) / side).astype(int)
    empty = Volume(np.zeros(counts[::-1], dtype=np.uint8), (side, side, side), grid)
    drawn = resample_volume(outline, empty, outside=100.0)
    return Volume((drawn.array < 0).astype(np.uint8), drawn.spacing_mm, drawn.affine)
