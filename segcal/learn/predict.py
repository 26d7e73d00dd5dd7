"""Class probabilities of a trained network, slab by slab; a network over volumes has one slab, the whole."""

__all__ = ["predict_slabs", "restore", "segment"]

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from segcal.learn.fit import MEMORY_FORMAT, build, channels_last
from segcal.learn.heads import log_probabilities
from segcal.learn.unet import UNet
from segcal.trial import TrialConfig
from segcal.volume import Prediction

SLAB = 8  # slices predicted at a time


def restore(config: TrialConfig, weights: Mapping[str, np.ndarray], device: torch.device) -> UNet:
    """The trained network of a checkpoint, ready to predict."""
    net = build(config)
    net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return channels_last(net, device).eval()


def predict_slabs(
    net: UNet, head: str, image: np.ndarray, device: torch.device, slab: int = SLAB
) -> Iterator[tuple[int, Prediction]]:
    """First slice and prediction of each slab of an image (C, Z, Y, X), in float32."""
    if net.dims == 3:
        log_probs = _log_probs(net, head, image[np.newaxis], device)[0]
        yield 0, Prediction(probs=np.exp(log_probs), log_probs=log_probs)
        return
    for first in range(0, image.shape[1], slab):
        slices = image[:, first : first + slab].swapaxes(0, 1)
        log_probs = np.ascontiguousarray(_log_probs(net, head, slices, device).swapaxes(0, 1))
        yield first, Prediction(probs=np.exp(log_probs), log_probs=log_probs)


def segment(net: UNet, head: str, image: np.ndarray, device: torch.device) -> np.ndarray:
    """Most probable class (Z, Y, X) uint8 of an image (C, Z, Y, X); ties take the lowest class."""
    slabs = [slab.log_probs.argmax(axis=0) for _, slab in predict_slabs(net, head, image, device)]  # type: ignore[union-attr]
    return np.concatenate(slabs).astype(np.uint8)


def _log_probs(net: UNet, head: str, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Log class probabilities (B, K, ...) of a batch (B, C, ...)."""
    with torch.inference_mode():
        batch = torch.from_numpy(np.array(images, order="C")).to(device, memory_format=MEMORY_FORMAT[net.dims])
        log_p: np.ndarray = log_probabilities(net(batch), head).contiguous().cpu().numpy()
        return log_p
