"""What the numbers were measured on, and its limits: how fast it copies memory and multiplies matrices."""

__all__ = ["Machine", "describe"]

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.timing import interleaved, one_core

SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices
BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}  # of a copy


@dataclass(frozen=True)
class Machine:
    """A machine, and its GPU where it has one. Limits are of one core, or of the GPU."""

    cpu: str
    cores: int
    memory_gb: float
    copy_gb_per_s: float  # read and written bytes
    gemm_gflop_per_s: dict[str, float]  # precision -> product of two square matrices
    gpu: str = ""
    torch: str = torch.__version__

    @property
    def title(self) -> str:
        """A line for people."""
        name = self.gpu or f"{self.cpu}, {self.cores} cores, {self.memory_gb:.0f} GB"
        gemm = ", ".join(f"{precision} {speed:.0f}" for precision, speed in self.gemm_gflop_per_s.items())
        return f"{name}; {'GPU' if self.gpu else 'a core'} copies {self.copy_gb_per_s} GB/s, GEMM GFLOP/s: {gemm}"


@functools.cache
def describe() -> Machine:
    """This machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with one_core():
        copied, gemm = _copy(device), {name: _gemm(device, name) for name in ("fp32", "bf16")}
    return Machine(
        cpu=names[0] if names else platform.processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(memory, 1),
        copy_gb_per_s=copied,
        gemm_gflop_per_s=gemm,
        gpu=torch.cuda.get_device_name() if device == "cuda" else "",
    )


def _copy(device: str) -> float:
    source = torch.ones(BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = interleaved({"copy": lambda: target.copy_(source)})["copy"]
    return round(2 * source.numel() / seconds / 1e9, 1)


def _gemm(device: str, precision: str) -> float:
    """fp32 as torch multiplies by default (on a GPU: without TF32)."""
    side = SIDE[device]
    a = torch.ones(side, side, device=device, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    b, product = a.clone(), torch.empty_like(a)
    seconds = interleaved({"gemm": lambda: torch.matmul(a, b, out=product)})["gemm"]
    return round(2 * side**3 / seconds / 1e9, 1)
