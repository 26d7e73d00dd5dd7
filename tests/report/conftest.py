"""A report with something of everything, made by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from segcal.records import (
    CaseView,
    Cell,
    Curve,
    Difference,
    EffectCheck,
    Fit,
    Interval,
    LawCheck,
    Map,
    ModelRef,
    Plate,
    Point,
    ReliabilityBins,
    Report,
    Scatter,
    Table,
)  # fmt: skip

NAN = float("nan")
STRUCTURES = ("gland", "lesion")
METHODS = (
    "Cross entropy",
    "Cross entropy, MC dropout",
    "Cross entropy, ensemble of 50",
    "Soft Dice",
    "Soft Dice, MC dropout",
    "Soft Dice, ensemble of 50",
)
SIZES = (1, 2, 5, 10, 25, 50)


def make_cell(point=0.29, low=0.11, high=0.71, best=False, excluded=0):
    return Cell(point, Interval(low, high, "spread"), Interval(0.25, 0.33, "ci"), 8 - excluded, excluded, best)


def make_bins(title="Soft Dice", region="box", scale=1.0):
    edges = np.linspace(0, 1, 11)
    count = (np.array([0, 0, 0, 0, 0, 400, 1500, 2000, 5000, 90000]) * scale).astype(int)
    confidence = np.where(count > 0, edges[:-1] + 0.05, NAN)
    return ReliabilityBins(title, region, edges, count, confidence, confidence**2, 0.0312)


def make_map(title, side, centre, sharpness):
    y, x = np.mgrid[0:side, 0:side] / side
    distance = np.hypot(y - centre[0], x - centre[1])
    probability = 1 / (1 + np.exp(-np.clip(sharpness * (0.2 - distance), -30, 30)))
    histogram = np.histogram(probability[probability > 0.5], bins=20, range=(0, 1))[0]
    scores = (("ECE %", 3.1), ("NLL", 0.0521), ("Brier", 0.071))
    return Map(title, probability, scores, make_bins(title, "whole"), histogram)


def make_view(index, titles, side=24, domain="source", z=7, spacing_mm=(0.5, 0.5)):
    rng = np.random.default_rng(index)
    y, x = np.mgrid[0:side, 0:side] / side
    distance = np.hypot(y - 0.5, x - 0.5)
    image = np.clip(0.75 - distance + 0.08 * rng.standard_normal((side, side)), 0, 1)
    truth = np.where(distance < 0.1, 2, np.where(distance < 0.2, 1, 0))
    blur = 60 if domain == "source" else 18
    maps = tuple(make_map(title, side, (0.5 + 0.03 * index, 0.5), blur + 5 * i) for i, title in enumerate(titles))
    caption = f"{('best', 'median', 'worst')[index % 3]}, mean Dice {0.91 - 0.2 * index:.2f}"
    return CaseView(f"Case{index:02d}", caption, domain, z, spacing_mm, image, truth, maps)


def make_scatter(title, loss, targets=True, n=12):
    rng = np.random.default_rng(len(title))
    points = []
    for index in range(n):
        for shift, structure in enumerate(STRUCTURES):
            for domain in ("source", "target") if targets else ("source",):
                entropy = 0.05 + 0.02 * index + 0.02 * shift + (0.15 if domain == "target" else 0)
                case_id = f"Case{index:02d}" if domain == "source" else f"Other{index:02d}"
                logit = 3 - 10 * entropy + 0.3 * rng.standard_normal()
                points.append(Point(case_id, structure, domain, entropy, logit))
    fits = [Fit("all", len(points), -0.85, 0.0004, -0.8, 0.012, -10.0, 3.0)]
    if targets:
        fits += [Fit(domain, len(points) // 2, -0.5, 0.2, -0.45, 0.25, -9.0, 2.9) for domain in ("source", "target")]
    return Scatter(title, loss, tuple(points), tuple(fits), clipped=2, empty=1)


def make_curves():
    curves = []
    for shift, label in ((0.0, "Cross entropy"), (0.1, "Soft Dice")):
        for metric, region, start in (("nll", "box", 0.4), ("nll", "whole", 0.04), ("dice", "", 0.8)):
            mean = tuple(start + shift + (-1 if metric == "nll" else 1) * 0.03 * math.log(size) for size in SIZES)
            low = tuple(m - 0.02 / size for m, size in zip(mean, SIZES, strict=True))
            high = tuple(m + 0.02 / size for m, size in zip(mean, SIZES, strict=True))
            error = (0.008, 0.006, 0.004, 0.003, 0.003, NAN)
            curves.append(Curve(label, region, metric, 50, SIZES, mean, low, high, (50,) * 5 + (1,), error))
    return tuple(curves)


def make_tables():
    scores = tuple((title, (make_cell(0.2 + 0.01 * i, best=i == 5), make_cell(2.5 + i, excluded=i)))
                   for i, title in enumerate(METHODS))  # fmt: skip
    score_tables = [
        Table(key, title, "By patient; 100% of p<0.01.", ("NLL", "ECE %"), scores, ("low", "low"))
        for key, title in (("whole", "Whole volume"), ("box", "In the box"), ("hd95", "HD95"), ("ood", "Domains"))
    ]
    difference = Difference(0.0123, Interval(-0.0034, 0.0271, "ci"), 0.004, 0.8)
    untested = Difference(-0.2, Interval(NAN, NAN, "ci"))
    differences = Table("differences", "Differences", "First less second.", ("NLL", "Dice"),
                        (("Soft Dice − cross entropy", (difference, untested)),))  # fmt: skip
    published = Table("paper_table_2", "Table II, published", "As printed.", ("NLL", "here"),
                      (("Brain (L_DSC)", ("1.46 (0.40–3.02)", "x")), ("Brain (EN)", ("0.2", "y"))),
                      marked=frozenset({0}))  # fmt: skip
    texts = [
        Table(key, key.title(), "Text.", ("cases", "sites"), (("train", ("20", "A, B")), ("test", ("8", "C"))))
        for key in ("data", "members", "recipes", "sensitivity", "pooled", "segments", "curve", "unheard_of")
    ]
    return (*score_tables, differences, published, *texts)


def make_report(side=24, task="prostate", members=3, spacing_mm=(0.5, 0.5)):
    def views(titles, domains, zs=(7,)):
        return tuple(
            make_view(i, titles, side, domain, z, spacing_mm) for i, domain in enumerate(domains) for z in zs
        )  # fmt: skip

    grown = tuple(f"M = {size}" for size in SIZES)
    last = METHODS[-1:]
    plates = (
        Plate("figure_1", views((METHODS[3], METHODS[5]), ("source", "target"))),
        Plate("figure_3", views(last, ("target", "target"), zs=(5, 8, 11))),
        Plate("methods", views(METHODS, ("source", "source", "source"))),
        Plate("members_dice", views(grown, ("source", "source"))),
        Plate("members_ce", views(grown, ("source", "source"))),
        Plate("confidence", views(last, ("source", "source", "target", "target"))),
    )
    refs = tuple(
        ModelRef(f"segcal-{task}-{recipe}", i + 1, "id", "run", task, recipe, recipe, i, "digest", "1.0", "key",
                 "ab" * 32, 0.9, 40 + i, 0)
        for recipe in ("cross_entropy", "soft_dice") for i in range(members)
    )  # fmt: skip
    scatters = (
        make_scatter("Cross entropy", "cross_entropy"),
        make_scatter("Cross entropy, ensemble of 50", "cross_entropy"),
        make_scatter("Soft Dice", "soft_dice"),
        make_scatter("Soft Dice, ensemble of 50", "soft_dice"),
        make_scatter("Soft Dice, MC dropout, ensemble of 50", "soft_dice"),
    )
    effects = tuple(
        EffectCheck(f"L{i}", f"Law {i} says a > b", "the difference of a and b", 0.1 * i if i < 8 else NAN,
                    Interval(0.05 * i, 0.2 * i, "ci") if i < 8 else Interval(NAN, NAN, "ci"),
                    "FAIL" if i == 3 else "INCONCLUSIVE" if i == 8 else "PASS", "the paper's own prostate fails it")
        for i in range(1, 9)
    )  # fmt: skip
    return Report(
        experiment="calib", task=task, data_digest="d1g357", code_version="1.0", created="2026-01-01T00:00:00+00:00",
        seed=0, n_resamples=10000, structures=STRUCTURES, test_cases=tuple(f"Case{i:02d}" for i in range(8)),
        ood_cases=("Other00", "Other01"), members=refs, findings=("Ensembles lower the NLL & more.", "Two."),
        notes=("8 test patients: intervals are wide.",), conventions=(("NLL", "Eq. 3 < natural logarithm"),),
        tables=make_tables(), curves=make_curves(),
        reliability=tuple(make_bins(title, region) for region in ("box", "whole") for title in METHODS),
        scatters=scatters, plates=plates,
        laws=(LawCheck("ECE(15) <= ECE(30)", 96, 0), LawCheck("|conf - acc| <= ECE", 96, 0)), effects=effects,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make():
    """The makers above, for tests that need a part of another kind."""
    return SimpleNamespace(
        report=make_report, cell=make_cell, bins=make_bins, map=make_map, view=make_view, scatter=make_scatter
    )


@pytest.fixture(scope="session")
def full_report():
    return make_report()
