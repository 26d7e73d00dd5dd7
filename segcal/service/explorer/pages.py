"""The explorer's pages: experiments, one of them, and the views of a report. One URL a view, with its choices.

Views of a finished report never change and are kept by `render`; the others are made anew each time.
"""

__all__ = ["VIEWS", "router"]

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from segcal.analysis.request import Request as Analysis
from segcal.errors import BadData, UnknownName
from segcal.ledger.report_run import ReportRun, report_file
from segcal.records import Cell, Table
from segcal.report.tables import DAGGER, difference_lines, interval, number, row_title
from segcal.service.catalogue import Catalogue, LoadedReport, nearest_of
from segcal.service.explorer.page_data import (
    CURVES,
    METHOD,
    REGIONS,
    case_rows,
    chosen_method,
    curve_panels,
    diagrams,
    first_direction,
    methods_of,
    numeric,
    point_rows,
    points_data,
    read_tables,
    row_order,
)  # fmt: skip
from segcal.service.render import PageRoute, page, templates

# Views of a report: name, what follows the report's URL, and the text of the tab
VIEWS = (
    ("overview", "", "Overview"),
    ("table", "/table", "Tables"),
    ("curve", "/curve", "M-curves"),
    ("reliability", "/reliability", "Reliability"),
    ("scatter", "/scatter", "Entropy and Dice"),
    ("cases", "/cases", "Cases"),
)
BANDS = {"both": "percentiles and errors", "percentiles": "percentiles of the draws", "errors": "standard errors",
         "none": "means alone"}  # fmt: skip
# Files of a report that readers may have, as `write_report` names them
FILES = {"report.html": "text/html", "laws.html": "text/html", "report.md": "text/markdown", "table.csv": "text/csv",
         "report.json": "application/json", "cases.parquet": "application/vnd.apache.parquet"}  # fmt: skip
FOLDERS = {
    "figures": {"png": "image/png", "pdf": "application/pdf"},
    "tables": {"csv": "text/csv", "tex": "text/plain"},
}
FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

NAN = float("nan")

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True)
class Sorting:
    """What a table is sorted by: the number of a column as the URL gives it ("": as it came), and the direction."""

    key: str
    descending: bool

    @classmethod
    def of(cls, request: Request, columns: int) -> "Sorting":
        """sort=0 to `columns`, dir=asc or desc. Raises UnknownName for anything else."""
        key = _choice(request, "sort", ["", *map(str, range(columns + 1))])
        return cls(key, _choice(request, "dir", ["asc", "desc"]) == "desc")

    def order(self, rows: list[tuple[Any, ...]]) -> list[int]:
        """Places of rows of plain values; NaN and "" come last."""
        if not self.key:
            return list(range(len(rows)))
        values = [row[int(self.key)] for row in rows]
        known = [place for place, value in enumerate(values) if value == value and value != ""]
        known.sort(key=lambda place: values[place], reverse=self.descending)
        return known + [place for place in range(len(rows)) if place not in set(known)]

    def aria(self, key: object) -> str:
        """The value of aria-sort of a column."""
        if str(key) != self.key:
            return "none"
        return "descending" if self.descending else "ascending"

    def link(self, request: Request, key: object, first: str = "asc") -> str:
        """Where a click on a column leads: the same view sorted by it, or turned round."""
        direction = ("asc" if self.descending else "desc") if str(key) == self.key else first
        return _url(request, sort=str(key), dir=direction)


@router.get("/")
def _experiments(request: Request) -> Response:
    return page(request, "experiments.html", experiments=_catalogue(request).experiments())


@router.get("/experiments/{experiment:path}")
def _experiment(request: Request, experiment: str) -> Response:
    catalogue = _catalogue(request)
    recipes, reports = catalogue.recipes(experiment), catalogue.reports(experiment)
    tasks = list(dict.fromkeys(recipe.task for recipe in recipes))
    ensembles = [entry for entry in catalogue.ensembles() if entry.experiment == experiment]
    found = next((e for e in catalogue.experiments() if e.name == experiment), None)
    return page(
        request, "experiment.html", name=experiment, experiment=found, tasks=tasks, recipes=recipes,
        ensembles=ensembles, reports=reports, running=any(report.status == "RUNNING" for report in reports),
    )  # fmt: skip


@router.get("/ensembles/{name}/{version}")
def _ensemble(request: Request, name: str, version: str) -> Response:
    entry, card = _catalogue(request).ensemble(name, version)
    return page(request, "ensemble.html", entry=entry, card=card)


@router.get("/reports/{run_id}")
def _report(request: Request, run_id: str) -> Response:
    """A report on its way, or a choice of its tasks; straight to the only one."""
    run = _catalogue(request).report_run(run_id)
    if run.status == "FINISHED" and len(run.tasks) == 1:
        there = _base(run, next(iter(run.tasks)))
        if "hx-request" in request.headers:  # htmx, which waited for it, would put the other page into this one
            return Response(headers={"hx-redirect": there, "cache-control": "no-store"})
        return RedirectResponse(there, 303)
    return page(request, "report_run.html", run=run)


@router.get("/reports/{run_id}/{task}")
def _overview(request: Request, run_id: str, task: str) -> Response:
    run = _catalogue(request).report_run(run_id)
    if run.status != "FINISHED":
        return page(request, "report_run.html", run=run)
    report = _catalogue(request).report(run_id, task)
    tables = read_tables(report.content)
    about = {table.key: table for table in tables if table.key in ("data", "members")}
    return _view(request, report, "overview", "overview.html", tables=tables, about=about, content=report.content)


@router.get("/reports/{run_id}/{task}/table")
def _table(request: Request, run_id: str, task: str) -> Response:
    report = _catalogue(request).report(run_id, task)
    tables = {table.key: table for table in read_tables(report.content)}
    table = tables[_choice(request, "table", list(tables))]
    sorting = Sorting.of(request, len(table.columns))
    places = row_order(table, int(sorting.key), sorting.descending) if sorting.key else range(len(table.rows))
    return _view(
        request, report, "table", "table.html", tables=tables, table=table, sorting=sorting, columns=_columns(table),
        rows=[(row_title(table, place), table.rows[place][1], place in table.marked) for place in places],
    )  # fmt: skip


@router.get("/reports/{run_id}/{task}/curve")
def _curve(request: Request, run_id: str, task: str) -> Response:
    report = _catalogue(request).report(run_id, task)
    there = [panel["name"] for panel in curve_panels(report.content, "all")]
    metric, band = _choice(request, "metric", ["all", *there]), _choice(request, "band", list(BANDS))
    panels = curve_panels(report.content, metric)
    return _view(
        request, report, "curve", "curve.html", panels=panels, metric=metric, band=band, bands=BANDS,
        titles={name: CURVES[name][2] for name in there}, data={"panels": panels, "band": band},
    )  # fmt: skip


@router.get("/reports/{run_id}/{task}/reliability")
def _reliability(request: Request, run_id: str, task: str) -> Response:
    report = _catalogue(request).report(run_id, task)
    region = _choice(request, "region", list(REGIONS))
    method = _choice(request, "method", ["all", *(d["title"] for d in diagrams(report.content, region, "all"))])
    found = diagrams(report.content, region, method)
    return _view(
        request, report, "reliability", "reliability.html", found=found, region=region, regions=REGIONS, method=method,
        methods=[d["title"] for d in diagrams(report.content, region, "all")], data={"diagrams": found},
    )  # fmt: skip


@router.get("/reports/{run_id}/{task}/scatter")
def _scatter(request: Request, run_id: str, task: str) -> Response:
    report = _catalogue(request).report(run_id, task)
    scatters = {scatter["title"]: scatter for scatter in report.content["scatters"]}
    if not scatters:
        return _view(request, report, "scatter", "scatter.html", method=None)
    method = _choice(request, "method", list(scatters), chosen_method(list(scatters)))

    def case_url(case_id: str, structure: str) -> str:
        return _case_url(report, case_id, method=method, structure=structure)

    rows = point_rows(scatters[method])
    sorting = Sorting.of(request, 4)
    order = sorting.order([(r.case_id, r.structure, r.domain, r.entropy, r.dice) for r in rows])
    return _view(
        request, report, "scatter", "scatter.html", method=method, methods=list(scatters), scatter=scatters[method],
        rows=[rows[place] for place in order], sorting=sorting, case_url=case_url,
        data=points_data(scatters[method], report.content["structures"], case_url),
    )  # fmt: skip


@router.get("/reports/{run_id}/{task}/cases")
def _cases(request: Request, run_id: str, task: str) -> Response:
    report = _catalogue(request).report(run_id, task)
    titles = methods_of(report.content)
    rows = case_rows(report.frame, report.content["structures"], titles)
    sorting = Sorting.of(request, 2 + 2 * len(titles))
    scored = [[(row.dice.get(t, NAN), row.entropy.get(t, NAN)) for t in titles] for row in rows]
    plain = [(r.case_id, r.domain, r.site, *(v for pair in s for v in pair)) for r, s in zip(rows, scored, strict=True)]
    return _view(
        request, report, "cases", "cases.html", titles=titles, sorting=sorting,
        rows=[(rows[place], scored[place]) for place in sorting.order(plain)],
        case_url=lambda case_id, method: _case_url(report, case_id, method=method),
        method=chosen_method(titles), target=any(row.domain == "target" for row in rows),
    )  # fmt: skip


@router.get("/reports/{run_id}/{task}/{name}")
def _file(request: Request, run_id: str, task: str, name: str) -> Response:
    """A file of the report; its own pages link each other by these names."""
    if name not in FILES:
        raise UnknownName(f"no view '{name}' of a report; {nearest_of(name, [v[0] for v in VIEWS[1:]] + list(FILES))}")
    return _send(request, run_id, task, name, FILES[name])


@router.get("/reports/{run_id}/{task}/figures/{name}")
def _figure(request: Request, run_id: str, task: str, name: str) -> Response:
    return _send_of(request, run_id, task, "figures", name)


@router.get("/reports/{run_id}/{task}/tables/{name}")
def _table_file(request: Request, run_id: str, task: str, name: str) -> Response:
    return _send_of(request, run_id, task, "tables", name)


def _send_of(request: Request, run_id: str, task: str, folder: str, name: str) -> Response:
    stem, _, ending = name.rpartition(".")
    if ending not in FOLDERS[folder] or not stem or "\\" in name:
        raise UnknownName(f"no '{name}' among the {folder} of a report; they end in .{' or .'.join(FOLDERS[folder])}")
    return _send(request, run_id, task, f"{folder}/{name}", FOLDERS[folder][ending])


def _send(request: Request, run_id: str, task: str, path: str, kind: str) -> Response:
    catalogue = _catalogue(request)
    run = catalogue.report_run(run_id)
    if task not in run.tasks:
        raise UnknownName(f"no task '{task}' in report '{run_id}'; {nearest_of(task, run.tasks)}")
    below = f"{run.tasks[task]}/{path}" if run.tasks[task] else path
    try:
        found = report_file(catalogue.client, run_id, below)
    except BadData:
        raise UnknownName(f"no file '{path}' in report '{run_id}'; see the report's overview for what it has") from None
    headers = {"content-security-policy": FILE_POLICY, "x-content-type-options": "nosniff",
               "cache-control": "private, max-age=3600"}  # fmt: skip
    return FileResponse(found, media_type=kind, headers=headers)


def _view(request: Request, report: LoadedReport, view: str, template: str, **values: Any) -> Response:
    """A page of a finished report."""
    public = (request.app.state.settings.public_url or "").rstrip("/")
    base = _base(report.run, report.task)
    return page(
        request, template, final=True, run=report.run, task=report.task, base=base, permalink=public + base, view=view,
        views=VIEWS, here=lambda **changes: _url(request, **changes),
        sort_link=lambda sorting, key, first="asc": sorting.link(request, key, first), **values,
    )  # fmt: skip


def _columns(table: Table) -> list[tuple[int, str, str, bool, str]]:
    """Number, title, which way is better, whether it is numeric, and the direction of the first click."""
    return [
        (place, title, better, numeric(table, place), first_direction(table, place))
        for place, (title, better) in enumerate(zip(table.columns, table.better, strict=True), start=METHOD + 1)
    ]


def _choice(request: Request, name: str, allowed: list[str], default: str | None = None) -> str:
    """A parameter of the URL, or its default, the first that is allowed. Raises UnknownName for anything else."""
    value = request.query_params.get(name)
    if value is None and allowed:
        return default if default is not None else allowed[0]
    if value not in allowed:
        raise UnknownName(f"no {name} '{value}'; {nearest_of(value or '', filter(None, allowed))}")
    return value


def _url(request: Request, **changes: str | None) -> str:
    """This page with other choices; None takes one away."""
    choices: dict[str, str | None] = {**request.query_params, **changes}
    query = urlencode({key: value for key, value in choices.items() if value is not None})
    return f"{quote(request.url.path)}?{query}" if query else quote(request.url.path)


def _case_url(report: LoadedReport, case_id: str, **choices: str) -> str:
    return f"{_base(report.run, report.task)}/cases/{quote(case_id, safe='')}?{urlencode(choices)}"


def _base(run: ReportRun, task: str) -> str:
    return f"/reports/{run.run_id}/{quote(task, safe='')}"


def _catalogue(request: Request) -> Catalogue:
    found: Catalogue = request.app.state.catalogue
    return found


templates().globals.update(
    number=number, interval=interval, difference_lines=difference_lines, dagger=DAGGER,
    is_cell=lambda value: isinstance(value, Cell), shown=lambda value: number(NAN if value is None else value),
    usual_resamples=Analysis.n_resamples,
)  # fmt: skip
