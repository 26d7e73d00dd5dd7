"""Class probabilities of a trained network, slab by slab; a network over volumes has one slab, the whole."""

__all__ = ["MonteCarlo", "SLAB", "predict_slabs", "predict_together", "restore", "sampling", "segment", "slabs_of"]

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segcal.learn.batches import laid_out
from segcal.learn.fit import build, channels_last
from segcal.learn.fold import folded
from segcal.learn.heads import log_probabilities
from segcal.learn.unet import UNet
from segcal.trial import TrialConfig
from segcal.volume import Prediction

SLAB = 8  # slices predicted at a time; always the same, as a convolution's last bits depend on it
SAMPLES_AT_ONCE = {2: 10, 3: 1}  # Monte Carlo samples of a slice, or a volume, in a mini-batch
TOGETHER = 16  # networks whose maps of a slab wait on a GPU; a CPU hands each over as it is made


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
    """The trained network of a checkpoint, ready to predict and nothing else."""
    net = build(config)
    net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return channels_last(folded(net), device)


def slabs_of(
    image: np.ndarray, dims: int, device: torch.device, slices: slice = slice(None), exactly: bool = False
) -> Iterator[tuple[int, Tensor]]:
    """First slice of each slab of an image (C, Z, Y, X), and the slab as networks take it, on the device.

    slices: of 2-D networks, the slabs that hold these only; `exactly`, no slice besides.
    """
    depth = image.shape[1]
    begin, end, _ = slices.indices(depth)
    for first in [0] if dims == 3 else range(0, depth, SLAB):
        last = depth if dims == 3 else min(first + SLAB, depth)
        if last <= begin or first >= end:
            continue
        if exactly and dims == 2:
            first, last = max(first, begin), min(last, end)
        part = image[:, first:last]
        slab = torch.from_numpy(part if part.flags.writeable else part.copy())  # torch shares only what may be written
        slab = slab[None] if dims == 3 else slab.swapaxes(0, 1)
        yield first, laid_out(slab.to(device))


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
    sampled = monte_carlo is not None  # slices are sampled one by one: none that nobody asked for
    for first, slab in slabs_of(image, net.dims, device, slices, exactly=sampled):
        yield first, next(predict_together([net], head, slab, first, [monte_carlo]))


def predict_together(
    nets: Sequence[UNet], head: str, slab: Tensor, first: int, monte_carlo: Sequence[MonteCarlo | None]
) -> Iterator[Prediction]:
    """What each network (with its samples) says of a slab that lies on their device, one after another.

    A GPU is given many networks' work at once, and their maps come back together.
    """
    at_once = TOGETHER if slab.is_cuda and slab.dim() == 4 else 1  # of volumes, one is enough
    for start in range(0, len(nets), at_once):
        some = range(start, min(start + at_once, len(nets)))
        # Without TF32, in which torch lets a GPU convolve float32: 10 bits of mantissa.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            maps = [_maps(nets[member], head, slab, first, monte_carlo[member]) for member in some]
            arrays = torch.stack(maps).cpu().numpy() if len(maps) > 1 else [maps[0].cpu().numpy()]
        for member, array in zip(some, arrays, strict=True):  # outside: what the caller does meanwhile is not inference
            if monte_carlo[member] is None:
                yield Prediction(probs=np.exp(array), log_probs=array)
            else:
                yield Prediction(probs=array)


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
    merged = net.merged(prefix)
    means = []
    for item in range(len(inputs)):
        total = torch.zeros((), dtype=torch.float64, device=inputs.device)
        with net.sampling(monte_carlo.generator(first + item, inputs.device)):
            for done in range(0, monte_carlo.samples, SAMPLES_AT_ONCE[net.dims]):
                n = min(SAMPLES_AT_ONCE[net.dims], monte_carlo.samples - done)
                *skips, last = (part[item : item + 1] for part in prefix)
                last = laid_out(last.expand(n, *last.shape[1:]))
                logits = net.finish([*skips, last], [part[item : item + 1] for part in merged])
                total = total + log_probabilities(logits, head).exp().sum(dim=0, dtype=torch.float64)
        means.append(total / monte_carlo.samples)
    return torch.stack(means).float()


def _maps(net: UNet, head: str, slab: Tensor, first: int, monte_carlo: MonteCarlo | None) -> Tensor:
    """(K, Z, Y, X) of a slab: log probabilities, or with Monte Carlo dropout the mean probabilities."""
    batch = log_probabilities(net(slab), head) if monte_carlo is None else _sampled(net, head, slab, first, monte_carlo)
    return (batch[0] if net.dims == 3 else batch.swapaxes(0, 1)).contiguous()
