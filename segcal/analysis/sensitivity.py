"""What the numbers would be under other choices where the paper is silent; and pooled instead of by patient."""

__all__ = ["pooled_table", "reliability", "sensitivity_table"]

from collections.abc import Callable, Sequence

import numpy as np

from segcal.analysis.compare import mean
from segcal.analysis.roles import CE, Roles
from segcal.analysis.scores import Scores
from segcal.analysis.variants import PLAIN, VARIANTS
from segcal.measure.calibration import binned_error, reliability_of_bins
from segcal.measure.case import REGIONS, column
from segcal.measure.grid import LOOSE_CLIP
from segcal.records import Method, ReliabilityBins, Table
from segcal.report.tables import number
from segcal.tasks import TaskSpec


def sensitivity_table(scores: Scores, roles: Roles, task: TaskSpec) -> Table:
    """One row a choice, one column a method; means over test patients, box."""
    methods = roles.methods
    metrics: list[tuple[str, Callable[[Method], str]]] = [
        ("ECE %, 10 bins (default)", _value(scores, column("ece", "box"), 100)),
        ("ECE %, 15 bins", _value(scores, column("ece15", "box"), 100)),
        ("ECE %, 20 bins", _value(scores, column("ece20", "box"), 100)),
        ("Brier, summed over classes (default)", _value(scores, column("brier", "box"))),
        ("Brier, mean over classes (Eq. 4 as printed)", _value(scores, column("brier", "box"), 1 / task.n_classes)),
        ("NLL, clip 1e-12; single models exact (default)", _value(scores, column("nll", "box"))),
        (f"NLL, every model clipped at {LOOSE_CLIP:g}", _value(scores, column("nll_loose", "box"))),
    ]
    for name, variant in VARIANTS.items():
        for metric, title, scale in (("nll", "NLL", 1.0), ("brier", "Brier", 1.0), ("ece", "ECE %", 100.0)):
            metrics.append((f"{title}, {variant.title}", _value(scores, column(metric, "box"), scale, name)))
        metrics.append((f"mean Dice, {variant.title}", _mean_of(scores, "dice", task, name)))
    metrics += _other_weights(scores, roles, task)
    metrics += [
        ("mean Dice (default)", _mean_of(scores, "dice", task)),
        ("HD95, mm, larger direction (default)", _mean_of(scores, "hd95", task)),
        ("HD95, mm, both directions pooled", _mean_of(scores, "hd95_pooled", task)),
        ("HD95, mm, missed structures = image diagonal", _mean_of(scores, "hd95_worst", task)),
    ]
    rows = []
    for title, of in metrics:
        cells = tuple(of(method) for method in methods)
        if any(cells):
            rows.append((title, cells))
    caption = (
        "Means over test patients in the box, with one choice changed at a time; an empty field: the choice says "
        "nothing about that method. Other readings of an ensemble are of its first draw. HD95 and Dice: mean over "
        f"structures. {_weights(roles)}"
    )
    return Table("sensitivity", "Sensitivity to conventions", caption, tuple(m.title for m in methods), tuple(rows))


def pooled_table(scores: Scores, methods: Sequence[Method]) -> Table:
    """ECE of all test voxels together beside the mean over patients."""
    rows = []
    for method in methods:
        cells = []
        for region in REGIONS:
            top, classwise = scores.pooled(method, region)
            voxels = int(top[:, 0].sum())
            for bins, metric in ((top, "ece"), (classwise, "ece_classwise")):
                pooled = 100 * float(np.mean(binned_error(bins, voxels))) if voxels else float("nan")
                by_patient = 100 * mean(scores.by_patient(method, column(metric, region)))
                cells.append(f"{number(pooled)}\nby patient {number(by_patient)}")
        rows.append((method.title, tuple(cells)))
    titles = [f"{what} %, {region}" for region in REGIONS for what in ("ECE", "class-wise ECE")]
    return Table(
        "pooled",
        "Pooled calibration",
        "Expected calibration error of all test voxels (and draws) in one set of bins, beside the mean of each "
        "patient's own. Errors of opposite sign in different patients cancel in the pool.",
        tuple(titles),
        tuple(rows),
    )


def reliability(scores: Scores, methods: Sequence[Method]) -> tuple[ReliabilityBins, ...]:
    """Pooled reliability diagrams."""
    found = []
    for region in REGIONS:
        for method in methods:
            r = reliability_of_bins(*scores.pooled(method, region)[0].T)
            found.append(ReliabilityBins(method.title, region, r.edges, r.count, r.confidence, r.accuracy, r.ece))
    return tuple(found)


def _other_weights(scores: Scores, roles: Roles, task: TaskSpec) -> list[tuple[str, Callable[[Method], str]]]:
    """In the columns of cross-entropy: what its recipes with another rule of class weights say."""
    usual = {m.size > 1: m for m in (roles.method("CE"), roles.method("EN CE")) if m is not None}
    if False not in usual:
        return []
    rule = roles.configs[usual[False].recipe].weights
    rows: list[tuple[str, Callable[[Method], str]]] = []
    for recipe, config in roles.configs.items():
        if config.loss != CE or config.sampled or config.weights == rule:
            continue
        mine = {m.size > 1: m for m in roles.methods if m.recipe == recipe}
        instead = {usual[size]: mine[size] for size in usual.keys() & mine.keys()}
        of = {
            "NLL": _value(scores, column("nll", "box")),
            "Brier": _value(scores, column("brier", "box")),
            "ECE %": _value(scores, column("ece", "box"), 100),
            "mean Dice": _mean_of(scores, "dice", task),
        }
        for title, value in of.items():
            rows.append((f"{title}, class weights {config.weights} instead of {rule}", _instead(instead, value)))
    return rows


def _instead(methods: dict[Method, Method], value: Callable[[Method], str]) -> Callable[[Method], str]:
    return lambda method: value(methods[method]) if method in methods else ""


def _value(scores: Scores, name: str, scale: float = 1.0, variant: str = PLAIN) -> Callable[[Method], str]:
    def of(method: Method) -> str:
        if not scores.rows(method, variant).any():
            return ""
        return number(scale * mean(scores.by_patient(method, name, variant)))

    return of


def _mean_of(scores: Scores, metric: str, task: TaskSpec, variant: str = PLAIN) -> Callable[[Method], str]:
    def of(method: Method) -> str:
        if not scores.rows(method, variant).any():
            return ""
        values = [mean(scores.by_patient(method, column(metric, name), variant)) for name in task.structures]
        return number(mean(np.array(values)))

    return of


def _weights(roles: Roles) -> str:
    """Whether the experiment can say what the class weights of cross-entropy do."""
    rules = {roles.configs[m.recipe].weights for m in roles.methods if m.loss == CE and not m.mc_samples}
    if len(rules) > 1:
        return (
            f"Class weights of cross-entropy: recipes with {' and '.join(sorted(rules))}, each with its own ensemble."
        )
    return (
        "Class weights of cross-entropy: only one rule was trained"
        f"{' (' + rules.pop() + ')' if rules else ''}; add a recipe with weights: none to the sweep to compare."
    )
