"""What more members bring: NLL and Dice against M."""

__all__ = ["curve_table", "curves"]

from collections.abc import Sequence

import numpy as np

from segcal.analysis.ensembles import Recipe
from segcal.analysis.scores import Scores
from segcal.analysis.variants import PLAIN
from segcal.measure.case import REGIONS, column
from segcal.records import Curve, Table
from segcal.report.tables import number
from segcal.stats import draws_error, spread
from segcal.tasks import TaskSpec


def curves(scores: Scores, chosen: Sequence[Recipe], task: TaskSpec) -> tuple[Curve, ...]:
    """Each metric against M: mean over patients of each draw, then mean, percentiles and error over the draws.

    Dice is the mean over structures. The error corrects for draws of one pool being too alike (see `draws_error`).
    """
    frame = scores.frame[(scores.frame.variant == PLAIN) & (scores.frame.split == "test")]
    dice = [column("dice", name) for name in task.structures]
    wanted = {("nll", region): [column("nll", region)] for region in REGIONS} | {("dice", ""): dice}
    found = []
    for recipe in chosen:
        mine = frame[frame.recipe == recipe.recipe]
        pool = len(recipe.members)
        for (metric, region), names in wanted.items():
            by_draw = mine.groupby(["size", "draw"])[names].mean().mean(axis=1).dropna()
            sizes = sorted(by_draw.index.get_level_values("size").unique())
            if len(sizes) < 2:
                continue
            per_size = [by_draw.loc[size].to_numpy() for size in sizes]
            found.append(
                Curve(
                    label=recipe.label,
                    region=region,
                    metric=metric,
                    pool=pool,
                    sizes=tuple(int(size) for size in sizes),
                    mean=tuple(float(np.mean(values)) for values in per_size),
                    low=tuple(spread(values)[0] for values in per_size),
                    high=tuple(spread(values)[1] for values in per_size),
                    draws=tuple(len(values) for values in per_size),
                    error=tuple(draws_error(v, int(m), pool) for v, m in zip(per_size, sizes, strict=True)),
                )
            )
    return tuple(found)


def curve_table(found: Sequence[Curve]) -> Table:
    """The curves as numbers."""
    sizes = sorted({size for curve in found for size in curve.sizes})
    rows = []
    for curve in found:
        at = {size: index for index, size in enumerate(curve.sizes)}
        cells = tuple(_entry(curve, at[size]) if size in at else "" for size in sizes)
        what = "Dice" if curve.metric == "dice" else f"NLL {curve.region}"
        rows.append((f"{curve.label}: {what}", cells))
    return Table(
        "curve",
        "Scores against the number of members",
        "Mean over the draws (2.5th to 97.5th percentile of the draws); ± the standard error of one ensemble of M "
        "members: standard deviation over draws, divided by the square root of (N-M)/(N-1), because draws out of one "
        "pool of N members overlap and are too alike (none where M = N); and the number of draws.",
        tuple(f"M = {size}" for size in sizes),
        tuple(rows),
    )


def _entry(curve: Curve, index: int) -> str:
    ends = f"({number(curve.low[index])}–{number(curve.high[index])})"
    error = curve.error[index]
    se = "" if np.isnan(error) else f"\n± {error:.2g}"
    drawn = "1 draw" if curve.draws[index] == 1 else f"{curve.draws[index]} draws"
    return f"{number(curve.mean[index])} {ends}{se}\n{drawn} of {curve.pool} members"
