"""A captured step is the plain loop. Without a GPU the capture is a recording that is run again."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from segcal.learn import step as module
from segcal.learn.fit import build, fit
from segcal.learn.losses import bind
from segcal.learn.step import CapturedStep, captured, optimiser_of, plain
from segcal.trial import TrialConfig

CPU = torch.device("cpu")
CONFIG = TrialConfig(
    task="toy", label="ce", data_digest="d", in_channels=1, n_classes=2, dims=2, seed=0, loss="cross_entropy",
    head="softmax", weights="none", class_weights=(0.5, 2.0), batch=4, kernels=(4, 4, 8, 8), epochs=1, lr=0.01,
)  # fmt: skip


def batches(count, dtype=torch.float64, size=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, size, 1, 16, 16, generator=generator, dtype=dtype)
    return [(image, (image[:, 0] > 0.6).to(torch.uint8)) for image in images]


def user_loop(net, given, lr=0.01):
    """What one would write: no layout, no autocast, nothing kept."""
    optimiser = torch.optim.Adam(net.parameters(), lr=lr)
    losses = []
    for images, truth in given:
        weights = torch.tensor(CONFIG.class_weights, dtype=images.dtype)
        loss = F.cross_entropy(net(images), truth.long(), weight=weights, reduction="sum") / truth.numel()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def recorded(net, given, dropout_generators=(), lr=0.01, capture=lambda run: run):
    optimiser = torch.optim.Adam(net.parameters(), lr=torch.tensor(lr, dtype=torch.float64))
    ours = CapturedStep(net, optimiser, plain(net, bind(CONFIG, CPU), optimiser), given[0], capture, dropout_generators)
    return ours, optimiser


def test_losses_agree_with_the_loop_that_one_would_write_in_float64():
    given = batches(8)
    net = build(CONFIG).double()
    expected = user_loop(copy.deepcopy(net), given)
    step, _ = recorded(net, given)
    assert [float(step(*batch)) for batch in given] == pytest.approx(expected, rel=1e-12)
    assert expected[-1] < expected[0]


@pytest.mark.parametrize("loss", ["cross_entropy", "soft_dice"])
def test_losses_agree_within_rounding_in_float32_and_channels_last(loss):
    head = {"cross_entropy": "softmax", "soft_dice": "sigmoid"}[loss]
    config = TrialConfig(**{**vars(CONFIG), "loss": loss, "head": head})
    images, truth = (torch.cat(part) for part in zip(*batches(3, torch.float32), strict=True))
    (record,) = fit(config, TensorDataset(images, truth), lambda net: (0.5,), CPU)
    net = build(config).double()  # the same weights, before the first step
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr)
    step, losses = plain(net, bind(config, CPU), optimiser), []
    generator = torch.Generator()
    generator.set_state(shuffling(config))
    for index in torch.randperm(len(images), generator=generator).split(config.batch):
        losses.append(float(step(images[index].double(), truth[index])))
    assert record.train_loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def shuffling(config):
    from segcal.learn.fit import _generator

    return _generator(config.seed, "shuffling").get_state()


def test_a_smaller_batch_and_a_new_rate_are_followed():
    given = [*batches(3), *batches(1, size=3), *batches(2)]
    net = build(CONFIG).double()
    reference = copy.deepcopy(net)
    step, optimiser = recorded(net, given)
    plain_optimiser = torch.optim.Adam(reference.parameters(), lr=0.01)
    expected = plain(reference, bind(CONFIG, CPU), plain_optimiser)
    for number, batch in enumerate(given):
        if number == 3:
            optimiser.param_groups[0]["lr"].fill_(0.001)  # as torch's schedulers do
            plain_optimiser.param_groups[0]["lr"] = 0.001
        assert float(step(*batch)) == pytest.approx(float(expected(*batch)), rel=1e-12)


def test_the_schedule_writes_into_the_rate_that_a_graph_reads():
    net = build(CONFIG)
    rate = torch.tensor(0.01)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, mode="max", factor=0.5, patience=0)
    plateau.step(0.5)
    plateau.step(0.4)
    assert optimiser.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.005)


def test_warming_up_leaves_no_trace():
    config = TrialConfig(**{**vars(CONFIG), "dropout": 0.5})
    net = build(config).double()
    generator = torch.Generator().manual_seed(5)
    net.seed_dropout(generator)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = generator.get_state()
    ran = []

    def capture(run):
        ran.append(run)
        return run

    step, optimiser = recorded(net, batches(1), (generator,), capture=capture)
    assert len(ran) == 1
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(generator.get_state(), state)
    assert all(float(value.abs().sum()) == 0 for kept in optimiser.state.values() for value in kept.values())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert float(step(*batches(1)[0])) > 0


def test_warming_up_in_a_resumed_training_leaves_its_moments():
    net = build(CONFIG).double()
    optimiser = torch.optim.Adam(net.parameters(), lr=torch.tensor(0.01, dtype=torch.float64))
    step = plain(net, bind(CONFIG, CPU), optimiser)
    given = batches(2)
    step(*given[0])
    before = {name: value.clone() for kept in optimiser.state.values() for name, value in kept.items()}
    CapturedStep(net, optimiser, step, given[1], lambda run: run)
    after = {name: value for kept in optimiser.state.values() for name, value in kept.items()}
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert float(after["step"]) == 1


def test_where_nothing_can_be_captured_the_plain_step_runs_and_says_why(monkeypatch):
    net = build(CONFIG)
    optimiser = optimiser_of(net, 0.01, CPU)
    step = plain(net, bind(CONFIG, CPU), optimiser)
    assert captured(net, optimiser, step, batches(1, torch.float32)[0]) == (
        step,
        "plain",
    )

    class OnGpu:
        device = torch.device("cuda")

    def fails(*_):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    streams = []

    @contextlib.contextmanager
    def stream(chosen):
        streams.append(chosen)
        try:
            yield
        finally:
            streams.append("left")

    monkeypatch.setattr(module, "_failed", [])
    monkeypatch.setattr(module, "CapturedStep", fails)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "main")
    monkeypatch.setattr(torch.cuda, "stream", stream)
    why = "plain: the capture failed (CUDA error: operation not permitted when stream is capturing)"
    for _ in range(2):  # the second is not tried: CUDA's allocator does not survive a failed capture
        assert captured(net, optimiser, step, (OnGpu(), OnGpu())) == (step, why)
    assert streams == ["main", "left"]


def test_every_record_says_how_its_steps_ran():
    images, truth = batches(1, torch.float32)[0]
    (record,) = fit(CONFIG, TensorDataset(images, truth), lambda net: (0.5,), CPU)
    assert record.step == "plain"


def test_the_step_compiles_whole():
    """No graph break: what a compiler is given on a GPU is traced here and run by the interpreter."""
    net = build(CONFIG).double()
    expected = user_loop(copy.deepcopy(net), batches(3))
    loss_of = bind(CONFIG, CPU)
    whole = torch.compile(lambda images, truth: loss_of(net(images), truth), backend="aot_eager", fullgraph=True)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for batch in batches(3):
        loss = whole(*batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses == pytest.approx(expected, rel=1e-10)
