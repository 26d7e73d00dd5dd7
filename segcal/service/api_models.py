"""What the API takes and gives: the schemas of its OpenAPI, with examples."""

__all__ = [
    "AnalysisList", "AnalysisSpec", "AnalysisStatus", "CaseList", "EnsembleList", "ExperimentList", "Health",
    "PredictionStatus", "RecipeList", "analysis_status",
]  # fmt: skip

from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from segcal.analysis.request import Request
from segcal.ledger.report_run import ReportRun
from segcal.service.jobs import State, state_of

ID = "0f3a5d1c9b7e46d28a10c4f2e6b8d753"
Name = Annotated[str, Field(min_length=1, max_length=250, pattern=r"^[^\x00-\x1f\x7f]+$")]
Size = Annotated[int, Field(ge=1, le=1000)]


class AnalysisSpec(BaseModel):
    """What an analysis is asked for; what is left out is what the experiment and its task say."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"experiment": "calib", "M": [1, 2, 5], "n": 10, "resamples": 10000}]},
    )

    experiment: Name = Field(description="MLflow experiment with trained models", examples=["calib"])
    tasks: list[Name] = Field([], max_length=20, description="Tasks; none: that of the newest model")
    methods: list[Name] = Field([], max_length=100, description="Recipes by label or id; none: all")
    M: list[Size] = Field([], max_length=50, description="Sizes of ensembles on the curve; none: the task's")
    n: int | None = Field(None, ge=1, le=1000, description="Ensembles drawn for each M; null: the task's")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of draws and resampling")
    resamples: int = Field(10_000, ge=1, le=100_000, description="Bootstrap resamples")
    data_digest: Name | None = Field(None, description="Models trained on these data; null: the newest")
    compare_paper: bool = Field(False, description="Put the paper's numbers beside ours")

    def request(self, memory_gb: float) -> Request:
        """The same as `segcal report` asks."""
        return Request(
            experiment=self.experiment, tasks=tuple(self.tasks), methods=tuple(self.methods), sizes=tuple(self.M),
            draws=self.n, data_digest=self.data_digest, seed=self.seed, n_resamples=self.resamples,
            memory_gb=memory_gb, compare_paper=self.compare_paper,
        )  # fmt: skip


class Progress(BaseModel):
    """How far an analysis is."""

    what: str | None = Field(None, description="The step", examples=["scores"])
    done: int | None = Field(None, examples=[3])
    total: int | None = Field(None, examples=[12])
    name: str | None = Field(None, description="What was done last")
    line: str | None = Field(None, description="The newest line of its log")
    before: int | None = Field(None, description="Analyses that are computed before this one, where it waits")


class AnalysisStatus(BaseModel):
    """An analysis: how it stands, what it was asked for, and where things are."""

    id: str = Field(description="Hash of the resolved spec: the same question has the same id", examples=[ID])
    status: State = Field(examples=["running"])
    experiment: str = Field(examples=["calib"])
    tasks: list[str] = Field(description="Of a finished one", examples=[["brain"]])
    progress: Progress
    error: str | None = Field(None, description="Why it failed")
    spec: dict[str, Any] = Field(description="What was asked for")
    created_ms: int = Field(description="When it was accepted, milliseconds since 1970")
    ended_ms: int | None = None
    run_id: str = Field(description="Its run in MLflow")
    links: dict[str, str] = Field(description="self, events, cancel; result, report, explorer, mlflow where they are")


class AnalysisList(BaseModel):
    """Analyses, the newest first, and how many there are."""

    analyses: list[AnalysisStatus]
    total: int = Field(examples=[1])


class ExperimentItem(BaseModel):
    name: str = Field(examples=["calib"])
    experiment_id: str
    models: int
    tasks: list[str]
    reports: int
    newest_ms: int


class ExperimentList(BaseModel):
    """Experiments that hold models or reports of segcal."""

    experiments: list[ExperimentItem]


class RecipeItem(BaseModel):
    recipe: str
    label: str = Field(examples=["dice"])
    task: str
    data_digest: str
    members: int
    val_dice_mean: float | None


class RecipeList(BaseModel):
    """Recipes of an experiment."""

    experiment: str
    recipes: list[RecipeItem]


class EnsembleItem(BaseModel):
    name: str = Field(examples=["segcal-brain-ensemble"])
    version: int
    task: str
    label: str
    members: int
    aliases: list[str]
    created_ms: int
    run_id: str | None
    description: str


class EnsembleList(BaseModel):
    """Registered ensembles, a version each."""

    ensembles: list[EnsembleItem]


class CaseItem(BaseModel):
    case_id: str
    split: str = Field(examples=["test"])
    domain: str
    site: str


class CaseList(BaseModel):
    """Cases of an experiment's newest report."""

    experiment: str
    task: str
    run_id: str = Field(description="The newest finished report of the task")
    cases: list[CaseItem]


class PredictionStatus(BaseModel):
    """A prediction: how it stands, and which files there are."""

    id: str = Field(examples=[ID])
    status: Literal["queued", "running", "finished", "failed"]
    model: str = Field(examples=["models:/segcal-brain-ensemble@champion"])
    error: str | None = None
    created_ms: int
    ended_ms: int | None = None
    expires_ms: int | None = Field(None, description="When its results are removed")
    files: dict[str, str] = Field({}, description="Name of each file -> its URL")
    links: dict[str, str]


class Health(BaseModel):
    """The service runs."""

    status: Literal["ok"] = "ok"


def analysis_status(run: ReportRun, mlflow_url: str | None, before: int | None) -> AnalysisStatus:
    """A run in the words of the API."""
    here = f"/v1/analyses/{run.analysis_id}"
    links = {"self": here, "events": f"{here}/events", "cancel": f"{here}/cancel"}
    if run.status == "FINISHED":
        links |= {"result": f"{here}/result", "report": f"{here}/report", "laws": f"{here}/laws.html"}
        links |= {
            f"explorer{'' if len(run.tasks) == 1 else '.' + task}": f"/reports/{run.run_id}/{quote(task, safe='')}"
            for task in run.tasks
        }
    if mlflow_url:
        links["mlflow"] = f"{mlflow_url.rstrip('/')}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    # A tag that somebody edited by hand may hold anything
    kinds = {"what": str, "done": int, "total": int, "name": str, "line": str}
    told: dict[str, Any] = {n: run.progress[n] for n, kind in kinds.items() if isinstance(run.progress.get(n), kind)}
    return AnalysisStatus(
        id=run.analysis_id, status=state_of(run), experiment=run.experiment, tasks=list(run.tasks),
        progress=Progress(**told, before=before), spec=dict(run.spec),
        error=(run.error or None) if run.status == "FAILED" else None,
        created_ms=run.started_ms, ended_ms=run.ended_ms, run_id=run.run_id, links=links,
    )  # fmt: skip
