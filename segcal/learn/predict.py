"""Class probabilities of a trained network, slab by slab; a network over volumes has one slab, the whole."""

__all__ = ["MonteCarlo", "SLAB", "predict_slabs", "restore", "sampling", "segment"]

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segcal.learn.fit import MEMORY_FORMAT, build, channels_last
from segcal.learn.heads import log_probabilities
from segcal.learn.unet import UNet
from segcal.trial import TrialConfig
from segcal.volume import Prediction

SLAB = 8  # slices predicted at a time; always the same, as a convolution's last bits depend on it
SAMPLES_AT_ONCE = {2: 10, 3: 1}  # Monte Carlo samples of a slice, or a volume, in a mini-batch


@dataclass(frozen=True)
class MonteCarlo:
    """Monte Carlo dropout: how many samples, and the name that their random numbers follow from."""

    samples: int
    name: str  # of the network and the case: the same name gives the same masks

    def generator(self, index: int, device: torch.device) -> torch.Generator:
        """Random numbers of one slice (or volume, index 0), whatever was predicted before it."""
        digest = hashlib.sha256(f"{self.name} {index}".encode()).digest()
        return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def sampling(config: TrialConfig, network: str, case_id: str) -> MonteCarlo | None:
    """How a network (its weights' hash, or a name) predicts a case; None: deterministically."""
    return MonteCarlo(config.mc_samples, f"{network} {case_id}") if config.sampled else None


def restore(config: TrialConfig, weights: Mapping[str, np.ndarray], device: torch.device) -> UNet:
    """The trained network of a checkpoint, ready to predict."""
    net = build(config)
    net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return channels_last(net, device).eval()


def predict_slabs(
    net: UNet,
    head: str,
    image: np.ndarray,
    device: torch.device,
    monte_carlo: MonteCarlo | None = None,
    slices: slice = slice(None),
) -> Iterator[tuple[int, Prediction]]:
    """First slice and prediction of each slab of an image (C, Z, Y, X), in float32.

    With Monte Carlo dropout the prediction is the mean of the samples' probabilities and has no `log_probs`. slices:
    of 2-D networks, predict the slabs that hold these only.
    """
    depth = image.shape[1]
    starts = [0] if net.dims == 3 else range(0, depth, SLAB)
    begin, end, _ = slices.indices(depth)
    for first in starts:
        last = depth if net.dims == 3 else min(first + SLAB, depth)
        if last <= begin or first >= end:
            continue
        if monte_carlo is not None and net.dims == 2:  # slices are sampled one by one: none that nobody asked for
            first, last = max(first, begin), min(last, end)
        batch = image[np.newaxis] if net.dims == 3 else image[:, first:last].swapaxes(0, 1)
        with torch.inference_mode():
            inputs = torch.from_numpy(np.array(batch, order="C")).to(device, memory_format=MEMORY_FORMAT[net.dims])
            if monte_carlo is None:
                log_p = _volume(log_probabilities(net(inputs), head), net.dims)
                prediction = Prediction(probs=np.exp(log_p), log_probs=log_p)
            else:
                prediction = Prediction(probs=_volume(_sampled(net, head, inputs, first, monte_carlo), net.dims))
        yield first, prediction  # outside: what the caller does meanwhile is not inference


def segment(
    net: UNet, head: str, image: np.ndarray, device: torch.device, monte_carlo: MonteCarlo | None = None
) -> np.ndarray:
    """Most probable class (Z, Y, X) uint8 of an image (C, Z, Y, X); ties take the lowest class."""
    slabs = [
        (slab.probs if slab.log_probs is None else slab.log_probs).argmax(axis=0)
        for _, slab in predict_slabs(net, head, image, device, monte_carlo)
    ]
    return np.concatenate(slabs).astype(np.uint8)


def _sampled(net: UNet, head: str, inputs: Tensor, first: int, monte_carlo: MonteCarlo) -> Tensor:
    """Mean probabilities over Monte Carlo samples (B, K, ...); what precedes the first dropout is computed once."""
    prefix = net.eval().prefix(inputs)
    layout = MEMORY_FORMAT[net.dims]
    means = []
    for item in range(len(inputs)):
        total = torch.zeros((), dtype=torch.float64, device=inputs.device)
        with net.sampling(monte_carlo.generator(first + item, inputs.device)):
            for done in range(0, monte_carlo.samples, SAMPLES_AT_ONCE[net.dims]):
                n = min(SAMPLES_AT_ONCE[net.dims], monte_carlo.samples - done)
                mine = [
                    part[item : item + 1].expand(n, *part.shape[1:]).contiguous(memory_format=layout) for part in prefix
                ]
                total = total + log_probabilities(net.finish(mine), head).exp().sum(dim=0, dtype=torch.float64)
        means.append(total / monte_carlo.samples)
    return torch.stack(means).float()


def _volume(batch: Tensor, dims: int) -> np.ndarray:
    """(K, Z, Y, X) of a batch of slices (B, K, Y, X), or of a volume (1, K, Z, Y, X)."""
    volume = batch[0] if dims == 3 else batch.swapaxes(0, 1)
    array: np.ndarray = volume.contiguous().cpu().numpy()
    return array
