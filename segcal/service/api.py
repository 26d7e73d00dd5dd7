"""The API: analyses and what there is to analyse. Predictions have a file of their own."""

__all__ = ["health", "router"]

import asyncio
import json
from pathlib import Path as File
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from segcal.errors import BadData, UnknownName, nearest
from segcal.ledger.report_run import ReportRun, report_file
from segcal.report.figures import FIGURES
from segcal.service import api_models as models
from segcal.service.catalogue import Catalogue
from segcal.service.errors import Refusal, documented
from segcal.service.events import stream
from segcal.service.jobs import Jobs, state_of
from segcal.service.recent import Recent

router = APIRouter(prefix="/v1")
health = APIRouter(tags=["health"])

TABLES = {".csv": "text/csv; charset=utf-8", ".tex": "application/x-tex"}
PICTURES = {".png": "image/png", ".pdf": "application/pdf"}
EVENT = {
    "type": "object",
    "required": ["event", "id", "data"],
    "properties": {
        "event": {"type": "string", "enum": ["progress", "end"]}, "id": {"type": "string"},
        "data": {"type": "string", "description": "What GET of the analysis gives, as JSON"},
    },
}  # fmt: skip

Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Of an analysis", examples=[models.ID])]
Task = Annotated[
    str | None, Query(min_length=1, max_length=250, description="Of an analysis of several tasks: which one's")
]
Named = Annotated[str, Query(min_length=1, max_length=250, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["calib"])]
READ = documented(404)
PART = documented(404, 409)  # of an analysis that is not finished there is none


def _media(*kinds: str, schema: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """An answer that is a file."""
    described = schema or {"type": "string"}
    return {**PART, 200: {"description": "The file", "content": {kind: {"schema": described} for kind in kinds}}}


@router.post(
    "/analyses", status_code=202, response_model=models.AnalysisStatus, tags=["analyses"],
    responses={**documented(404, 409), 200: {"model": models.AnalysisStatus, "description": "Known already"}},
)  # fmt: skip
def ask(request: Request, response: Response, spec: models.AnalysisSpec) -> models.AnalysisStatus:
    """Ask for an analysis. The same question is computed once, whoever asks it: 200 where it is finished."""
    state = request.app.state
    run = _jobs(request).submit(spec.request(state.settings.memory_gb))
    response.status_code = 200 if run.status == "FINISHED" else 202
    response.headers["location"] = f"/v1/analyses/{run.analysis_id}"
    return _status(request, run)


@router.get("/analyses", response_model=models.AnalysisList, tags=["analyses"], responses=documented())
def list_analyses(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> models.AnalysisList:
    """Analyses, the newest first: those of `segcal report` as well."""
    found = _jobs(request).all()
    chosen = [_status(request, run) for run in found[offset : offset + limit]]
    return models.AnalysisList(analyses=chosen, total=len(found))


@router.get("/analyses/{analysis_id}", response_model=models.AnalysisStatus, tags=["analyses"], responses=READ)
def analysis(request: Request, analysis_id: Id) -> models.AnalysisStatus:
    """How an analysis stands."""
    return _status(request, _jobs(request).find(analysis_id))


@router.get(
    "/analyses/{analysis_id}/events", tags=["analyses"], response_class=StreamingResponse,
    responses={**READ, 200: {"description": "Server-sent events: `progress`, and `end` last",
                             "content": {"text/event-stream": {"schema": EVENT}}}},
)  # fmt: skip
def events(request: Request, analysis_id: Id) -> StreamingResponse:
    """How an analysis stands whenever that changes, until it ends; each datum is what GET gives."""
    jobs = _jobs(request)
    jobs.find(analysis_id)
    lines = stream(lambda: _status(request, jobs.find(analysis_id)), lambda: jobs.closing)
    return StreamingResponse(lines, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


@router.post(
    "/analyses/{analysis_id}/cancel", status_code=202, response_model=models.AnalysisStatus, tags=["analyses"],
    responses=documented(404, 409),
)  # fmt: skip
def cancel(request: Request, analysis_id: Id) -> models.AnalysisStatus:
    """Stop an analysis; asked again, nothing happens. What was scored is kept for the next one."""
    return _status(request, _jobs(request).cancel(analysis_id))


@router.get(
    "/analyses/{analysis_id}/result", tags=["results"], response_class=FileResponse,
    responses=_media("application/json", schema={"type": "object"}),
)  # fmt: skip
def result(request: Request, analysis_id: Id, task: Task = None) -> Response:
    """The report as JSON: every table, curve and finding with its numbers."""
    return _sent(_file(request, analysis_id, task, "report.json"), "application/json")


@router.get(
    "/analyses/{analysis_id}/report", tags=["results"], response_class=FileResponse, responses=_media("text/html")
)
def report(request: Request, analysis_id: Id, task: Task = None) -> Response:
    """The report as one self-contained page."""
    return _sent(_file(request, analysis_id, task, "report.html"), "text/html; charset=utf-8")


@router.get(
    "/analyses/{analysis_id}/laws.html", tags=["results"], response_class=FileResponse, responses=_media("text/html")
)
def laws(request: Request, analysis_id: Id, task: Task = None) -> Response:
    """The laws of the paper, measured on these data."""
    return _sent(_file(request, analysis_id, task, "laws.html"), "text/html; charset=utf-8")


@router.get(
    "/analyses/{analysis_id}/cases.parquet", tags=["results"], response_class=FileResponse,
    responses=_media("application/vnd.apache.parquet"),
)  # fmt: skip
def case_scores(request: Request, analysis_id: Id, task: Task = None) -> FileResponse:
    """Every score of every ensemble on every case, in long format."""
    path = _file(request, analysis_id, task, "cases.parquet")
    return FileResponse(path, media_type="application/vnd.apache.parquet", filename="cases.parquet")


@router.get(
    "/analyses/{analysis_id}/tables/{name}", tags=["results"], response_class=FileResponse,
    responses=_media("text/csv", "application/x-tex"),
)  # fmt: skip
def table(
    request: Request,
    analysis_id: Id,
    name: Annotated[str, Path(max_length=100, examples=["box.csv"])],
    task: Task = None,
) -> Response:
    """A table of the report: `{key}.csv` or `{key}.tex`."""
    keys = [t["key"] for t in json.loads(_file(request, analysis_id, task, "report.json").read_text())["tables"]]
    known = {f"{key}{suffix}": kind for key in keys for suffix, kind in TABLES.items()}
    return _listed(request, analysis_id, task, "tables", name, known)


@router.get(
    "/analyses/{analysis_id}/figures/{name}", tags=["results"], response_class=FileResponse,
    responses=_media("image/png", "application/pdf"),
)  # fmt: skip
def figure(
    request: Request,
    analysis_id: Id,
    name: Annotated[str, Path(max_length=100, examples=["figure_2.png"])],
    task: Task = None,
) -> Response:
    """A figure of the report: `{name}.png` or `{name}.pdf`."""
    known = {f"{key}{suffix}": kind for key in FIGURES for suffix, kind in PICTURES.items()}
    return _listed(request, analysis_id, task, "figures", name, known)


@router.get("/experiments", response_model=models.ExperimentList, tags=["catalogue"], responses=documented())
def experiments(request: Request) -> models.ExperimentList:
    """Experiments that hold models or reports of segcal, the newest first."""
    found = [_item(models.ExperimentItem, entry) for entry in _catalogue(request).experiments()]
    return models.ExperimentList(experiments=found)


@router.get("/recipes", response_model=models.RecipeList, tags=["catalogue"], responses=READ)
def recipes(request: Request, experiment: Named) -> models.RecipeList:
    """Recipes of an experiment, with the size of each pool."""
    found = [_item(models.RecipeItem, entry) for entry in _catalogue(request).recipes(experiment)]
    return models.RecipeList(experiment=experiment, recipes=found)


@router.get("/ensembles", response_model=models.EnsembleList, tags=["catalogue"], responses=documented())
def ensembles(request: Request) -> models.EnsembleList:
    """Registered ensembles, each version."""
    found = [_item(models.EnsembleItem, entry) for entry in _catalogue(request).ensembles()]
    return models.EnsembleList(ensembles=found)


@router.get("/cases", response_model=models.CaseList, tags=["catalogue"], responses=documented(404, 409))
def cases(request: Request, experiment: Named, task: Task = None) -> models.CaseList:
    """Cases that the newest finished report of an experiment scored."""
    catalogue = _catalogue(request)
    finished = [run for run in catalogue.reports(experiment) if run.status == "FINISHED"]
    known = {name for run in finished for name in run.tasks}
    if not finished:
        raise UnknownName(f"no finished report in experiment '{experiment}'; ask for an analysis first")
    if task is not None and task not in known:
        raise UnknownName(f"no report of task '{task}' in experiment '{experiment}'; {nearest(task, known)}")
    run = next(run for run in finished if task is None or task in run.tasks)
    chosen = task or next(iter(run.tasks))
    found = [_item(models.CaseItem, entry) for entry in catalogue.cases(run.run_id, chosen)]
    return models.CaseList(experiment=experiment, task=chosen, run_id=run.run_id, cases=found)


# Neither takes one of the threads that answer requests: all of them may wait for a store that hangs.
@health.get("/healthz", response_model=models.Health, responses={421: documented()[421], 429: documented()[429]})
async def alive() -> models.Health:
    """The process lives."""
    return models.Health()


@health.get("/readyz", response_model=models.Health, responses=documented())
async def ready(request: Request) -> Response:
    """The tracking store answers within two seconds."""
    reason = await asyncio.to_thread(request.app.state.readiness)
    if reason:
        raise Refusal(503, reason)
    return JSONResponse(models.Health().model_dump())


def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


def _catalogue(request: Request) -> Catalogue:
    catalogue: Catalogue = request.app.state.catalogue
    return catalogue


def _status(request: Request, run: ReportRun) -> models.AnalysisStatus:
    return models.analysis_status(run, request.app.state.settings.mlflow_url, _jobs(request).place(run.run_id))


def _item(kind: Any, entry: Any) -> Any:
    """An entry of the catalogue in the words of the API."""
    return kind(**{name: getattr(entry, name) for name in kind.model_fields})


def _file(request: Request, analysis_id: str, task: str | None, name: str) -> File:
    """A file of a finished analysis. `name` is one of ours, never a part of the request's URL."""
    run = _jobs(request).find(analysis_id)
    if run.status != "FINISHED":
        raise Refusal(409, f"an analysis must be finished to be read, got one that is {state_of(run)}")
    if task is None and len(run.tasks) > 1:
        raise Refusal(422, f"task must be one of {', '.join(run.tasks)}, got none")
    chosen = next(iter(run.tasks), "") if task is None else task
    if chosen not in run.tasks:
        raise UnknownName(f"no task '{chosen}' in analysis '{analysis_id}'; {nearest(chosen, run.tasks)}")
    path = f"{run.tasks[chosen]}/{name}".removeprefix("/")
    files: Recent = request.app.state.files  # to ask the store where a file lies takes longer than to send it
    return files.get(f"{run.run_id}/{path}", lambda: report_file(request.app.state.client, run.run_id, path))


def _listed(
    request: Request, analysis_id: str, task: str | None, folder: str, name: str, known: dict[str, str]
) -> Response:
    """A file whose name is one of those that the report has."""
    missing = UnknownName(f"no {folder[:-1]} '{name}' in this report; {nearest(name, known)}")
    if name not in known:
        _file(request, analysis_id, task, "report.json")  # that there is no such analysis is told first
        raise missing
    try:
        path = _file(request, analysis_id, task, f"{folder}/{name}")
    except BadData:
        raise missing from None
    return _sent(path, known[name])


def _sent(path: File, kind: str) -> Response:
    """A file of some kilobytes at once: to send it piece by piece costs ten times as much."""
    return Response(path.read_bytes(), media_type=kind)
