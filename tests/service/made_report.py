"""A report made by hand, two methods by four patients by two structures, and a store that holds it. No network."""

__all__ = ["CASES", "ENSEMBLE", "SINGLE", "explorer", "fill", "make_report"]

import functools
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from segcal.ledger.names import tag
from segcal.ledger.report_run import begin_report, end_report, keep_report
from segcal.measure.case import columns
from segcal.records import (
    Cell,
    Curve,
    Difference,
    Fit,
    Interval,
    Method,
    Point,
    ReliabilityBins,
    Report,
    Scatter,
    Table,
)
from segcal.report.page import write_report
from segcal.service.catalogue import Catalogue
from segcal.service.explorer.pages import router
from segcal.service.refusals import add_handlers
from segcal.service.render import DASHBOARDS
from segcal.service.settings import Settings

SINGLE, ENSEMBLE = "ce <b>", "ce <b>, ensemble of 3"  # a label may be called anything
CASES = {"a 1": "source", "b/2": "source", "c-3": "target", "d-4": "target"}
STRUCTURES = ("core", "edema")
DIGEST = "d" * 16
NAN = float("nan")


def cell(point, low=NAN, high=NAN, *, excluded=0, best=False):
    """A cell whose confidence interval is half as wide as its spread."""
    ci = Interval(point - (point - low) / 2, point + (high - point) / 2, "ci")
    return Cell(point, Interval(low, high, "spread"), ci, 4 - excluded, excluded, best)


def make_report() -> Report:
    """Numbers that a test can know by heart."""
    box = Table(
        "box", "Calibration in the box", "Means over patients.", ("NLL", "Dice core"),
        (
            (SINGLE, (cell(0.9, 0.5, 1.3), cell(0.25, 0.1, 0.5))),
            (ENSEMBLE, (cell(0.1, 0.05, 0.15, best=True), cell(0.75, 0.5, 0.9, excluded=1))),
            ("prior", (cell(0.5, 0.4, 0.6), cell(NAN))),
        ),
        ("low", "high"), frozenset({2}),
    )  # fmt: skip
    pairs = Table(
        "differences", "Differences", "", ("NLL",),
        ((f"{ENSEMBLE} minus {SINGLE}", (Difference(-0.8, Interval(-1.0, -0.6, "ci"), 0.0004, -2.0),)),),
    )  # fmt: skip
    texts = Table("data", "Data", "", ("cases", "site"), (("train", ("10", "b")), ("val", ("9", "a"))))
    edges = np.linspace(0, 1, 11)
    count = np.array([0, 0, 0, 0, 0, 12, 1000, 1001, 5000, 90000])
    middle = np.where(count > 0, edges[:-1] + 0.05, NAN)
    bins = [ReliabilityBins(title, region, edges, count, middle, middle - 0.02, 0.02)
            for region in ("box", "whole") for title in (SINGLE, ENSEMBLE)]  # fmt: skip
    return Report(
        experiment="exp", task="tiny", data_digest=DIGEST, code_version="1", created="2026-01-01T00:00:00+00:00",
        seed=0, n_resamples=100, structures=STRUCTURES, test_cases=("a 1", "b/2"), ood_cases=("c-3", "d-4"), members=(),
        findings=("An ensemble of 3 is better & <b>cheaper</b>.",), notes=("4 patients.",), conventions=(),
        tables=(box, pairs, texts), curves=_curves(), reliability=tuple(bins), scatters=_scatters(), plates=(), laws=(),
        effects=(),
    )  # fmt: skip


def _curves():
    values = ((0.9, 0.5, 0.1), (0.8, 0.45, 0.1), (1.0, 0.55, 0.1))
    return tuple(
        Curve(SINGLE, region, metric, 3, (1, 2, 3), *values, (3, 3, 1), (0.05, 0.02, NAN))
        for metric, region in (("nll", "box"), ("dice", ""))
    )


def _scatters():
    def points(shift):
        return tuple(
            Point(case_id, structure, domain, 0.1 * (i + 1) + 0.05 * s, math.log(dice / (1 - dice)))
            for i, (case_id, domain) in enumerate(CASES.items())
            for s, (structure, dice) in enumerate(zip(STRUCTURES, (0.9 - 0.2 * i + shift, 0.8 - 0.2 * i), strict=True))
        )

    fits = tuple(Fit(d, 8, -0.9, 0.01, -0.8, 0.02, -4.0, 2.0, -0.7) for d in ("all", "source", "target"))
    return (
        Scatter(SINGLE, "cross_entropy", points(0.0), fits, 0, 1),
        Scatter(ENSEMBLE, "cross_entropy", points(0.05), fits, 0, 0),
    )


def make_frame(names) -> pd.DataFrame:
    """Scores: Dice of a single model 0.1 a case and draw, of the ensemble 0.5 more; H(S) of the last case undefined."""
    rows = []
    for size, draws in ((1, 3), (3, 1), (2, 3)):
        for draw in range(draws):
            for i, (case_id, domain) in enumerate(CASES.items()):
                row = dict.fromkeys(names, NAN)
                for structure in STRUCTURES:
                    row[f"dice@{structure}"] = 0.1 * i + 0.1 * draw + (0.4 if size == 3 else 0.0)
                    row[f"entropy@{structure}"] = NAN if i == 3 else 0.2 * i
                rows.append({
                    "recipe": "r", "label": SINGLE, "variant": "", "size": size, "draw": draw, "seeds": [draw],
                    "full": size != 2, "case_id": case_id, "site": "here", "domain": domain,
                    "split": "test" if domain == "source" else "ood", **row,
                })  # fmt: skip
    frame = pd.DataFrame(rows)
    other = frame.assign(variant="raw", **{f"dice@{s}": 9.0 for s in STRUCTURES})
    return pd.concat([frame, other], ignore_index=True).astype({"label": "category", "variant": "category"})


@functools.cache
def _written(names: tuple[str, ...]) -> dict[str, bytes]:
    """The files of the report's folder; drawing them takes seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        write_report(make_report(), make_frame(names), out)
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def fill(client, folder: Path, task) -> dict[str, str]:
    """An experiment `exp` with 3 members and three reports: run ids by how they ended."""
    client.create_experiment("exp", artifact_location=(folder / "artifacts").as_uri())
    client.create_experiment("of somebody else")
    for seed in range(3):
        _register(client, seed)
    for name, content in _written(tuple(columns(task))).items():
        (folder / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "out" / name).write_bytes(content)
    ids = {}
    for status in ("FINISHED", "FAILED", "RUNNING"):
        ids[status] = begin_report(client, "exp", status, status.lower(), {"methods": ["ce"], "sizes": [1, 3]})
    keep_report(client, ids["FINISHED"], folder / "out", {"tiny": ""}, {}, {})
    end_report(client, ids["FINISHED"], "FINISHED")
    end_report(client, ids["FAILED"], "FAILED", "the disk <full>")
    word = {"what": "scores", "done": 3, "total": 12, "name": "a 1"}
    client.set_tag(ids["RUNNING"], tag("progress"), json.dumps(word))
    return ids


def _register(client, seed):
    name = "segcal-tiny-cross_entropy-abc"
    if seed == 0:
        client.create_registered_model(name)
    told = {
        "experiment": "exp", "task": "tiny", "recipe": "cross_entropy-abc", "label": SINGLE, "seed": seed,
        "data_digest": DIGEST, "code_version": "1", "key": f"k{seed}", "weights_sha256": "0" * 64,
        "val_dice": 0.5 + 0.1 * seed, "epoch": 1,
    }  # fmt: skip
    tags = {tag(key): str(value) for key, value in told.items()}
    client.create_model_version(name, source=f"/nowhere/{seed}", tags=tags)


def explorer(client, **settings) -> FastAPI:
    """The explorer alone; a case's page only names itself."""
    app = FastAPI()
    app.state.settings = Settings(tracking_uri="", **settings)
    app.state.catalogue = Catalogue(client)

    @app.get("/reports/{run_id}/{task}/cases/{case_id}")
    def _case(case_id: str) -> HTMLResponse:
        return HTMLResponse(f"<!doctype html><title>case</title><link rel=icon href=data:,><h1>{case_id}</h1>")

    app.include_router(router)
    add_handlers(app)
    app.mount("/assets", StaticFiles(directory=(DASHBOARDS / "assets").resolve()))
    return app


assert Method("r", SINGLE, 3).title == ENSEMBLE
