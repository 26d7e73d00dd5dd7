"""Reports in MLflow: a run of kind "report" is opened, told how far it is, given its files, and found again.

The command line and the service write the same runs. A run's artifacts are one folder a task, as `write_report`
leaves it; a report of one task lies at their root.
"""

__all__ = [
    "ReportRun", "begin_report", "describe_report", "end_report", "find_reports", "keep_report", "report_file",
    "tell_report",
]  # fmt: skip

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

import mlflow.artifacts
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from mlflow.utils.uri import is_local_uri

from segcal.environment import home
from segcal.errors import BadData, UsageError
from segcal.ledger.names import metric_name, tag
from segcal.ledger.store import check_artifacts, experiment_id

OPEN = ("RUNNING", "SCHEDULED")
_PAGE = 1000


@dataclass(frozen=True)
class ReportRun:
    """A report on its way, or done."""

    run_id: str
    experiment: str
    experiment_id: str
    analysis_id: str  # hash of what it was resolved to; "" for a report of an earlier version
    status: str  # RUNNING, FINISHED, FAILED or KILLED
    spec: Mapping[str, Any]  # what was asked for
    tasks: Mapping[str, str]  # task -> its folder below the artifacts, "" for their root; empty until it is done
    progress: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    started_ms: int = 0  # since 1970
    ended_ms: int | None = None
    holder: str = ""  # who computes it


def begin_report(
    client: MlflowClient, experiment: str, name: str, analysis_id: str, spec: Mapping[str, Any], holder: str = ""
) -> str:
    """Open the run of a report; returns its id."""
    tags = {
        tag("kind"): "report", tag("analysis"): analysis_id, tag("spec"): json.dumps(spec), tag("holder"): holder,
    }  # fmt: skip
    run = client.create_run(experiment_id(client, experiment), run_name=name, tags=tags)
    return str(run.info.run_id)


def tell_report(client: MlflowClient, run_id: str, progress: Mapping[str, Any]) -> None:
    """How far a report is; for those who wait for it, and as a sign of life. A run that was ended is left as it is."""
    client.log_batch(run_id, tags=[RunTag(tag("progress"), json.dumps(progress))])


def keep_report(
    client: MlflowClient,
    run_id: str,
    folder: Path,
    tasks: Mapping[str, str],
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> None:
    """Give a report's run its files and numbers."""
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        params=[Param(key, str(value)[:6000]) for key, value in params.items()],
        metrics=[Metric(metric_name(key), value, now, 0) for key, value in metrics.items() if np.isfinite(value)],
    )
    client.log_artifacts(run_id, str(folder))
    client.log_batch(run_id, tags=[RunTag(tag("tasks"), json.dumps(tasks))])


def end_report(client: MlflowClient, run_id: str, status: str, error: str = "") -> None:
    """Close a report's run: FINISHED, FAILED or KILLED, with the reason."""
    if error:
        client.log_batch(run_id, tags=[RunTag(tag("error"), error[:500])])
    client.set_terminated(run_id, status)


def describe_report(client: MlflowClient, run_id: str, markdown: str) -> None:
    """What MLflow shows on the run's page."""
    client.log_batch(run_id, tags=[RunTag(MLFLOW_RUN_NOTE, markdown)])


def find_reports(
    client: MlflowClient,
    experiment: str | None = None,
    analysis_id: str | None = None,
    statuses: Sequence[str] | None = None,
) -> list[ReportRun]:
    """Reports of one experiment or of all, newest first. An experiment that is not there has none."""
    if experiment is None:
        found = client.search_experiments(view_type=ViewType.ACTIVE_ONLY)
    else:
        one = client.get_experiment_by_name(experiment)
        found = [one] if one is not None and one.lifecycle_stage == "active" else []
    names = {str(e.experiment_id): str(e.name) for e in found}
    filters = f"tags.`{tag('kind')}` = 'report'"
    if analysis_id is not None:
        filters += f" and tags.`{tag('analysis')}` = '{analysis_id}'"
    runs: list[Run] = []
    token = None
    while names:
        page = client.search_runs(
            list(names), filters, max_results=_PAGE, order_by=["attributes.start_time DESC"], page_token=token
        )
        runs += page
        token = page.token
        if not token:
            break
    reports = [_report(run, names[str(run.info.experiment_id)]) for run in runs]
    return [report for report in reports if statuses is None or report.status in statuses]


def report_file(client: MlflowClient, run_id: str, path: str) -> Path:
    """An artifact of a finished report, a file or a folder, on this disk; what came from afar is kept below `home`.

    Raises UsageError for a path that leads out of the artifacts and BadData for one that is not there.
    """
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path:
        raise UsageError(f"a report's file must lie in its folder, got '{path}'")
    root = client.get_run(run_id).info.artifact_uri
    if is_local_uri(root):
        here = Path(local_file_uri_to_path(root)) / path
    else:
        here = home() / "reports" / run_id / path
        if not here.exists():
            check_artifacts(root)
            _download(client, f"{root.rstrip('/')}/{path}", here)
    if not here.exists():
        raise BadData(f"{run_id}: the report's files must be there, got no '{path}'; make the report again")
    return here


def _download(client: MlflowClient, uri: str, here: Path) -> None:
    """It appears whole or not at all."""
    here.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=here.parent, prefix=".download-") as folder:
        try:
            got = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder, tracking_uri=client.tracking_uri))
        except (MlflowException, OSError):
            return
        if got.is_dir():
            shutil.copytree(got, here, dirs_exist_ok=True)
        else:
            os.replace(got, here)


def _report(run: Run, experiment: str) -> ReportRun:
    tags = run.data.tags
    told = tags.get(tag("tasks"))
    task = run.data.params.get("task")
    tasks = _json(told) if told else ({task: ""} if task and run.info.status == "FINISHED" else {})
    return ReportRun(
        run_id=run.info.run_id,
        experiment=experiment,
        experiment_id=str(run.info.experiment_id),
        analysis_id=tags.get(tag("analysis"), ""),
        status="RUNNING" if run.info.status in OPEN else str(run.info.status),
        spec=_json(tags.get(tag("spec"))),
        tasks=cast(Mapping[str, str], tasks),
        progress=_json(tags.get(tag("progress"))),
        error=tags.get(tag("error"), ""),
        started_ms=int(run.info.start_time),
        ended_ms=int(run.info.end_time) if run.info.end_time else None,
        holder=tags.get(tag("holder"), ""),
    )


def _json(text: str | None) -> Mapping[str, Any]:
    """What a tag holds; a tag that somebody edited by hand holds nothing."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
