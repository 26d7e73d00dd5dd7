"""Made-up predictions that look like a network's: sure of the background, unsure along the structures' edges."""

__all__ = ["MadeUp"]

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segcal.volume import Case, Prediction

STEEPNESS = 1.5  # of the logits, a mm from the edge
FARTHEST_MM = 12.0  # from where on the logits fall no further
BANK = 8  # slices of noise; every member and slab takes them from another corner


@dataclass(frozen=True, eq=False)
class MadeUp:
    """Nested structures around a centre, and members that place their edges a little differently."""

    case: Case
    field_mm: np.ndarray  # (Z, Y, X) float32: distance to the centre, with bumps
    bands_mm: tuple[float, ...]  # outer radii of the structures, from the innermost
    noise: np.ndarray  # (1 + K, BANK, Y, X) float32, smooth, of unit variance

    @classmethod
    def of(
        cls, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], bands_mm: tuple[float, ...]
    ) -> "MadeUp":
        """A case of this shape, with structures out to these radii."""
        rng = np.random.default_rng(0)
        grid_mm = np.meshgrid(*[np.arange(n) * side for n, side in zip(shape, spacing_mm, strict=True)], indexing="ij")
        centre_mm = [0.47 * n * side for n, side in zip(shape, spacing_mm, strict=True)]
        distance_mm = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(grid_mm, centre_mm, strict=True)))
        field_mm = distance_mm + 3.0 * _smooth(rng, shape, spacing_mm, 8.0)
        truth = np.zeros(shape, np.uint8)
        for label, radius_mm in reversed(list(enumerate(bands_mm, start=1))):
            truth[field_mm < radius_mm] = label
        layers = (BANK, *shape[1:])
        noise = np.stack([_smooth(rng, layers, spacing_mm, 4.0) for _ in range(len(bands_mm) + 2)])
        image = np.zeros((1, *shape), np.float32)
        case = Case("made-up", image, truth, spacing_mm)
        return cls(case, field_mm.astype(np.float32), bands_mm, noise.astype(np.float32))

    def prediction(self, member: int, first: int, last: int) -> Prediction:
        """What a member says of the slices from first to last (at most BANK of them)."""
        rng = np.random.default_rng((member, first))
        away = [int(rng.integers(side)) for side in self.noise.shape[1:]]
        noise = np.roll(self.noise, away, axis=(1, 2, 3))[:, : last - first]
        field_mm = self.field_mm[first:last] + 1.0 * noise[0]
        inner = (-np.inf, *self.bands_mm[:-1])
        logits = noise[1:].copy()  # the background first
        ends = [(self.bands_mm[-1], np.inf), *zip(inner, self.bands_mm, strict=True)]
        for k, (low_mm, high_mm) in enumerate(ends):
            beyond_mm = np.maximum(np.maximum(low_mm - field_mm, field_mm - high_mm), 0)
            logits[k] -= STEEPNESS * np.minimum(beyond_mm, FARTHEST_MM)
        logits -= logits.max(axis=0)
        log_probs = logits - np.log(np.exp(logits).sum(axis=0))
        return Prediction(np.exp(log_probs), log_probs)


def _smooth(
    rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: tuple[float, ...], width_mm: float
) -> np.ndarray:
    """Smooth noise of unit variance."""
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), [width_mm / side for side in spacing_mm], mode="wrap")
    scaled: np.ndarray = smooth / smooth.std()
    return scaled
