"""What scoring costs beside the inference it goes with: one brain case, one process, one thread.

The networks are the paper's with random weights, whose label maps are noise that no trained network makes; so their
predictions are timed, and what is scored in their place is made up to look like segmentations. Times are of the process
(CPU time).
"""

__all__ = ["measure"]

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from benchmarks.made_up import MadeUp
from benchmarks.table import Row
from segcal.analysis.ensembles import Recipe, Subset, all_subsets
from segcal.learn.fit import build
from segcal.learn.predict import SLAB, predict_slabs, restore
from segcal.measure.case import CaseTally
from segcal.measure.surface import SurfaceDistances, TruthSurface
from segcal.records import ModelRef
from segcal.tasks import TASKS, TaskSpec
from segcal.trial import TrialConfig
from segcal.volume import Case, Prediction

MEMBERS, SLICES, DRAWS = 20, 16, 20
ALL_MEMBERS, ALL_SLICES, ALL_DRAWS = 100, 78, 50
SIDE = 224
BANDS_MM = (8.0, 13.0, 22.0)  # a tumour that fills the slices that are measured
GOAL = "25% of inference"


@dataclass
class Clock:
    """Seconds of CPU by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=dict)

    def spent(self, on: str, since: float) -> None:
        self.seconds[on] = self.seconds.get(on, 0.0) + time.process_time() - since


class TimedSurface(TruthSurface):
    """Distances to the truth's surface."""


def measure() -> list[Row]:
    """All rows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _rows()
    finally:
        torch.set_num_threads(threads)
