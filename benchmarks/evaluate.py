"""What scoring costs beside the inference it goes with: a brain case, in one thread.

The networks are the paper's with random weights, whose label maps are noise that no trained network makes; so their
predictions are timed, and what is scored in their place is made up to look like segmentations. The steps are those of
`segcal.analysis.evaluate.score_job`, with the readings of a recipe with class weights. Times are of the process (CPU).
"""

__all__ = ["measure"]

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from benchmarks.made_up import MadeUp
from benchmarks.table import Row
from segcal.analysis.ensembles import Recipe, Subset, all_subsets
from segcal.analysis.variants import PLAIN, VARIANTS
from segcal.learn.fit import build, channels_last
from segcal.learn.fold import folded
from segcal.learn.predict import SLAB, predict_slabs
from segcal.learn.unet import UNet
from segcal.measure.case import CaseTally
from segcal.measure.surface import TruthSurface
from segcal.records import ModelRef
from segcal.tasks import TASKS
from segcal.trial import TrialConfig
from segcal.volume import Prediction

SHAPE = (16, 224, 224)
ALL_SLICES = 78
BANDS_MM = (8.0, 13.0, 22.0)
GOAL = "inference 4x"  # scoring below a quarter of it

BRAIN = TASKS["brain"]
CONFIG = TrialConfig(
    task=BRAIN.name, label="ce", data_digest="", in_channels=len(BRAIN.channels), n_classes=BRAIN.n_classes, dims=2,
    seed=0, loss="cross_entropy", head="softmax", weights="inverse_frequency", class_weights=(0.3, 4.0, 2.0, 4.0),
    batch=BRAIN.batch,
)  # fmt: skip


def measure() -> list[Row]:
    """All rows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made_up = MadeUp.of(SHAPE, (2.0, 1.0, 1.0), BANDS_MM)
        net = channels_last(folded(build(CONFIG)), torch.device("cpu"))
        _score(made_up, net, *_subsets(2, (1, 2), 1))  # compiles, warms up
        few = _score(made_up, net, *_subsets(20, (1, 2, 5, 10), 20))
        many = _score(made_up, net, *_subsets(100, (1, 2, 5, 10, 25, 50), 50))
    finally:
        torch.set_num_threads(threads)
    size = "x".join(map(str, SHAPE))
    rows = [
        *_rows(f"20 members, {size}, 3 x 20 draws", few),
        *_rows(f"100 members, {size}, 5 x 50 draws", many),
    ]
    scale = ALL_SLICES / SHAPE[0]
    whole = {name: seconds * scale for name, seconds in many.items()}
    note = "all parts times slices; too much for distances, as no tumour fills them"
    return [*rows, _row(f"100 members, {ALL_SLICES} slices, 5 x 50 draws", whole, note)]


def _rows(what: str, spent: dict[str, float]) -> list[Row]:
    parts = [name for name in spent if name != "inference"]
    return [_row(what, spent), *(Row(f"  {name}", spent[name]) for name in parts)]


def _row(what: str, spent: dict[str, float], note: str = "") -> Row:
    scoring, inference = sum(spent.values()) - spent["inference"], spent["inference"]
    share = f"plain: inference; scoring is {scoring / inference:.0%} of it"
    return Row(f"score: {what}", scoring, inference, goal=GOAL, note=f"{share}; {note}" if note else share)


def _subsets(members: int, sizes: tuple[int, ...], draws: int) -> tuple[int, list[Subset]]:
    refs = tuple(
        ModelRef("", 0, "", "", BRAIN.name, CONFIG.recipe, "ce", seed, "", "", "", "", 0.0, 0, 0)
        for seed in range(members)
    )  # fmt: skip
    task = replace(BRAIN, ensemble_sizes=sizes, curve_draws=draws)
    return members, all_subsets([Recipe(CONFIG.recipe, "ce", refs)], {CONFIG.recipe: CONFIG}, task, seed=0)


def _score(made_up: MadeUp, net: UNet, members: int, subsets: list[Subset]) -> dict[str, float]:
    """Seconds by what they were spent on; making the predictions up is left out."""
    spent: defaultdict[str, float] = defaultdict(float)
    surfaces: dict[int, TruthSurface | None] = {}
    tallies = [
        (variant, _tally(made_up, [subset for subset in subsets if subset.variant == variant], surfaces))
        for variant in dict.fromkeys(subset.variant for subset in subsets)
    ]
    image = np.random.default_rng(0).random((CONFIG.in_channels, *SHAPE), dtype=np.float32)
    streams = [predict_slabs(net, CONFIG.head, image, torch.device("cpu")) for _ in range(members)]

    def predicted(first: int) -> Iterator[Prediction]:
        for member, stream in enumerate(streams):
            started = time.process_time()
            next(stream)
            spent["inference"] += time.process_time() - started
            made = made_up.prediction(member, first, min(first + SLAB, SHAPE[0]))
            spent["outside"] += time.process_time() - started
            yield made

    probs: np.ndarray | None = None
    for first in range(0, SHAPE[0], SLAB):
        spent["outside"] = 0.0
        started = time.process_time()
        slab = tallies[0][1].slab(first, predicted(first), members)
        collected = time.process_time()
        spent["collecting"] += collected - started - spent.pop("outside")
        for variant, tally in tallies:
            started = time.process_time()
            read, name = slab, "grid"
            if variant != PLAIN:
                probs = VARIANTS[variant].read(slab.probs, CONFIG, probs)
                read = replace(slab, probs=probs, exact_nll=np.full_like(slab.exact_nll, np.nan))
                spent[variant] += time.process_time() - started
                started, name = time.process_time(), f"grid, {variant}"
            tally.add(read)
            spent[name] += time.process_time() - started
    started = time.process_time()
    for _, tally in tallies:
        tally.scores()
    spent["distances and metrics"] += time.process_time() - started
    return spent


def _tally(made_up: MadeUp, subsets: list[Subset], surfaces: dict[int, TruthSurface | None]) -> CaseTally:
    return CaseTally(
        made_up.case, BRAIN, [subset.members for subset in subsets], np.array([subset.full for subset in subsets]),
        np.array([subset.decomposed for subset in subsets]), surfaces,
    )  # fmt: skip
