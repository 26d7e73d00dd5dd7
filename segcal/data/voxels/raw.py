"""What every format's reader gives: stored voxels and where they lie."""

__all__ = ["Raw", "affine_of_lps", "place"]

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from segcal.volume import Volume


@dataclass(frozen=True)
class Raw:
    """Voxels in the file's order with their geometry, not yet checked for sense."""

    array: np.ndarray  # (X, Y, Z) or (X, Y, Z, components)
    affine: np.ndarray  # (4, 4): voxel (x, y, z) -> RAS mm
    spacing_mm: tuple[float, float, float]  # (x, y, z)


def affine_of_lps(direction: np.ndarray, spacing_mm: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """The RAS affine of a grid that is given in LPS, as ITK and DICOM do: columns of direction (3, 3) are its axes."""
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing_mm
    affine[:3, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def place(image: sitk.Image, volume: Volume) -> None:
    """Give an ITK image the geometry of a volume."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    spacing = np.asarray(volume.spacing_mm[::-1])
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
