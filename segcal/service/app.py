"""The web application: its rooms put together."""

__all__ = ["create_app"]

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Scope

import segcal
from segcal.ledger.store import Store, answers, open_store
from segcal.service import api, login, predict_api
from segcal.service.catalogue import Catalogue
from segcal.service.explorer import case_pages, pages
from segcal.service.jobs import Jobs
from segcal.service.monitoring import metrics
from segcal.service.predictions import Predictions
from segcal.service.recent import Recent
from segcal.service.refusals import add_handlers
from segcal.service.security import protect
from segcal.service.settings import Settings

ASSETS = Path(segcal.__file__).parent / "dashboards" / "assets"
READY_S = 2.0
FILES_S = 30.0  # how long it is believed where a report's file lies
TAGS = [
    {"name": "analyses", "description": "Ask for an analysis, follow it, stop it"},
    {"name": "results", "description": "What a finished analysis has found"},
    {"name": "catalogue", "description": "What there is to analyse"},
    {"name": "predictions", "description": "Predict images with a registered ensemble"},
    {"name": "health", "description": "For whoever watches over the service"},
]

_log = logging.getLogger("segcal.service")


def create_app(settings: Settings, say: Callable[[str], None] | None = None) -> FastAPI:
    """The service over a tracking store. Raises StoreUnreachable where that does not answer."""
    client = open_store(settings.tracking_uri)
    app = FastAPI(
        title="segcal", version=segcal.__version__, docs_url=None, redoc_url=None, lifespan=_lifespan,
        openapi_tags=TAGS, description="How far can the probabilities of medical segmentation networks be trusted?",
    )  # fmt: skip
    app.state.settings, app.state.client, app.state.catalogue = settings, client, Catalogue(client)
    app.state.readiness = Readiness(client).reason
    app.state.files = Recent(FILES_S)
    counted = metrics.metrics_of(app)
    app.state.jobs = Jobs(settings, client, counted.analysis, say or _log.info)
    app.state.predictions = Predictions(settings, app.state.jobs.cluster, counted.prediction)
    shown = [Depends(HTTPBearer(auto_error=False))] if settings.token else []  # for the schema: `protect` asks for it
    for room in (api.router, predict_api.router):
        app.include_router(room, dependencies=shown)
    for room in (api.health, metrics.router, login.router, case_pages.router):
        app.include_router(room)
    app.include_router(pages.router)  # last: its paths take what others leave
    add_handlers(app)
    app.mount("/assets", Assets(directory=ASSETS.resolve()), name="assets")
    protect(app, settings)
    metrics.install(app)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.jobs.start()
    app.state.predictions.start()
    try:
        yield
    finally:
        await run_in_threadpool(app.state.predictions.close)
        await run_in_threadpool(app.state.jobs.close)
        if maps := getattr(app.state, "case_maps", None):  # made by the first case that is looked at
            await run_in_threadpool(maps.close)


class Assets(StaticFiles):
    """Files of the pages; asked for by their hash (?v=), they never change."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        forever = scope["query_string"].startswith(b"v=")
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if forever else "no-cache"
        return response


class Readiness:
    """Whether the store answers in time; one question at a time, however many ask."""

    def __init__(self, client: Store) -> None:
        self._client = client
        self._pool = ThreadPoolExecutor(1, "segcal-ready")
        self._asked = self._pool.submit(lambda: True)
        self._at = float("-inf")

    def reason(self) -> str:
        """Why the service is not ready; empty where it is."""
        if self._asked.done() and time.monotonic() - self._at > 0.5:
            self._at = time.monotonic()
            self._asked = self._pool.submit(answers, self._client)
        try:
            ready = self._asked.result(READY_S)
        except TimeoutError:
            return f"the tracking store must answer within {READY_S:g} s, got no answer; see whether it runs"
        return "" if ready else "the tracking store must answer, got none; see whether it runs"
