"""Shuffled mini-batches where the training step wants them: from the device's memory, or read one mini-batch ahead."""

__all__ = ["Batch", "Batches", "Items", "Resident", "Streamed", "batches_of", "device_bytes", "laid_out"]

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

MEMORY_FORMAT = {2: torch.channels_last, 3: torch.channels_last_3d}
SHARE = 0.5  # of a process's memory on a GPU that training data may take; the rest is the network's

Items = Dataset[tuple[Tensor, Tensor]]
Batch = tuple[Tensor, Tensor]  # images (B, C, ...) float32 in the device's layout, truth (B, ...) integer classes


class Batches(Protocol):
    """Where mini-batches come from."""

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Every item once, in an order drawn from the generator, in mini-batches of `size`; the last may be smaller."""
        ...


class Resident:
    """All items in the device's memory: a mini-batch is a gather by index, no data cross the bus."""

    def __init__(self, items: Items, device: torch.device) -> None:
        images, truth = _together(items, range(_count(items)))
        self._images, self._truth = images.to(device), truth.to(device)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """As `Batches` says."""
        order = torch.randperm(len(self._images), generator=generator).to(self._images.device)
        for index in torch.split(order, size):
            yield laid_out(self._images[index]), self._truth[index]


class Streamed:
    """Items read when they are needed: a thread puts the next mini-batch together while this one is learnt from."""

    def __init__(self, items: Items, device: torch.device) -> None:
        self._items, self._device = items, device

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """As `Batches` says."""
        order = torch.split(torch.randperm(_count(self._items), generator=generator), size)
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[Batch] | None = None
            for index in [*order, None]:
                ready, ahead = ahead, None if index is None else reader.submit(self.read, index.tolist())
                if ready is not None:
                    yield ready.result()

    def read(self, index: Sequence[int]) -> Batch:
        """These items as a mini-batch."""
        images, truth = _together(self._items, index)
        if self._device.type == "cuda":
            images, truth = images.pin_memory(), truth.pin_memory()
        return images.to(self._device, non_blocking=True), truth.to(self._device, non_blocking=True)


def batches_of(items: Items, device: torch.device) -> Batches:
    """Resident on a GPU whose memory holds them, streamed otherwise (the page cache is a CPU's memory of files)."""
    image, truth = items[0]
    size = _count(items) * (image.nbytes + truth.nbytes)
    fits = device.type == "cuda" and size <= SHARE * device_bytes(device)
    return Resident(items, device) if fits else Streamed(items, device)


def laid_out(batch: Tensor) -> Tensor:
    """Images (B, C, ...) or kernels channels-last: torch's fastest layout on CPUs and tensor cores.

    Of one channel both layouts are the same memory, and torch takes it for the slow one; so the strides are set.
    """
    layout = MEMORY_FORMAT[batch.dim() - 2]
    if batch.shape[1] > 1:
        return batch.contiguous(memory_format=layout)
    strides = torch.empty(batch.shape, device="meta", memory_format=layout).stride()
    return batch.contiguous().as_strided(batch.shape, strides)


def device_bytes(device: torch.device) -> float:
    """Bytes that this process may still take of a GPU that it may share with others."""
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(torch.cuda.current_device() if device.index is None else device)
    mine = share * total - torch.cuda.memory_allocated(device)
    return min(float(free), mine)


def _together(items: Items, index: Sequence[int]) -> Batch:
    """Items as a mini-batch: each is copied once, from where it lies to its place in the layout."""
    image, label = items[index[0]]
    layout = MEMORY_FORMAT[image.dim() - 1]
    images = torch.empty(len(index), *image.shape, dtype=image.dtype, memory_format=layout)
    truth = torch.empty(len(index), *label.shape, dtype=label.dtype)
    for place, which in enumerate(index):
        images[place], truth[place] = items[which]
    return images, truth


def _count(items: Items) -> int:
    return len(items)  # type: ignore[arg-type]  # a Dataset with an index has a length
