"""All that changes while a network is trained, as arrays: a training that is resumed from them goes on bit for bit."""

__all__ = ["State", "Training", "resume", "snapshot"]

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from segcal.learn.unet import UNet

State = Mapping[str, np.ndarray]

_PLATEAU = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
_COUNTS = ("epoch", "best", "best_epoch")


@dataclass
class Training:
    """A training between two epochs."""

    net: UNet
    optimiser: torch.optim.Optimizer
    plateau: torch.optim.lr_scheduler.ReduceLROnPlateau
    generators: Mapping[str, torch.Generator]  # of the shuffling and of dropout
    epoch: int = 0  # the last one that is finished
    best: float = -math.inf  # mean validation Dice
    best_epoch: int = 0
    best_weights: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def lr(self) -> float:
        """The optimiser's learning rate now."""
        return float(self.optimiser.param_groups[0]["lr"])

    def weights(self) -> dict[str, np.ndarray]:
        """A copy of the network's weights and of the running statistics of its batch norms."""
        return {name: _array(value) for name, value in self.net.state_dict().items()}


def snapshot(training: Training) -> dict[str, np.ndarray]:
    """A copy of everything that the epochs to come depend on, the best weights so far with it."""
    state = {f"net.{name}": value for name, value in training.weights().items()}
    state |= {f"best.{name}": value for name, value in training.best_weights.items()}
    for index, values in training.optimiser.state_dict()["state"].items():
        state |= {f"adam.{index}.{name}": _array(value) for name, value in values.items()}
    state |= {f"generator.{name}": generator.get_state().numpy() for name, generator in training.generators.items()}
    state |= {f"plateau.{name}": np.float64(getattr(training.plateau, name)).reshape(1) for name in _PLATEAU}
    state |= {f"training.{name}": np.float64(getattr(training, name)).reshape(1) for name in _COUNTS}
    return state | {"training.lr": np.float64(training.lr).reshape(1)}


def resume(training: Training, state: State) -> None:
    """Put a training that has just begun where a snapshot was taken. Raises KeyError where a part of it is missing."""
    training.net.load_state_dict({name: torch.from_numpy(value) for name, value in _part(state, "net").items()})
    _resume_optimiser(training, state)
    for name, generator in training.generators.items():
        generator.set_state(torch.from_numpy(state[f"generator.{name}"].copy()))
    for name in _PLATEAU:
        setattr(training.plateau, name, _number(training.plateau, name, state[f"plateau.{name}"]))
    for name in _COUNTS:
        setattr(training, name, _number(training, name, state[f"training.{name}"]))
    training.best_weights = _part(state, "best")


def _resume_optimiser(training: Training, state: State) -> None:
    """Adam's moments in the memory layout of their parameters, and its rate, which on a GPU lies in a tensor."""
    values: dict[int, dict[str, Tensor]] = {}
    for name, array in _part(state, "adam").items():
        index, _, what = name.partition(".")
        values.setdefault(int(index), {})[what] = torch.from_numpy(array.copy())
    groups = training.optimiser.state_dict()["param_groups"]
    if missing := [index for group in groups for index in group["params"] if index not in values]:
        raise KeyError(f"adam.{missing[0]}")
    training.optimiser.load_state_dict({"state": values, "param_groups": groups})
    for parameter, moments in training.optimiser.state.items():
        for what, value in moments.items():
            if value.shape == parameter.shape:
                moments[what] = torch.empty_like(parameter).copy_(value)
    group, lr = training.optimiser.param_groups[0], float(state["training.lr"][0])
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def _part(state: State, part: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}


def _number(owner: object, name: str, value: np.ndarray) -> float | int:
    """As the kind of number that it was: counts stay whole."""
    return int(value[0]) if isinstance(getattr(owner, name), int) else float(value[0])


def _array(value: Tensor) -> np.ndarray:
    return value.detach().to("cpu", copy=True).contiguous().numpy()
