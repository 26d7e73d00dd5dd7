"""From the prepared grid back to the grid that a case was acquired on: uncrop, resample, turn back."""

__all__ = ["labels_to_native", "probs_to_native"]

from typing import Any

import numpy as np

from segcal.data.orient import turn_back
from segcal.data.resample import Spacing, resample, resample_labels, spacing_of, uncrop
from segcal.volume import Volume


def labels_to_native(classes: np.ndarray, n_classes: int, entry: dict[str, Any], how: str = "linear") -> Volume:
    """Classes (Z, Y, X) of a prepared case in its native grid, uint8; beyond the crop is background.

    entry: the case's entry in the manifest. how: `linear` (one-hot, linear, argmax) or `nearest`.
    """
    whole = _uncropped(classes, entry)
    shape, spacing_mm = _turned(entry)
    back = resample_labels(whole, n_classes, spacing_of(entry["spacing_mm"]), spacing_mm, how, shape)
    return _placed(turn_back(back, entry["native"]["axes"]), entry)


def probs_to_native(probs: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    """Class probabilities (K, Z, Y, X) of a prepared case in its native grid, float32; beyond the crop is background.

    Linear interpolation keeps the sum over the classes at 1. An empty array (K = 0) stays empty.
    """
    native = np.zeros((len(probs), *entry["native"]["shape"]), dtype=np.float32)
    shape, spacing_mm = _turned(entry)
    for index, p in enumerate(probs):  # one at a time: a native grid may be many times the prepared one
        background = np.float32(index == 0)
        whole = _uncropped(p - background, entry) + background
        back = resample(whole, spacing_of(entry["spacing_mm"]), spacing_mm, shape)
        native[index] = turn_back(back, entry["native"]["axes"])
    return native


def _uncropped(array: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    offset = tuple(entry["crop_offset"])
    return uncrop(array, tuple(entry["resampled_shape"])[-len(offset) :], offset)


def _turned(entry: dict[str, Any]) -> tuple[tuple[int, ...], Spacing]:
    return tuple(entry["native"]["turned_shape"]), spacing_of(entry["native"]["turned_spacing_mm"])


def _placed(array: np.ndarray, entry: dict[str, Any]) -> Volume:
    native = entry["native"]
    return Volume(array, spacing_of(native["spacing_mm"]), np.array(native["affine"]))
