"""Class probabilities of a trained network, slab by slab."""

__all__ = ["predict_slabs", "restore", "segment"]

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from segcal.learn.fit import build, channels_last
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
    for first in range(0, image.shape[1], slab):
        slices = np.ascontiguousarray(image[:, first : first + slab].swapaxes(0, 1))
        with torch.inference_mode():
            batch = torch.from_numpy(slices).to(device, memory_format=torch.channels_last)
            log_p = log_probabilities(net(batch), head)
            log_probs = log_p.swapaxes(0, 1).contiguous().cpu().numpy()
        yield first, Prediction(probs=np.exp(log_probs), log_probs=log_probs)


def segment(net: UNet, head: str, image: np.ndarray, device: torch.device) -> np.ndarray:
    """Most probable class (Z, Y, X) uint8 of an image (C, Z, Y, X); ties take the lowest class."""
    slabs = [slab.log_probs.argmax(axis=0) for _, slab in predict_slabs(net, head, image, device)]  # type: ignore[union-attr]
    return np.concatenate(slabs).astype(np.uint8)
