"""Mini-batches: every item once, in the seed's order, from wherever they lie."""

import threading

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from segcal.learn.batches import Resident, Streamed, batches_of, device_bytes, laid_out

CPU = torch.device("cpu")


@pytest.fixture
def items():
    images = torch.arange(10.0).view(10, 1, 1, 1) + torch.rand(
        10, 3, 16, 16, generator=torch.Generator().manual_seed(0)
    )
    return TensorDataset(images, torch.arange(10, dtype=torch.uint8).view(10, 1, 1).expand(10, 16, 16))


def epoch(batches, size=4, seed=0):
    return list(batches.shuffled(size, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("kind", [Resident, Streamed])
def test_every_item_once_with_its_own_truth(items, kind):
    batches = epoch(kind(items, CPU))
    assert [len(images) for images, _ in batches] == [4, 4, 2]
    order = torch.cat([truth[:, 0, 0] for _, truth in batches]).tolist()
    assert sorted(order) == list(range(10)) != order
    for images, truth in batches:
        assert torch.equal(images, items.tensors[0][truth[:, 0, 0].long()])
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert truth.dtype == torch.uint8


@pytest.mark.parametrize("kind", [Resident, Streamed])
def test_the_generator_decides_the_order_and_moves_on(items, kind):
    def orders(seed):
        generator = torch.Generator().manual_seed(seed)
        source = kind(items, CPU)
        return [[int(t[0, 0]) for _, truth in source.shuffled(4, generator) for t in truth] for _ in range(2)]

    assert orders(0) == orders(0)
    assert orders(0) != orders(1)
    assert orders(0)[0] != orders(0)[1]


def test_resident_and_streamed_are_the_same_batches(items):
    for one, other in zip(epoch(Resident(items, CPU)), epoch(Streamed(items, CPU)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_volumes_have_their_own_layout():
    items = TensorDataset(torch.rand(3, 2, 4, 4, 4), torch.zeros(3, 4, 4, 4, dtype=torch.uint8))
    for kind in (Resident, Streamed):
        (images, _), _ = epoch(kind(items, CPU), size=2)
        assert images.is_contiguous(memory_format=torch.channels_last_3d)


def test_the_next_batch_is_read_while_this_one_is_used(items):
    read = threading.Semaphore(0)

    class Watched(Dataset):
        def __len__(self):
            return len(items)

        def __getitem__(self, index):
            read.release()
            return items[index]

    batches = iter(Streamed(Watched(), CPU).shuffled(4, torch.Generator().manual_seed(0)))
    next(batches)
    for _ in range(8):  # both the first and the second
        assert read.acquire(timeout=10)
    batches.close()


def test_an_item_that_cannot_be_read_fails_the_epoch(items):
    class Torn(Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            if index == 3:
                raise OSError("torn")
            return items[index]

    with pytest.raises(OSError, match="torn"):
        epoch(Streamed(Torn(), CPU), size=2)


def test_a_cpu_streams(items):
    assert isinstance(batches_of(items, CPU), Streamed)


@pytest.mark.parametrize("device", [torch.device("cuda"), torch.device("cuda", 0)])
def test_bytes_of_a_shared_gpu(device, monkeypatch):
    """The share of all memory less what is taken, or what the others left; the calls below torch are stood in for."""
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_getMemoryFraction", lambda index: {0: 0.25}[index], raising=False)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda of: 3)
    for free, expected in ((1000, 17.0), (10, 10.0)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda of, free=free: (free, 80))
        assert device_bytes(device) == expected


def test_one_channel_has_the_strides_of_the_fast_layout():
    one, three = (laid_out(torch.rand(2, channels, 4, 6)) for channels in (1, 3))
    assert one.stride() == (24, 1, 6, 1)
    assert three.stride() == (72, 1, 18, 3)
    conv = torch.nn.Conv2d(1, 8, 3, padding=1)
    conv.weight.data = laid_out(conv.weight.data)
    assert conv(one).stride() == (8 * 24, 1, 6 * 8, 8)
    image = torch.rand(2, 1, 4, 6)
    assert torch.equal(laid_out(image), image)
    assert laid_out(image).data_ptr() == image.data_ptr()  # nothing is copied


@pytest.mark.parametrize(("share", "kind"), [(1.0, Resident), (0.25, Streamed)])
def test_a_gpu_holds_what_fits_into_this_process_share(items, monkeypatch, share, kind):
    size = sum(part.nbytes for part in items.tensors)
    monkeypatch.setattr("segcal.learn.batches.device_bytes", lambda device: share * 2 * size)
    monkeypatch.setattr("segcal.learn.batches.Resident.__init__", lambda self, items, device: None)
    assert isinstance(batches_of(items, torch.device("cuda")), kind)
