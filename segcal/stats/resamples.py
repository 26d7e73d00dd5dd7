"""Resamples of patients as count matrices, and what every bootstrap reads off them."""

__all__ = ["counts_of", "defined", "multinomial_chunks", "tails_of", "two_sided_p"]

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

CHUNK = 1 << 20  # numbers in a chunk: 8 MB in float64


def multinomial_chunks(rng: np.random.Generator, n: int, n_resamples: int, columns: int = 1) -> Iterator[np.ndarray]:
    """How often each of n patients is in each resample, a chunk of resamples at a time: (chunk, n), float64.

    The chunks in a row are the matrix that one call of the generator would give, whatever their size, which is such
    that neither a chunk nor its product with `columns` columns passes 8 MB. Raises ValueError for n_resamples below
    1.
    """
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got n_resamples={n_resamples}")
    size = max(1, CHUNK // max(n, columns))
    for start in range(0, n_resamples, size):
        yield counts_of(rng, n, min(size, n_resamples - start))


def counts_of(rng: np.random.Generator, n: int, n_resamples: int) -> np.ndarray:
    """How often each of n patients (or seeds) is in each resample, (n_resamples, n) float64; the generator moves on.

    A report starts hundreds of intervals from one seed. What a generator in the same state drew lately is not drawn
    again: the counts and the state after them are the same.
    """
    state = rng.bit_generator.state
    if state["bit_generator"] != "PCG64":
        return _draw(rng, n, n_resamples).astype(np.float64)
    inner = state["state"]
    key = (inner["state"], inner["inc"], state["has_uint32"], state["uinteger"])
    counts, after = _drawn(*key, n, n_resamples)
    rng.bit_generator.state = after
    return counts.astype(np.float64)


@lru_cache(maxsize=128)
def _drawn(
    state: int, inc: int, has_uint32: int, uinteger: int, n: int, n_resamples: int
) -> tuple[np.ndarray, dict[str, Any]]:
    bits = np.random.PCG64()
    bits.state = {
        "bit_generator": "PCG64", "state": {"state": state, "inc": inc}, "has_uint32": has_uint32, "uinteger": uinteger,
    }  # fmt: skip
    counts = _draw(np.random.Generator(bits), n, n_resamples)
    return counts.astype(np.min_scalar_type(n)), dict(bits.state)


def _draw(rng: np.random.Generator, n: int, n_resamples: int) -> np.ndarray:
    """The patients of each resample, drawn one by one and counted, as a multinomial (numpy's own is slower)."""
    drawn = rng.integers(0, n, size=(n_resamples, n)) + n * np.arange(n_resamples)[:, np.newaxis]
    return np.bincount(drawn.ravel(), minlength=n * n_resamples).reshape(n_resamples, n)


def two_sided_p(at_most: np.ndarray, at_least: np.ndarray, resamples: np.ndarray | int) -> np.ndarray:
    """p = 2 min(1 + #{mean* <= 0}, 1 + #{mean* >= 0}) / (B + 1), at most 1, from both numbers and B, elementwise.

    The added one keeps p above 0 (Davison and Hinkley 1997, section 4.2).
    """
    p: np.ndarray = np.minimum(1.0, 2.0 * (1 + np.minimum(at_most, at_least)) / (np.asarray(resamples) + 1))
    return p


def defined(values: ArrayLike) -> np.ndarray:
    """The values (n,) that are not NaN, float64.

    Raises ValueError for more than one axis.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"values must be one number per patient, got shape {array.shape}")
    return array[~np.isnan(array)]


def tails_of(level: float) -> np.ndarray:
    """The two probabilities between which the central `level` lies.

    Raises ValueError for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got level={level}")
    return np.array([(1 - level) / 2, (1 + level) / 2])
