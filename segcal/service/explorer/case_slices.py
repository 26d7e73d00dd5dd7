"""Slices of a case as pictures, with what is laid over them: for browsers without WebGL, and for print."""

__all__ = [
    "AXES", "ENTROPY", "ERROR", "LAYERS", "OUTLINES", "PROBABILITY", "Look", "picture_size", "plane", "ramp",
    "render_slice",
]  # fmt: skip

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from segcal.service.explorer.case_maps import FULL, CaseMaps, error_kinds
from segcal.volume import Case

AXES = ("z", "y", "x")
LAYERS = ("probability", "entropy", "error", "none")
LONGEST = 512  # pixels of the longest side of the volume
# Nine colours from low to high: matplotlib's plasma, as in the report's figures, and viridis.
PROBABILITY = ("0d0887", "4c02a1", "7e03a8", "aa2395", "cc4778", "e66c5c", "f89540", "fdc527", "f0f921")
ENTROPY = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725")
ERROR = ("d55e00", "f0e442", "cc79a7")  # of the KINDS of errors; Okabe and Ito, as all that follows
OUTLINES = ("00e5ff", "ff5fd2", "ffffff", "7dff8a", "f0e442", "ffb14d")  # of the true structures: bright on grey
OUTLINE_PX = 2


@dataclass(frozen=True)
class Look:
    """What a picture shows."""

    channel: int = 0
    layer: str = "probability"
    structure: int = 1  # class whose probability is shown
    truth: bool = True  # outlines; with a probability that of its structure, else of all
    opacity: float = 0.6
    threshold: float = 0.05  # what does not exceed it is not painted: a probability, or nats


def plane(volume: np.ndarray, axis: str, index: int) -> np.ndarray:
    """A slice (rows, columns) of a volume (Z, Y, X), as radiologists look at it.

    z: from below, the patient's right on the left; y: from the front, upwards; x: from the left side, the front on
    the left.
    """
    at = AXES.index(axis)
    if not 0 <= index < volume.shape[at]:
        raise ValueError(f"a slice along {axis} must lie in 0..{volume.shape[at] - 1}, got {index}")
    cut: np.ndarray = np.take(volume, index, axis=at)
    turned: np.ndarray = cut if axis == "z" else cut[::-1]
    return turned


def picture_size(shape: tuple[int, ...], spacing_mm: tuple[float, float, float], axis: str) -> tuple[int, int]:
    """Height and width in pixels of slices along an axis; a millimetre is as long in all three planes."""
    sides_mm = [voxels * mm for voxels, mm in zip(shape, spacing_mm, strict=True)]
    del sides_mm[AXES.index(axis)]
    longest = max(voxels * mm for voxels, mm in zip(shape, spacing_mm, strict=True))
    height, width = (max(1, round(side * LONGEST / longest)) for side in sides_mm)
    return height, width


def ramp(colours: tuple[str, ...], levels: int = 256) -> np.ndarray:
    """(levels, 3) uint8 between colours that stand at equal distances."""
    anchors = np.array([[int(colour[i : i + 2], 16) for i in (0, 2, 4)] for colour in colours], float)
    at = np.linspace(0, len(colours) - 1, levels)
    mixed = [np.interp(at, np.arange(len(colours)), anchors[:, channel]) for channel in range(3)]
    colours_of: np.ndarray = np.rint(np.stack(mixed, axis=1)).astype(np.uint8)
    return colours_of


def render_slice(case: Case, maps: CaseMaps | None, look: Look, axis: str, index: int) -> bytes:
    """PNG of a slice: the image smoothed, maps voxel by voxel. maps None: the image and the truth only."""
    size = picture_size(case.truth.shape, case.spacing_mm, axis)
    grey = np.rint(np.clip(plane(case.image[look.channel], axis, index), 0, 1) * 255).astype(np.uint8)
    smooth = Image.fromarray(grey).resize(size[::-1], Image.Resampling.BILINEAR)
    picture = np.repeat(np.asarray(smooth, np.float32)[..., np.newaxis], 3, axis=2)
    if maps is not None and look.layer != "none":
        colours, shown = _layer(case, maps, look, axis, index)
        alpha = np.where(_enlarged(shown, size), np.float32(look.opacity), np.float32(0))[..., np.newaxis]
        picture = picture * (1 - alpha) + _enlarged(colours, size) * alpha
    if look.truth:
        truth = _enlarged(plane(case.truth, axis, index), size)
        only = {look.structure} if look.layer == "probability" else set(np.unique(truth).tolist()) - {0}
        for structure in only:
            picture[_outline(truth == structure)] = ramp((OUTLINES[(structure - 1) % len(OUTLINES)],), 1)[0]
    stream = io.BytesIO()
    Image.fromarray(np.rint(picture).astype(np.uint8)).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def _layer(case: Case, maps: CaseMaps, look: Look, axis: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours (rows, columns, 3), and where they are shown (rows, columns)."""
    if look.layer == "error":
        kinds = plane(error_kinds(maps.labels, case.truth), axis, index)
        table = np.concatenate([np.zeros((1, 3), np.uint8), *(ramp((colour,), 1) for colour in ERROR)])
        return table[kinds], kinds > 0
    entropy = look.layer == "entropy"
    stored = plane(maps.entropy if entropy else maps.probability[look.structure - 1], axis, index)
    level = look.threshold / (maps.most_entropy if entropy else 1.0)
    return ramp(ENTROPY if entropy else PROBABILITY)[stored >> 8], stored > level * FULL


def _enlarged(cut: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each pixel the voxel in which it lies."""
    rows, columns = (np.arange(pixels) * voxels // pixels for pixels, voxels in zip(size, cut.shape, strict=False))
    enlarged: np.ndarray = cut[rows[:, np.newaxis], columns]
    return enlarged


def _outline(mask: np.ndarray) -> np.ndarray:
    """The outermost pixels of a mask, OUTLINE_PX wide, on its inside."""
    inside = mask
    for _ in range(OUTLINE_PX):
        padded = np.pad(inside, 1)
        inside = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: np.ndarray = mask & ~inside
    return edge
