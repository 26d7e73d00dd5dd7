"""Slices or whole volumes of prepared cases, as torch Datasets: views of the cases' arrays, not copies."""

__all__ = ["Slices", "Volumes", "items"]

from collections.abc import Sequence

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
        return torch.from_numpy(self._cases[case].image[:, z]), torch.from_numpy(self._cases[case].truth[z])


class Volumes(Dataset[tuple[Tensor, Tensor]]):
    """Image (C, Z, Y, X) float32 and truth (Z, Y, X) uint8 of every case."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._cases = list(cases)

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        case = self._cases[index]
        return torch.from_numpy(case.image), torch.from_numpy(case.truth)


def items(cases: Sequence[Case], dims: int) -> Slices | Volumes:
    """What a network of so many dimensions learns from."""
    return Volumes(cases) if dims == 3 else Slices(cases)
