"""A step of training: plain, or captured once as a CUDA graph and replayed, which costs one launch instead of hundreds.

Both are the same computation: a captured step falls back to the plain one for mini-batches of another size.
"""

__all__ = ["CapturedStep", "Step", "captured", "optimiser_of", "plain"]

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from segcal.learn.unet import Dropout, UNet

Step = Callable[[Tensor, Tensor], Tensor]  # images (B, C, ...), truth (B, ...) -> loss (), which is overwritten later
Loss = Callable[[Tensor, Tensor], Tensor]
Capture = Callable[[Callable[[], None]], Callable[[], None]]
_failed: list[str] = []  # why a capture in this process was not finished
WARM_UP = 3  # steps before a capture: libraries choose their algorithms, the optimiser makes its state


def plain(net: UNet, loss_of: Loss, optimiser: torch.optim.Optimizer, precision: str = "fp32") -> Step:
    """Forward, loss, backward, update. precision bf16: the network by autocast, the loss in float32."""

    def step(images: Tensor, truth: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = net(images)
        loss = loss_of(logits, truth)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        return loss.detach()

    return step


def captured(net: UNet, optimiser: torch.optim.Optimizer, step: Step, batch: tuple[Tensor, Tensor]) -> tuple[Step, str]:
    """The step captured for mini-batches like this one, and how it runs: "captured"; "plain"; "plain: " and why.

    The network, the optimiser and the random numbers of dropout are left as they were.
    """
    device = batch[0].device
    if device.type != "cuda":
        return step, "plain"
    if _failed:  # the allocator still listens to the graph that was not finished
        return step, f"plain: {_failed[0]}"
    generators = [m.generator for m in net.modules() if isinstance(m, Dropout) and m.generator is not None]
    try:
        with torch.cuda.stream(torch.cuda.current_stream(device)):  # a capture that fails leaves its own stream behind
            made = CapturedStep(net, optimiser, step, batch, lambda run: _graph(run, generators), generators)
        return made, "captured"
    except RuntimeError as error:  # out of memory too: the plain step needs less, and says so if that is too much
        torch.cuda.synchronize(device)
        _failed.append(f"the capture failed ({str(error).splitlines()[0][:200]})")
        return step, f"plain: {_failed[0]}"


class CapturedStep:
    """A step over buffers that stay where they are.

    capture: takes what is to be run, returns what runs it again. The learning rate must be a tensor (`optimiser_of`).
    """

    def __init__(
        self, net: UNet, optimiser: torch.optim.Optimizer, step: Step, batch: tuple[Tensor, Tensor], capture: Capture,
        generators: Sequence[torch.Generator] = (),
    ) -> None:  # fmt: skip
        self._step = step
        self._images, self._truth = (part.clone(memory_format=torch.preserve_format) for part in batch)
        self._loss = self._images.new_zeros(())
        before = [value.detach().clone() for value in net.state_dict().values()]
        moments = {id(value): value.clone() for state in optimiser.state.values() for value in state.values()}
        states = [generator.get_state() for generator in generators]
        try:
            with _side_stream(self._images.device):
                for _ in range(WARM_UP):
                    self._run()
        finally:  # all of it in place: the graph knows addresses, not names
            _restore(net, before, optimiser, moments)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
        optimiser.zero_grad(set_to_none=True)  # gradients are made anew, in the graph's own memory
        self._replay = capture(self._run)

    def __call__(self, images: Tensor, truth: Tensor) -> Tensor:
        if images.shape != self._images.shape:
            return self._step(images, truth)
        self._images.copy_(images)
        self._truth.copy_(truth)
        self._replay()
        return self._loss

    def _run(self) -> None:
        self._loss.copy_(self._step(self._images, self._truth))


def optimiser_of(net: UNet, lr: float, device: torch.device) -> torch.optim.Optimizer:
    """Adam; on a GPU one kernel that reads its rate from memory, so that a captured step follows a schedule."""
    if device.type != "cuda":
        return torch.optim.Adam(net.parameters(), lr=lr)
    rate = torch.tensor(lr, device=device)
    return torch.optim.Adam(net.parameters(), lr=rate, fused=True, capturable=True)


@contextlib.contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """What is warmed up on the stream of a GPU that everything runs on could not be captured."""
    if device.type != "cuda":
        yield
        return
    main, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(main)
    try:
        with torch.cuda.stream(side):
            yield
    finally:
        main.wait_stream(side)


def _graph(run: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # the reader of mini-batches has its own thread
        run()
    replay: Callable[[], None] = graph.replay
    return replay


def _restore(
    net: UNet, values: Sequence[Tensor], optimiser: torch.optim.Optimizer, moments: Mapping[int, Tensor]
) -> None:
    with torch.no_grad():
        for value, known in zip(net.state_dict().values(), values, strict=True):
            value.copy_(known)
        for state in optimiser.state.values():
            for value in state.values():  # Adam's moments and its count of steps begin at 0 where there were none
                value.copy_(moments.get(id(value), torch.zeros_like(value)))
