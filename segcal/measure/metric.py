"""A metric of a case: a function of what was summed over its voxels. One function and one line here, or a plug-in.

A plug-in's metric stands in the columns metric@where of a case and in a table of the report.
"""

__all__ = [
    "METRICS", "Metric", "added_metrics", "metrics_of", "region_values", "require_metrics", "structure_values",
]  # fmt: skip

import hashlib
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from segcal.errors import SegcalError
from segcal.measure.calibration import binned_error
from segcal.measure.sums import N_BINS, RegionSums, StructureSums, coarse
from segcal.measure.surface import SurfaceDistances, hd95_of, hd95_pooled
from segcal.plugins import Extensions, Plugin, PluginMismatch, one_line

Frozen = TypeVar("Frozen", bound=RegionSums | StructureSums | SurfaceDistances)


@dataclass(frozen=True)
class Metric:
    """A value for each of the S subsets of members, out of their sums over a region or for a structure.

    compute: takes RegionSums or StructureSums, whose arrays it must not change; returns (S,) numbers, NaN where the
    metric is not defined. title, better and scale say how a table shows it: values are multiplied by scale. source is
    set by segcal.
    """

    of: Literal["region", "structure"]
    compute: Callable[[RegionSums], np.ndarray] | Callable[[StructureSums], np.ndarray]
    title: str = ""
    better: Literal["low", "high"] = "low"
    scale: float = 1.0
    source: str = ""  # of a plug-in's: hash of its module's file as it was when segcal took it


def _ece(n_bins: int) -> Callable[[RegionSums], np.ndarray]:
    return lambda r: binned_error(coarse(r.top, n_bins), r.voxels)


def _dice(s: StructureSums) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        value: np.ndarray = 2.0 * s.common / (s.predicted + s.truth)
    return value


def _entropy(s: StructureSums) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        value: np.ndarray = s.entropy / s.predicted
    return value


def _distance(rule: Callable[[SurfaceDistances], float], s: StructureSums) -> np.ndarray:
    return np.array([np.nan if d is None else rule(d) for d in s.distances])


def _worst(s: StructureSums) -> np.ndarray:
    missed = s.full & ~s.absent & np.array([d is None for d in s.distances])
    worst: np.ndarray = np.where(missed, s.diagonal_mm, _distance(hd95_of, s))
    return worst


def _accept(name: str, given: Any) -> Metric:
    """A plug-in's metric; what it computes is checked where it computes."""
    if not isinstance(given, Metric):
        raise ValueError(f"a metric must be a segcal.measure.metric.Metric, got {type(given).__name__}")
    if given.of not in ("region", "structure") or given.better not in ("low", "high"):
        got = f"{given.of!r} and {given.better!r}"
        raise ValueError(f"a metric must be of 'region' or 'structure', and better 'low' or 'high', got {got}")
    if not callable(given.compute):
        raise ValueError(f"a metric's compute must be a function, got {type(given.compute).__name__}")
    if not np.isfinite(given.scale) or given.scale <= 0:
        raise ValueError(f"a metric's scale must be above 0, got {given.scale}")
    plugin = METRICS.plugin(name)
    return replace(given, title=given.title or name, source=_source(plugin) if plugin else "")


REGION_METRICS: dict[str, Callable[[RegionSums], np.ndarray]] = {
    "voxels": lambda r: np.full(r.nll.shape, float(r.voxels)),
    "nll": lambda r: r.nll / r.voxels,
    "brier": lambda r: r.brier / r.voxels,
    "ece": _ece(N_BINS),
    "ece15": _ece(15),
    "ece20": _ece(20),
    "ece30": _ece(30),
    "ece_classwise": lambda r: binned_error(coarse(r.classwise, N_BINS), r.voxels).mean(axis=-1),
    "accuracy": lambda r: r.top[..., 2].sum(axis=-1) / r.voxels,
    "confidence": lambda r: r.top[..., 1].sum(axis=-1) / r.voxels,
    "p_true": lambda r: r.p_true / r.voxels,
    "clipped": lambda r: r.clipped,
    "nll_loose": lambda r: r.nll_loose / r.voxels,
    "variance": lambda r: r.variance / r.voxels,
    "entropy": lambda r: r.entropy / r.voxels,
    "member_entropy": lambda r: r.member_entropy / r.voxels,
}
STRUCTURE_METRICS: dict[str, Callable[[StructureSums], np.ndarray]] = {
    "dice": _dice,
    "entropy": _entropy,
    "hd95": lambda s: _distance(hd95_of, s),
    "hd95_pooled": lambda s: _distance(hd95_pooled, s),
    "hd95_worst": _worst,
}

# Under every name that is taken; "entropy" is one of both, and is found by metrics_of.
METRICS: Extensions[Metric] = Extensions(
    "metrics",
    "metric",
    {name: Metric("region", compute) for name, compute in REGION_METRICS.items()}
    | {name: Metric("structure", compute) for name, compute in STRUCTURE_METRICS.items()},
    _accept,
)


def metrics_of(kind: Literal["region", "structure"]) -> list[str]:
    """The metrics of regions, or of structures, in the order of their columns."""
    own = REGION_METRICS if kind == "region" else STRUCTURE_METRICS
    return [*own, *(name for name in METRICS.added() if METRICS[name].of == kind)]


def added_metrics() -> tuple[tuple[str, str, str], ...]:
    """Name, package (name==version) and hash of the source of every metric of a plug-in, sorted.

    The source is there for its author, who changes it between two versions: no score is taken for one of other code.
    It is that of the code that runs here, whatever the file holds by now.
    """
    return tuple(sorted((name, plugin.origin, METRICS[name].source) for name, plugin in METRICS.added().items()))


def require_metrics(wanted: Sequence[tuple[str, str, str]]) -> None:
    """Raise PluginMismatch unless this process has these `added_metrics` of another one, of the same source."""
    METRICS.require((name, origin) for name, origin, _ in wanted)
    for name, _, source in wanted:
        here = METRICS[name].source
        if source and here and source != here:
            raise PluginMismatch(
                f"the metric '{name}' of {METRICS.plugin(name)} must be the same code in every process, got another on "
                f"{platform.node()}; start again what runs since before the change, such as segcal serve"
            )


def region_values(name: str, sums: RegionSums) -> np.ndarray:
    """A metric of a region for each subset, (S,). Raises SegcalError for what a plug-in gets wrong."""
    return REGION_METRICS[name](sums) if name in REGION_METRICS else _of_plugin(name, sums, len(sums.nll))


def structure_values(name: str, sums: StructureSums) -> np.ndarray:
    """A metric of a structure for each subset, (S,). Raises SegcalError for what a plug-in gets wrong."""
    return STRUCTURE_METRICS[name](sums) if name in STRUCTURE_METRICS else _of_plugin(name, sums, len(sums.predicted))


def _of_plugin(name: str, sums: RegionSums | StructureSums, subsets: int) -> np.ndarray:
    compute: Callable[[Any], np.ndarray] = METRICS[name].compute
    what = f"the metric '{name}' of {METRICS.plugin(name)}"
    try:
        values = np.asarray(compute(_read_only(sums)), dtype=np.float64)
    except (Exception, SystemExit) as error:
        raise SegcalError(f"{what}: {one_line(error)}; correct or uninstall it") from error
    if values.shape != (subsets,) or np.isinf(values).any():
        got = f"shape {values.shape}" if values.shape != (subsets,) else "an infinite one"
        raise SegcalError(
            f"{what} must give {subsets} numbers, one a subset, or NaN, got {got}; correct or uninstall it"
        )
    return values


def _source(plugin: Plugin) -> str:
    module = sys.modules.get(plugin.object.partition(":")[0].strip())
    try:
        return hashlib.sha256(Path(str(getattr(module, "__file__", None))).read_bytes()).hexdigest()[:16]
    except OSError:  # in an archive, or made at run time
        return ""


def _read_only(sums: Frozen) -> Frozen:
    """The same sums, with arrays that a plug-in cannot change under the metrics that come after it."""
    views: dict[str, Any] = {}
    for f in fields(sums):
        value = getattr(sums, f.name)
        if isinstance(value, np.ndarray):
            views[f.name] = value.view()
            views[f.name].flags.writeable = False
        elif isinstance(value, tuple):  # distances
            views[f.name] = tuple(part and _read_only(part) for part in value)
    return replace(sums, **views)
