"""Ways to train, a step at a time.

`plain` is the loop that one would write: eager, NCHW, float32, a DataLoader. The others are segcal's.
"""

__all__ = ["WAYS", "as_graph", "mapped", "stepper"]

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.networks import CONFIGS, images_of
from segcal.learn.batches import Batch, Items, batches_of
from segcal.learn.fit import build, channels_last
from segcal.learn.losses import bind
from segcal.learn.step import Step, captured, optimiser_of, plain
from segcal.learn.unet import UNet
from segcal.trial import TrialConfig

WAYS = {  # way -> precision of the network, whether the step is captured as a graph
    "plain malloc": ("fp32", False),  # as fp32, in a process with a plain environment
    "fp32": ("fp32", False),
    "bf16": ("bf16", False),
    "captured": ("bf16", True),
}
BATCHES = 4  # in the data that steps learn from


def stepper(way: str, task: str, batch: int) -> Callable[[], object]:
    """What runs one step of the way, its mini-batch read from files that are mapped into memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = replace(CONFIGS[task], batch=batch)
    with tempfile.TemporaryDirectory() as folder:  # what is mapped stays when its name is gone
        items = mapped(config, Path(folder))
    if way == "plain":
        return _plain(config, items, device)
    precision, capture = WAYS[way]
    net = channels_last(build(config), device).train()
    optimiser = optimiser_of(net, config.lr, device)
    step = plain(net, bind(config, device), optimiser, precision)
    source = batches_of(items, device)
    batches = _endless(lambda: source.shuffled(batch, torch.Generator()))
    if capture:
        step = as_graph(net, optimiser, step, next(batches))
    total = torch.zeros((), device=device)
    return lambda: total.add_(step(*next(batches)))


def as_graph(net: UNet, optimiser: torch.optim.Optimizer, step: Step, batch: Batch) -> Step:
    """The captured step; ends the benchmark where it cannot be."""
    graph, how = captured(net, optimiser, step, batch)
    if how != "captured":
        raise SystemExit(f"the step must be captured, is {how}")
    return graph


def _plain(config: TrialConfig, items: Items, device: torch.device) -> Callable[[], object]:
    net = build(config).to(device).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr)
    weights = torch.tensor(config.class_weights, device=device)
    batches = _endless(lambda: iter(DataLoader(items, batch_size=config.batch, shuffle=True)))

    def step() -> float:
        images, truth = (part.to(device) for part in next(batches))
        loss = F.cross_entropy(net(images), truth.long(), weights)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        return loss.item()

    return step


def mapped(config: TrialConfig, folder: Path) -> Items:
    """Slices in files below the folder."""
    parts = []
    for name, array in zip(("image", "truth"), images_of(config, BATCHES * config.batch), strict=True):
        np.save(folder / f"{name}.npy", array)
        parts.append(torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")))
    return cast(Items, TensorDataset(*parts))


def _endless(epoch: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    while True:
        yield from epoch()
