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
) -> Iterator[EpochRecord]:
    """Train one network (section VI-A of the paper).

    train yields slices, image (C, Y, X) float32 and truth (Y, X) integer classes, or volumes with (Z, Y, X). validate
    gives the mean Dice of each structure over the validation cases (NaN where it is not defined). A record carries
    the weights when the mean of these is the best so far. Same config and data -> bit-identical weights on a CPU.

    Raises FloatingPointError where the loss is no longer finite.
    """
    net = channels_last(build(config), device)
    net.seed_dropout(_generator(config.seed, "dropout", device))
    optimiser = optimiser_of(net, config.lr, device)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser,
        mode="max",
        factor=config.lr_factor,
        patience=config.lr_patience - 1,  # torch cuts after the epoch that follows its patience
        threshold=config.lr_threshold,
        threshold_mode="abs",
    )
    batches, shuffling = batches_of(train, device), _generator(config.seed, "shuffling")
    step, how = plain(net, bind(config, device), optimiser, config.precision), ""
    best, best_epoch = -math.inf, 0
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        lr = float(optimiser.param_groups[0]["lr"])
        net.train()
        loss_sum, seen = torch.zeros((), dtype=torch.float64, device=device), 0
        for images, truth in batches.shuffled(config.batch, shuffling):
            if not how:
                step, how = captured(net, optimiser, step, (images, truth))
            loss_sum += step(images, truth).double() * len(images)  # read at the epoch's end: the GPU need not wait
            seen += len(images)
        train_loss = float(loss_sum) / seen
        if not math.isfinite(train_loss):
            raise FloatingPointError(f"the training loss must stay finite, got {train_loss} in epoch {epoch}")
        net.eval()
        by_structure = tuple(validate(net))
        val_dice = float(np.nanmean(by_structure)) if np.isfinite(by_structure).any() else 0.0
        plateau.step(val_dice)
        improved = val_dice > best
        if improved:
            best, best_epoch = val_dice, epoch
        yield EpochRecord(
            epoch=epoch,
            train_loss=train_loss,
            val_dice=val_dice,
            val_dice_by_structure=by_structure,
            lr=lr,
            seconds=time.perf_counter() - started,
            step=how,
            weights=_numpy_weights(net) if improved else None,
        )
        if epoch - best_epoch >= config.patience:
            return


def channels_last(net: UNet, device: torch.device) -> UNet:
    """The network on its device in the memory layout that convolutions on CPUs and tensor cores are fastest in."""
    net.to(device)
    for parameter in net.parameters():
        if parameter.dim() == net.dims + 2:
            parameter.data = laid_out(parameter.data)
    return net


def _numpy_weights(net: UNet) -> dict[str, np.ndarray]:
    return {name: value.detach().to("cpu", copy=True).contiguous().numpy() for name, value in net.state_dict().items()}


def _generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Independent streams for one seed, so that more shuffling never shifts the dropout masks."""
    stream = ("weights", "shuffling", "dropout").index(purpose)
    state = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(state >> np.uint64(1)))
