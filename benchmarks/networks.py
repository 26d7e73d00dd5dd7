"""The two networks that benchmarks train and ask: the paper's prostate (1 channel, 2 classes) and brain (3 and 4)."""

__all__ = ["CONFIGS", "SIDE", "flop_of", "images_of"]

from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segcal.learn.fit import build
from segcal.trial import TrialConfig

SIDE = 224

_PROSTATE = TrialConfig(
    task="prostate", label="ce", data_digest="", in_channels=1, n_classes=2, dims=2, seed=0, loss="cross_entropy",
    head="softmax", weights="inverse_frequency", class_weights=(0.6, 3.0), batch=16,
)  # fmt: skip
CONFIGS = {
    "prostate": _PROSTATE,
    "brain": replace(_PROSTATE, task="brain", in_channels=3, n_classes=4, class_weights=(0.3, 4.0, 2.0, 4.0), batch=32),
}


def images_of(config: TrialConfig, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Made-up images (N, C, Y, X) float32 and truth (N, Y, X) uint8."""
    rng = np.random.default_rng(0)
    images = rng.random((slices, config.in_channels, SIDE, SIDE), dtype=np.float32)
    return images, (images[:, 0] * config.n_classes).astype(np.uint8)


def flop_of(config: TrialConfig, training: bool) -> float:
    """Floating point operations of one slice in matrix products and convolutions."""
    net = build(config)
    image = torch.zeros(1, config.in_channels, SIDE, SIDE)
    with FlopCounterMode(display=False) as counter:
        logits = net(image) if training else _asked(net, image)
        if training:
            torch.autograd.backward(logits.sum())
    return float(counter.get_total_flops())


def _asked(net: nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = net.eval()(image)
    return logits
