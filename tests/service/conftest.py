"""A service over the tiny experiment, and a finished report of it."""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from segcal.analysis.request import Request
from segcal.analysis.run_analysis import make_report
from segcal.environment import environment
from segcal.service.app import create_app
from segcal.service.settings import Settings

BASE = "http://127.0.0.1"
TOKEN = "a token that is long enough"


def quiet(line):
    """What a report says on its way, to nobody."""


@pytest.fixture(scope="session")
def reported(trained, tmp_path_factory):
    """A report of the tiny experiment as `segcal report` makes it: what `make_report` returns."""
    with environment({"MLFLOW_TRACKING_URI": trained[0]}):
        return make_report(Request("tiny", n_resamples=50), Path(tmp_path_factory.mktemp("report")) / "tiny", quiet)


@pytest.fixture(scope="session")
def settings(trained) -> Settings:
    return Settings(tracking_uri=trained[0], rate=1e5, burst=100_000)


@pytest.fixture(scope="session")
def app(settings):
    """An application whose threads do not run: nothing that is accepted is computed."""
    return create_app(settings)


@pytest.fixture
def client(app):
    """Requests to the application, without starting it."""
    return TestClient(app, base_url=BASE, raise_server_exceptions=False)


@pytest.fixture
def make_client(settings):
    """Clients of applications with other settings."""

    def make(**changed) -> httpx.Client:
        return TestClient(create_app(replace(settings, **changed)), base_url=BASE, raise_server_exceptions=False)

    return make
