"""One training, read top to bottom. It yields an EpochRecord after each epoch and knows no tracking."""

__all__ = ["build", "channels_last", "fit"]

import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from segcal.learn.batches import batches_of, laid_out
from segcal.learn.heads import out_channels
from segcal.learn.losses import bind
from segcal.learn.step import captured, optimiser_of, plain
from segcal.learn.training import State, Training, resume, snapshot
from segcal.learn.unet import UNet
from segcal.records import EpochRecord
from segcal.trial import TrialConfig


def build(config: TrialConfig) -> UNet:
    """The trial's network, initialised from its seed."""
    return UNet(
        config.in_channels,
        out_channels(config.head, config.n_classes),
        kernels=config.kernels,
        dropout=config.dropout,
        dims=config.dims,
        generator=_generator(config.seed, "weights"),
    )


def fit(
    config: TrialConfig,
    train: Dataset[tuple[Tensor, Tensor]],
    validate: Callable[[UNet], Sequence[float]],
    device: torch.device,
    state: State | None = None,
) -> Iterator[EpochRecord]:
    """Train one network (section VI-A of the paper).

    train yields slices, image (C, Y, X) float32 and truth (Y, X) integer classes, or volumes with (Z, Y, X). validate
    gives the mean Dice of each structure over the validation cases (NaN where it is not defined). A record carries
    the weights when the mean of these is the best so far. Same config and data -> bit-identical weights on a CPU.
    state: what a record's `state()` gave; the epochs after that one follow, as if nothing had been between.

    Raises FloatingPointError where the loss is no longer finite.
    """
    training = _begin(config, device)
    if state is not None:
        resume(training, state)
    net, optimiser = training.net, training.optimiser
    batches = batches_of(train, device)
    step, how = plain(net, bind(config, device), optimiser, config.precision), ""
    while training.epoch < config.epochs and training.epoch - training.best_epoch < config.patience:
        started = time.perf_counter()
        lr = training.lr
        net.train()
        loss_sum, seen = torch.zeros((), dtype=torch.float64, device=device), 0
        for images, truth in batches.shuffled(config.batch, training.generators["shuffling"]):
            if not how:
                step, how = captured(net, optimiser, step, (images, truth))
            loss_sum += step(images, truth).double() * len(images)  # read at the epoch's end: the GPU need not wait
            seen += len(images)
        train_loss = float(loss_sum) / seen
        training.epoch += 1
        if not math.isfinite(train_loss):
            raise FloatingPointError(f"the training loss must stay finite, got {train_loss} in epoch {training.epoch}")
        net.eval()
        by_structure = tuple(validate(net))
        val_dice = float(np.nanmean(by_structure)) if np.isfinite(by_structure).any() else 0.0
        training.plateau.step(val_dice)
        improved = val_dice > training.best
        if improved:
            training.best, training.best_epoch, training.best_weights = val_dice, training.epoch, training.weights()
        yield EpochRecord(
            epoch=training.epoch,
            train_loss=train_loss,
            val_dice=val_dice,
            val_dice_by_structure=by_structure,
            lr=lr,
            seconds=time.perf_counter() - started,
            step=how,
            weights=training.best_weights if improved else None,
            state=lambda: snapshot(training),
        )


def channels_last(net: UNet, device: torch.device) -> UNet:
    """The network on its device in the memory layout that convolutions on CPUs and tensor cores are fastest in."""
    net.to(device)
    for parameter in net.parameters():
        if parameter.dim() == net.dims + 2:
            parameter.data = laid_out(parameter.data)
    return net


def _begin(config: TrialConfig, device: torch.device) -> Training:
    net = channels_last(build(config), device)
    generators = {
        "shuffling": _generator(config.seed, "shuffling"),
        "dropout": _generator(config.seed, "dropout", device),
    }
    net.seed_dropout(generators["dropout"])
    optimiser = optimiser_of(net, config.lr, device)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser,
        mode="max",
        factor=config.lr_factor,
        patience=config.lr_patience - 1,  # torch cuts after the epoch that follows its patience
        threshold=config.lr_threshold,
        threshold_mode="abs",
    )
    return Training(net, optimiser, plateau, generators)


def _generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Independent streams for one seed, so that more shuffling never shifts the dropout masks."""
    stream = ("weights", "shuffling", "dropout").index(purpose)
    state = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(state >> np.uint64(1)))
