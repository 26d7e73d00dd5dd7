"""What is asked of image files beside their voxels: digests, and whether they say how the patient lies."""

__all__ = ["file_digests", "is_placed"]

import hashlib
from collections.abc import Mapping
from pathlib import Path

from segcal.data.case_files import ImageFile
from segcal.data.voxels.itk_files import header_field, voxel_file
from segcal.data.voxels.nifti import peek_nifti
from segcal.data.voxels.streams import check_path

_NIFTI = (".nii", ".nii.gz")


def file_digests(images: Mapping[str, ImageFile], root: Path, case_id: str) -> dict[str, list[dict[str, str]]]:
    """Channel -> name and sha256 of each file that it is read from, the voxel file of a header with it."""
    digests: dict[str, list[dict[str, str]]] = {}
    for channel, image in images.items():
        digests[channel] = []
        for path in image.paths:
            check_path(path, root, case_id)
            beside = voxel_file(path, root, case_id)
            for part in [path, beside] if beside else [path]:
                with part.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                digests[channel].append({"file": part.name, "sha256": digest})
    return digests


def is_placed(image: ImageFile, case_id: str) -> bool:
    """Whether a file says how the patient lies in it; where not, left and right are a convention of the reader."""
    path = image.paths[0]
    name = path.name.lower()
    if name.endswith(_NIFTI):
        return peek_nifti(path, case_id).placed
    if name.endswith((".mhd", ".mha")):
        return any(header_field(path, case_id, key) for key in ("TransformMatrix", "Orientation", "Rotation"))
    if name.endswith((".nrrd", ".nhdr")):
        return bool(header_field(path, case_id, "space directions"))
    return True  # DICOM slices without a place are a fault
