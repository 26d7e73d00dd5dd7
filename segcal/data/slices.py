"""Slices or whole volumes of prepared cases, as torch Datasets."""

__all__ = ["Slices", "Volumes", "items"]

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from segcal.volume import Case


class Slices(Dataset[tuple[Tensor, Tensor]]):
    """Image (C, Y, X) float32 and truth (Y, X) uint8 of every slice of every case."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._cases = list(cases)
        self._index = [(case, z) for case in range(len(self._cases)) for z in range(len(self._cases[case].truth))]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        case, z = self._index[index]
        image = np.array(self._cases[case].image[:, z])
        return torch.from_numpy(image), torch.from_numpy(np.array(self._cases[case].truth[z]))


class Volumes(Dataset[tuple[Tensor, Tensor]]):
    """Image (C, Z, Y, X) float32 and truth (Z, Y, X) uint8 of every case."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._cases = list(cases)

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        case = self._cases[index]
        return torch.from_numpy(np.array(case.image)), torch.from_numpy(np.array(case.truth))


def items(cases: Sequence[Case], dims: int) -> Slices | Volumes:
    """What a network of so many dimensions learns from."""
    return Volumes(cases) if dims == 3 else Slices(cases)
