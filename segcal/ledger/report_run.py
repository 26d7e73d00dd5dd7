"""Keeps a rendered report in MLflow."""

__all__ = ["log_report"]

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from segcal.ledger.names import metric_name, tag
from segcal.ledger.store import experiment_id


def log_report(
    client: MlflowClient,
    experiment: str,
    name: str,
    folder: Path,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> str:
    """Log a rendered report as a finished run of the experiment; returns the run id."""
    run = client.create_run(experiment_id(client, experiment), run_name=name, tags={tag("kind"): "report"})
    run_id: str = run.info.run_id
    now = int(time.time() * 1000)
    status = "FAILED"
    try:
        client.log_batch(
            run_id,
            params=[Param(key, str(value)[:6000]) for key, value in params.items()],
            metrics=[Metric(metric_name(key), value, now, 0) for key, value in metrics.items() if np.isfinite(value)],
        )
        client.log_artifacts(run_id, str(folder))
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    return run_id
