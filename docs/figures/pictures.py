"""What becomes of a picture before it stands in the documentation: small, and the same for the same pixels."""

__all__ = ["MAX_BYTES", "save", "stacked"]

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

MAX_BYTES = 400_000  # a page with several of them must not be slow
COLOURS = 256
JPEG_QUALITY = 85


def save(picture: Image.Image, path: Path, width: int | None = None) -> int:
    """Write a PNG or a JPEG, `width` pixels wide where it is wider; returns its bytes.

    A PNG that is too large gets a palette, which makes steps of gradients. Raises ValueError where that is too large.
    """
    picture = picture.convert("RGB")
    if width and picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    if path.suffix == ".png":
        picture.save(path, optimize=True)
        if path.stat().st_size > MAX_BYTES:
            picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    else:
        picture.save(path, quality=JPEG_QUALITY, optimize=True)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path.name} must be at most {MAX_BYTES} bytes, got {size}; show less, or make it smaller")
    return size


def stacked(paths: Sequence[Path]) -> Image.Image:
    """Pictures of one width below each other."""
    pictures = [Image.open(path).convert("RGB") for path in paths]
    whole = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)))
    top = 0
    for one in pictures:
        whole.paste(one, (0, top))
        top += one.height
    return whole
