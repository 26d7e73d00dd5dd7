"""DICOM segmentations, through highdicom: `pip install "segcal[dicom-seg]"`."""

__all__ = ["read_segmentation"]

from pathlib import Path
from typing import Any

import numpy as np

from segcal.data.faults import DataFault, Truncated, Unreadable
from segcal.data.voxels.raw import Raw
from segcal.data.voxels.streams import AGAIN, check_size
from segcal.errors import needs


def read_segmentation(path: Path, case_id: str) -> Raw:
    """Segment numbers of a DICOM-SEG file on a grid that holds all its frames; 0 where no segment lies.

    Raises MissingExtra where highdicom is not installed.
    """
    with needs("dicom-seg", f"{path.name}, a DICOM segmentation,"):
        import highdicom
    try:
        segmentation = highdicom.seg.segread(path)
        _check_length(segmentation, path, case_id)
        geometry = segmentation.get_volume_geometry(allow_missing_positions=True)
        if geometry is None:
            raise ValueError("frames that lie on no grid")
        check_size(geometry.spatial_shape, 4, path.name, case_id)  # frames far apart span more than they fill
        volume = segmentation.get_volume(combine_segments=True, allow_missing_positions=True)
    except DataFault:
        raise
    except EOFError as error:
        raise Truncated(case_id, f"{path.name} must hold its frames", str(error).splitlines()[0], AGAIN) from None
    except Exception as error:  # highdicom and pydicom raise many kinds for a file that makes no sense
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise Unreadable(case_id, f"{path.name} must be a DICOM segmentation", reason, AGAIN) from None
    # highdicom's volumes are (slice, row, column) with an LPS affine of the same order
    lps = volume.affine[:, [2, 1, 0, 3]]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    array = np.asarray(volume.array).transpose(2, 1, 0).astype(np.float32)
    return Raw(array, affine, (float(spacing[0]), float(spacing[1]), float(spacing[2])))


def _check_length(segmentation: Any, path: Path, case_id: str) -> None:
    """Raise Truncated for frames that are not there; compressed ones are found when they are decoded."""
    if segmentation.file_meta.TransferSyntaxUID.is_compressed:
        return
    bits = int(segmentation.Rows) * int(segmentation.Columns) * int(segmentation.NumberOfFrames)
    expected = -(-bits * int(segmentation.BitsAllocated) // 8)
    if len(segmentation.PixelData) < expected:
        got = f"{len(segmentation.PixelData)}"
        raise Truncated(case_id, f"{path.name} must hold {expected} bytes of frames", got, AGAIN)
