"""Monte Carlo dropout: the part before the first dropout computed once, samples in mini-batches, against plain passes.

Both draw as many samples with masks of their own. A second comparison is with whole passes of our own predictor, so
that what sharing the prefix brings stands alone. Needs torch and numpy only.
"""

__all__ = ["measure", "way"]

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from benchmarks.machine import describe
from benchmarks.networks import CONFIGS, SIDE, flop_of, images_of
from benchmarks.processes import opened
from benchmarks.table import Row
from benchmarks.timing import interleaved
from segcal.learn.batches import laid_out
from segcal.learn.fit import build, channels_last
from segcal.learn.fold import folded
from segcal.learn.predict import MonteCarlo, predict_slabs
from segcal.learn.unet import UNet

SLICES = {"cpu": 2, "cuda": 8}
SAMPLES = 50
GOAL = "1.35x"
CONFIG = replace(CONFIGS["prostate"], dropout=0.5, mc_samples=SAMPLES)


def measure() -> list[Row]:
    """All rows."""
    with opened(["ours", "plain", "passes"], "benchmarks.mc_dropout:way", {}) as ways:
        seconds = interleaved(ways)
    gpu = describe().gpu
    slices = SLICES["cuda" if gpu else "cpu"]
    count = slices * SAMPLES
    limit_s = count * flop_of(CONFIG, training=False) / describe().gemm_gflop_per_s["fp32"] / 1e9
    what = f"MC dropout, {SAMPLES} samples of {slices} slices, 1x{SIDE}x{SIDE}, a {'GPU' if gpu else 'core'}"
    note = f"{count / seconds['ours']:.0f} samples/s; plain: eager, NCHW; limit: GEMM of whole passes in fp32"
    alone = "what the shared prefix and the mini-batches of samples bring alone"
    return [
        Row(what, seconds["ours"], seconds["plain"], limit_s, GOAL, note),
        Row("  plain: whole passes, as fast as ours", seconds["ours"], seconds["passes"], limit_s, note=alone),
    ]  # fmt: skip


def way(way: str) -> Callable[[], object]:
    """What samples all slices."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    image = np.ascontiguousarray(images_of(CONFIG, SLICES[device.type])[0].swapaxes(0, 1))
    net = build(CONFIG).to(device).eval()
    batch = torch.from_numpy(image).swapaxes(0, 1).to(device)
    if way == "plain":
        return lambda: _plain(net, batch)
    ready = channels_last(folded(net), device)
    if way == "ours":
        return lambda: list(predict_slabs(ready, "softmax", image, device, MonteCarlo(SAMPLES, "a")))
    return lambda: _plain(ready, laid_out(batch))


def _plain(net: UNet, batch: torch.Tensor) -> torch.Tensor:
    """The mean over whole passes of the slices with dropout on."""
    total = torch.zeros((), device=batch.device)
    with torch.no_grad(), net.sampling(torch.Generator(device=batch.device).manual_seed(0)):
        for _ in range(SAMPLES):
            total = total + torch.softmax(net(batch), dim=1)
    return (total / SAMPLES).cpu()
