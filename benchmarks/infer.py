"""Class probabilities of a volume: segcal's predictor against the plain loop, on one core, or on a GPU.

Both go from an image in memory to probabilities in memory, in float32. Needs torch and numpy only.
"""

__all__ = ["measure", "way"]

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.machine import describe
from benchmarks.networks import CONFIGS, SIDE, flop_of, images_of
from benchmarks.processes import opened
from benchmarks.table import Row
from benchmarks.timing import interleaved, one_core
from segcal.learn.fit import build, channels_last
from segcal.learn.fold import folded
from segcal.learn.predict import SLAB, predict_together, slabs_of
from segcal.learn.unet import UNet

SLICES = 16
MEMBERS = {"cpu": 2, "cuda": 50}
GOAL = "1.5x"


def measure() -> list[Row]:
    """All rows."""
    return [_row(task) for task in CONFIGS]


def way(way: str, task: str) -> Callable[[], list[np.ndarray]]:
    """What predicts with all members, (K, Z, Y, X) of the last slab for each."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = CONFIGS[task]
    image = np.ascontiguousarray(images_of(config, SLICES)[0].swapaxes(0, 1))  # (C, Z, Y, X)
    nets = [_used(build(config)).to(device) for _ in range(MEMBERS[device.type])]
    if way == "plain":
        return lambda: _plain(nets, image, device)
    ready = [channels_last(folded(net), device) for net in nets]
    return lambda: _ours(ready, image, device)


def _row(task: str) -> Row:
    with one_core():
        ours, plain = way("ours", task)(), way("plain", task)()
    difference = max(float(np.abs(a - b).max()) for a, b in zip(ours, plain, strict=True))
    with opened(["ours", "plain"], "benchmarks.infer:way", {"task": task}) as ways:
        seconds = interleaved(ways)
    gpu, config = describe().gpu, CONFIGS[task]
    members = MEMBERS["cuda" if gpu else "cpu"]
    count = members * SLICES
    limit_s = count * flop_of(config, training=False) / describe().gemm_gflop_per_s["fp32"] / 1e9
    speeds = f"{count / seconds['ours']:.0f} slices/s, plain {count / seconds['plain']:.0f}"
    what = f"infer {task}, {members} members, {config.in_channels}x{SLICES}x{SIDE}x{SIDE}, a {'GPU' if gpu else 'core'}"
    note = f"{speeds}; probabilities within {difference:.0e}; limit: GEMM in fp32"
    return Row(what, seconds["ours"], seconds["plain"], limit_s, GOAL, note)


def _ours(nets: list[UNet], image: np.ndarray, device: torch.device) -> list[np.ndarray]:
    """All members a slab, as ensembles are scored; of the maps only the last slab's are kept."""
    for first, slab in slabs_of(image, 2, device):
        probs = [p.probs for p in predict_together(nets, "softmax", slab, first, [None] * len(nets))]
    return probs


def _plain(nets: list[UNet], image: np.ndarray, device: torch.device) -> list[np.ndarray]:
    """A member after the other, a batch of as many slices at a time."""
    last = []
    for net in nets:
        for start in range(0, image.shape[1], SLAB):
            batch = torch.from_numpy(image[:, start : start + SLAB].swapaxes(0, 1).copy())
            with torch.no_grad():
                probs = torch.softmax(net(batch.to(device)), dim=1).cpu().numpy()
        last.append(probs.swapaxes(0, 1))
    return last


def _used(net: UNet) -> UNet:
    """With the statistics that batch norms have after some training."""
    generator = torch.Generator().manual_seed(0)
    for name, value in net.named_buffers():
        if value.is_floating_point():
            value.uniform_(0.5, 2.0, generator=generator) if "var" in name else value.normal_(generator=generator)
    return net.eval()
