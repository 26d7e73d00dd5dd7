"""The page of a case: its pictures, whose state is in its URL, and its numbers; and what scripts fetch for it."""

__all__ = ["router"]

import hashlib
import threading
from collections import OrderedDict
from typing import Any
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, FastAPI, Request, Response

from segcal.analysis.ensembles import Recipe
from segcal.analysis.members import load_pool
from segcal.environment import home
from segcal.errors import SegcalError
from segcal.measure.calibration import reliability_of_bins
from segcal.measure.case import REGIONS, column
from segcal.service.catalogue import Catalogue
from segcal.service.errors import Refusal
from segcal.service.explorer import case_slices as slices
from segcal.service.explorer.case_asked import Asked, Question, known
from segcal.service.explorer.case_charts import histogram_svg, reliability_svg
from segcal.service.explorer.case_choice import offers, reported_scores
from segcal.service.explorer.case_maps import FULL, KINDS, MEMBERS_BYTES, CaseMaps, MapStore, Say, Waiting, predict_maps
from segcal.service.explorer.case_volumes import volume_bytes
from segcal.service.explorer.pages import VIEWS as TABS
from segcal.service.render import PageRoute, mlflow_url, page

AT_ONCE_S = 0.4  # a small case is predicted while its page is made
PATIENCE_S = 25.0  # of who asks for a picture that is not predicted yet
PACKED_BYTES = 128 * 2**20  # volumes in memory
SAME = 1e-6  # by how much a score may differ from the report's: another processor rounds otherwise
STRIP = 12  # members beside each other
HERE = "/reports/{run_id}/{task}/cases/{case_id}"

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_making = threading.Lock()


@router.get(HERE)
def case_page(request: Request, question: Question) -> Response:
    """The page; where the maps are not there yet, it says so and asks again."""
    maps, problem = _maps(request.app, question, AT_ONCE_S)
    response = page(
        request, "case.html", **_frame(question), **_links(request, question), **_numbers(question, maps),
        strip=_strip(request.app, question),
        q=question, query=question.query(), problem=problem,
        waiting=_told(maps) if isinstance(maps, Waiting) else None, state=_state(request, question, maps),
        values=_values(question, maps), legends=_legends(question),
    )  # fmt: skip
    if problem:
        response.status_code = 409
    return response


@router.get(HERE + "/progress")
def progress(request: Request, question: Question) -> Response:
    """How far the prediction is; once it is there, or has failed, the page is loaded anew."""
    maps, _ = _maps(request.app, question)
    if isinstance(maps, Waiting):
        return page(request, "case_waiting.html", waiting=_told(maps))
    return Response(headers={"hx-refresh": "true", "cache-control": "no-store"})


@router.get(HERE + "/values")
def values(request: Request, question: Question) -> Response:
    """What the image, the prediction and the truth say of a voxel."""
    maps, _ = _maps(request.app, question)
    return page(request, "case_values.html", values=_values(question, maps), q=question)


@router.get(HERE + "/slices/{axis}.png")
def slice_picture(request: Request, question: Question, axis: str) -> Response:
    """A slice through the chosen voxel as PNG."""
    known("axis", axis, slices.AXES)
    maps = _needed(request.app, question) if question.look.layer != "none" else None
    index = question.at[slices.AXES.index(axis)]
    content = slices.render_slice(question.case, maps, question.look, axis, index)
    return _sent(request, content, "image/png", hashlib.sha256(content).hexdigest()[:24])


@router.get(HERE + "/volumes/{name}.nii.gz")
def volume(request: Request, question: Question, name: str) -> Response:
    """An image or a map as NIfTI."""
    free = name.split("-")[0] not in ("p", "entropy", "error", "labels")  # needs no prediction
    maps = None if free else _needed(request.app, question)
    whose = "" if free else question.choice.key(question.split)
    tag = hashlib.sha256(f"{question.name(())} {whose} {name}".encode()).hexdigest()[:24]
    structures = len(question.structures)
    content = _packed(request.app).get(tag, lambda: volume_bytes(name, question.case, maps, structures))
    return _sent(request, content, "application/gzip", tag)


def store(app: FastAPI) -> MapStore:
    """The maps that an application keeps."""
    with _making:
        if not hasattr(app.state, "case_maps"):
            app.state.case_maps = MapStore(home() / "views")
        found: MapStore = app.state.case_maps
        return found


def _maps(app: FastAPI, question: Asked, seconds: float = 0.0) -> tuple[CaseMaps | Waiting | None, str]:
    """The maps of the choice, or how far they are; or None and what is wrong."""
    kept, choice = store(app), question.choice
    name = question.name(choice.predicting)
    try:
        found = kept.ask(name, lambda say: _predict(app, question, say))
        if isinstance(found, Waiting) and seconds:
            kept.wait(name, seconds)
            found = kept.ask(name, lambda say: _predict(app, question, say))
        return found, ""
    except SegcalError as error:
        return None, str(error)


def _needed(app: FastAPI, question: Asked) -> CaseMaps:
    maps, problem = _maps(app, question, PATIENCE_S)
    if problem:
        raise Refusal(409, problem)
    if not isinstance(maps, CaseMaps):
        raise Refusal(503, "the case is being predicted; ask again in a while", {"retry-after": "5"})
    return maps


def _predict(app: FastAPI, question: Asked, say: Say) -> dict[str, CaseMaps]:
    """The maps of the choice by their place; of an ensemble with those of its members, where they are small enough."""
    refs, case = question.choice.predicting, question.case
    recipe = Recipe(refs[0].recipe, refs[0].label, refs)
    task, pool = load_pool(app.state.client, [recipe], str(question.report.content["data_digest"]))
    bytes_each = case.truth.size * (2 * task.n_classes + 1)
    alone = len(refs) > 1 and len(refs) * bytes_each <= MEMBERS_BYTES
    made = predict_maps(pool[refs[0].recipe], case, task, alone, say)
    names = [question.name(refs)] + [question.name((ref,)) for ref in refs if alone]
    return dict(reversed(list(zip(names, made, strict=True))))  # the one that was asked for last: it stays in memory


def _told(waiting: Waiting) -> str:
    if waiting.ahead:
        return f"waiting for {waiting.ahead} other predictions"
    return f"{waiting.done} of {waiting.total} slices" if waiting.total else "reading the weights"


def _frame(question: Asked) -> dict[str, Any]:
    """What every page of a report is told."""
    run, base = question.report.run, question.here.rpartition("/cases/")[0]
    return {"run": run, "task": question.report.task, "base": base, "view": "cases", "views": TABS}


def _links(request: Request, question: Asked) -> dict[str, Any]:
    """Cases before and after, and pages of MLflow."""
    catalogue: Catalogue = request.app.state.catalogue
    run = question.report.run
    ids = [entry.case_id for entry in catalogue.cases(run.run_id, question.report.task)]
    at, title = ids.index(question.case.case_id), question.choice.offer.method.title
    scattered = [str(scatter["title"]) for scatter in question.report.content["scatters"]]
    runs = f"{mlflow_url(request.app)}/#/experiments/{run.experiment_id}/runs/" if mlflow_url(request.app) else ""
    return {
        "scatter": "/scatter?" + urlencode({"method": title}) if title in scattered else "/scatter",
        "before": ids[at - 1] if at else None, "after": ids[at + 1] if at + 1 < len(ids) else None,
        "position": f"{at + 1} of {len(ids)}", "runs": runs,
        "entry": catalogue.cases(run.run_id, question.report.task)[at],
    }  # fmt: skip


def _numbers(question: Asked, maps: CaseMaps | Waiting | None) -> dict[str, Any]:
    """Tables and charts; empty while nothing is predicted."""
    choice, case, names = question.choice, question.case, question.structures
    listed = []
    for ref in choice.offer.shown:
        scores = reported_scores(question.report, (ref,), case.case_id)
        listed.append(
            {"ref": ref, "scores": scores, "chosen": ref in choice.predicting and len(choice.predicting) == 1}
        )
    united = choice.offer.members
    found: dict[str, Any] = {
        "ensemble": reported_scores(question.report, united, case.case_id) if len(united) > 1 else None,
        "offers": offers(question.report), "members": listed, "structures": [], "volume": {}, "charts": [],
        "same": None,
    }  # fmt: skip
    if not isinstance(maps, CaseMaps):
        return found
    if choice.predicting == united:
        found["ensemble"] = maps.scores
    ml = float(np.prod(case.spacing_mm)) / 1000
    for label, name in enumerate(names, start=1):
        score = {metric: maps.scores[column(metric, name)] for metric in ("dice", "entropy", "hd95")}
        truth = int(np.count_nonzero(np.asarray(case.truth) == label)) * ml
        found["structures"].append({
            "name": name, "truth": truth, "predicted": int(maps.segments[label - 1].sum()) * ml, **score
        })  # fmt: skip
    found["volume"] = {
        region: {metric: maps.scores[column(metric, region)] for metric in ("nll", "brier", "ece")}
        for region in REGIONS
    }
    charts = [(region, reliability_of_bins(*maps.reliability[at].T)) for at, region in enumerate(REGIONS)]
    where = {"box": "in the box around the structures", "whole": "whole volume"}
    found["charts"] = [
        (f"Reliability, {where[region]}", reliability_svg(bins, f"Reliability, {where[region]}"), bins)
        for region, bins in charts
    ]
    found["histogram"] = histogram_svg(maps.segments, names, "Probabilities over the predicted segments")
    reported = reported_scores(question.report, choice.predicting, case.case_id)
    if reported is not None:
        pairs = np.array([(maps.scores[name], value) for name, value in reported.items() if name in maps.scores])
        pairs = pairs[np.isfinite(pairs).all(axis=1)]  # a report measures no distances of what is on its curve only
        found["same"] = bool(np.allclose(pairs[:, 0], pairs[:, 1], rtol=SAME, atol=SAME))
    return found


def _strip(app: FastAPI, question: Asked) -> list[int]:
    """Seeds of an ensemble's members that can be shown beside each other: those whose maps are there."""
    members = question.choice.offer.members
    if len(members) == 1:
        return []
    return [ref.seed for ref in members[:STRIP] if store(app).has(question.name((ref,)))]


def _values(question: Asked, maps: CaseMaps | Waiting | None) -> dict[str, Any]:
    """Of the chosen voxel."""
    case, names = question.case, ["background", *question.structures]
    z, y, x = question.at
    truth = int(case.truth[z, y, x])
    found: dict[str, Any] = {
        "at": {"z": z, "y": y, "x": x},
        "image": {name: float(case.image[n, z, y, x]) for n, name in enumerate(question.channels)},
        "truth": names[truth],
    }  # fmt: skip
    if isinstance(maps, CaseMaps):
        found["p"] = {name: float(maps.probability[n, z, y, x]) / FULL for n, name in enumerate(names[1:])}
        found["entropy"] = float(maps.entropy[z, y, x]) / FULL * maps.most_entropy
        found["predicted"] = names[int(maps.labels[z, y, x])]
        found["right"] = int(maps.labels[z, y, x]) == truth
    return found


def _legends(question: Asked) -> dict[str, Any]:
    """Colours and what they mean."""
    most = float(np.log(len(question.structures) + 1))
    return {
        "probability": {"colours": slices.PROBABILITY, "low": 0, "high": 1, "unit": "probability"},
        "entropy": {"colours": slices.ENTROPY, "low": 0, "high": most, "unit": "nats"},
        "error": list(zip(slices.ERROR, KINDS, strict=True)),
        "truth": [
            (slices.OUTLINES[n % len(slices.OUTLINES)], name) for n, name in enumerate(question.structures)
        ],
    }  # fmt: skip


def _state(request: Request, question: Asked, maps: CaseMaps | Waiting | None) -> dict[str, Any]:
    """What the page's scripts need to know."""
    case = question.case
    return {
        "base": question.here, "query": question.query(), "shape": case.truth.shape, "spacing_mm": case.spacing_mm,
        "channels": question.channels, "structures": question.structures, "predicted": isinstance(maps, CaseMaps),
        "legends": _legends(question), "stored": question.stored, "key": question.choice.key(question.split),
    }  # fmt: skip


class Packed:
    """Volumes as they are sent, the least recently asked for forgotten first."""

    def __init__(self, most_bytes: int = PACKED_BYTES) -> None:
        self._most_bytes, self._lock = most_bytes, threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def get(self, tag: str, make: Any) -> bytes:
        """The bytes of a tag, made where they are not there."""
        with self._lock:
            if tag in self._kept:
                self._kept.move_to_end(tag)
                return self._kept[tag]
        content: bytes = make()
        with self._lock:
            self._kept[tag] = content
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._most_bytes:
                self._kept.popitem(last=False)
        return content


def _packed(app: FastAPI) -> Packed:
    with _making:
        if not hasattr(app.state, "case_volumes"):
            app.state.case_volumes = Packed()
        found: Packed = app.state.case_volumes
        return found


def _sent(request: Request, content: bytes, kind: str, tag: str) -> Response:
    """The bytes, or 304 for who has them."""
    headers = {"etag": f'"{tag}"', "cache-control": "private, no-cache", "x-content-type-options": "nosniff"}
    if headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)
