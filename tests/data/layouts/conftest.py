"""A small ball of label in a noisy image, for layouts to write."""

import numpy as np
import pytest

from segcal.volume import Volume


def ball(seed=0, shape=(6, 20, 22), spacing=(3.0, 1.0, 1.0), labels=(1,), affine=None):
    """Image (int16) and labels (uint8): nested balls, the last label innermost."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]]
    centre = np.array(shape) / 2 + rng.uniform(-1, 1, 3) * [0, 2, 2]
    distance = np.sqrt(((z - centre[0]) * 3) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
    truth = np.zeros(shape, dtype=np.uint8)
    for index, label in enumerate(labels):
        truth[distance < 7 - 5 * index / len(labels)] = label
    image = np.rint(100 + 50 * (truth > 0) + rng.normal(0, 5, shape)).astype(np.int16)
    if affine is None:
        affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    return Volume(image, spacing, affine), Volume(truth, spacing, affine)


@pytest.fixture
def kinds():
    """Classes of the faults that a layout found."""
    return lambda found: [type(fault).__name__ for fault in found.faults]
