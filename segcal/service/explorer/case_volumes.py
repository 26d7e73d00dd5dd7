"""Images and maps of a case as NIfTI, for viewers of volumes: in radiological order, small integers with a slope."""

__all__ = ["affine_of", "factors", "outline", "volume_bytes", "volume_names", "voxels_of"]

import gzip
import struct
import tempfile
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom

from segcal.data.voxels.nifti import write_nifti
from segcal.errors import UnknownName
from segcal.service.catalogue import nearest_of
from segcal.service.explorer.case_maps import FULL, CaseMaps, error_kinds
from segcal.volume import Case, Volume

FINE = 6_000_000  # voxels of a fine grid: what a laptop's graphics takes without a pause
_SLOPE = 112  # where scl_slope and scl_inter stand in NIfTI-1
_GREYS = 255


def affine_of(spacing_mm: tuple[float, float, float], fine: tuple[int, int, int] = (1, 1, 1)) -> np.ndarray:
    """Voxel (x, y, z) -> RAS mm of an array (Z, Y, X) whose axes run to the left, to the back and up (LPS).

    fine: into how many voxels each one was divided. The first undivided voxel's middle is the origin.
    """
    sides = np.divide(spacing_mm, fine)[::-1] * (-1, -1, 1)
    affine = np.diag([*sides, 1.0])
    affine[:3, 3] = sides * (1 - np.array(fine[::-1])) / 2
    return affine


def factors(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Into how many voxels a viewer's grid divides each one, along z, y and x: 3, as far as there is room.

    Outlines take the outer thirds, so that a plane through voxels' middles meets none that runs along it.
    """
    for fine in ((3, 3, 3), (3, 1, 1)):
        if np.prod(shape) * np.prod(fine) <= FINE:
            return fine
    return (1, 1, 1)


def outline(truth: np.ndarray, structure: int | None, fine: tuple[int, int, int]) -> np.ndarray:
    """The outermost fine voxels of one structure, or of each, by their class; 0 elsewhere.

    Along an axis that is not divided only what other axes need is marked: the rim of slices, not their faces.
    """
    kept = truth if structure is None else np.where(truth == structure, truth, 0)
    large = kept
    for axis, times in enumerate(fine):
        large = large.repeat(times, axis=axis)
    padded = np.pad(large, 1)
    rim = np.zeros(large.shape, bool)
    for axis in (0, 1, 2) if fine[0] > 1 else (1, 2):
        for step in (-1, 1):
            rim |= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] != large
    marked: np.ndarray = np.where(rim, large, 0).astype(np.uint8)
    return marked


def volume_names(case: Case, maps: CaseMaps | None, structures: int) -> list[str]:
    """Every volume of a case: channels from 0, on the prepared and on a fine grid; classes from 1; without maps those
    that no prediction is needed for.
    """
    names = [f"{kind}-{n}" for kind in ("image", "fine") for n in range(len(case.image))] + ["truth", "outline"]
    names += [f"outline-{n}" for n in range(1, structures + 1)]
    if maps is not None:
        names += [f"p-{n}" for n in range(1, structures + 1)] + ["entropy", "error", "labels"]
    return names


def voxels_of(name: str, case: Case, maps: CaseMaps | None) -> tuple[np.ndarray, float, tuple[int, int, int]]:
    """A volume of `volume_names` as integers, what 1 of them means, and into how many voxels each was divided.

    image and fine: [0, 1]; truth, labels and outline: classes; p-N: the probability of class N; entropy: nats;
    error: KINDS, from 1.
    """
    kind, _, number = name.partition("-")
    plain, fine, truth = (1, 1, 1), factors(case.truth.shape), np.asarray(case.truth)
    if kind in ("image", "fine"):
        image = np.clip(case.image[int(number)], 0, 1)
        if kind == "fine":
            image = np.clip(zoom(image, fine, order=1, mode="nearest", grid_mode=True), 0, 1)
        return np.rint(image * _GREYS).astype(np.uint8), 1 / _GREYS, fine if kind == "fine" else plain
    if kind == "truth":
        return truth, 1.0, plain
    if kind == "outline":
        return outline(truth, int(number) if number else None, fine), 1.0, fine
    if maps is None:
        raise ValueError(f"{name} needs a prediction, got none")
    if kind == "p":
        return maps.probability[int(number) - 1], 1 / FULL, plain
    if kind == "entropy":
        return maps.entropy, maps.most_entropy / FULL, plain
    return (maps.labels if kind == "labels" else error_kinds(maps.labels, truth)), 1.0, plain


def volume_bytes(name: str, case: Case, maps: CaseMaps | None, structures: int) -> bytes:
    """A volume as .nii.gz; the same voxels give the same bytes. Raises UnknownName for an unknown name."""
    known = volume_names(case, maps, structures)
    if name not in known:
        raise UnknownName(f"no volume named '{name}'; {nearest_of(name, known)}")
    voxels, slope, fine = voxels_of(name, case, maps)
    z, y, x = np.divide(case.spacing_mm, fine).tolist()
    volume = Volume(np.ascontiguousarray(voxels), (z, y, x), affine_of(case.spacing_mm, fine))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.nii"
        write_nifti(path, volume)
        content = bytearray(path.read_bytes())
    struct.pack_into("<2f", content, _SLOPE, slope, 0.0)  # integers take a fraction of the time of float32 on their way
    return gzip.compress(content, compresslevel=3, mtime=0)
