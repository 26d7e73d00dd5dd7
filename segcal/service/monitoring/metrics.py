"""`/metrics`: what the service does and how far the sweeps of its store are, for Prometheus.

A scrape is bounded in time: what may hang (storage, tracking store, GPU driver) is asked by threads of its own, at most
every few seconds, and a scrape that cannot wait for them tells what they said last.
"""

__all__ = ["Metrics", "RequestMetrics", "install", "metrics_of", "router"]

import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)  # fmt: skip
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segcal.ledger.store import answers
from segcal.service.monitoring.sweep_metrics import SweepReader, SweepReading, families
from segcal.version import code_version

EVERY_S = 10.0  # between two readings of the records, at least; a reading that takes long is made less often
SHARE = 0.1  # of the time, at most, in which records are read
WAIT_S = 5.0  # of a scrape for all that is asked; Prometheus waits for 10
REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ANALYSIS_S = (1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 10800.0, 36000.0)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
NOWHERE = "(none)"  # the route of a request that no route takes, or that was refused before

AnalysisState = Literal["queued", "running", "finished", "failed", "cancelled"]
T = TypeVar("T")

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series of every counter that nobody reads


class Latest(Generic[T]):
    """What a call that may hang gave last. One thread at a time makes it, when somebody looks."""

    def __init__(self, call: Callable[[], T], every_s: float, share: float = 1.0) -> None:
        self._call, self._every_s, self._share = call, every_s, share
        self._lock, self._idle = threading.Lock(), threading.Event()
        self._idle.set()
        self._due = 0.0
        self.began, self.ended = 0.0, 0.0  # of the newest call, and of the newest that gave something; monotonic
        self.value: T | None = None

    def start(self) -> None:
        """Call again, where the last time is long enough ago and nothing is under way."""
        with self._lock:
            if not self._idle.is_set() or time.monotonic() < self._due:
                return
            self._idle.clear()
            self.began = time.monotonic()
        threading.Thread(target=self._run, name="segcal-metrics", daemon=True).start()

    def wait(self, until: float) -> T | None:
        """The newest value, once nothing is under way, or at that time of the monotonic clock."""
        self._idle.wait(max(0.0, until - time.monotonic()))
        return self.value

    @property
    def hangs(self) -> bool:
        """Whether a call is under way."""
        return not self._idle.is_set()

    def _run(self) -> None:
        try:
            self.value = self._call()
            self.ended = time.monotonic()
        finally:
            took_s = time.monotonic() - self.began
            self._due = time.monotonic() + max(self._every_s, took_s / self._share)
            self._idle.set()


@dataclass(frozen=True)
class _Answer:
    up: bool
    seconds: float


class Metrics:
    """All metrics of one application, in a registry of its own."""

    def __init__(self, client: Any, reader: SweepReader, every_s: float = EVERY_S, wait_s: float = WAIT_S) -> None:
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._analyses: dict[str, tuple[AnalysisState, float]] = {}  # queued and running, and since when
        self._wait_s = wait_s
        self._sweeps: Latest[SweepReading] = Latest(reader.read, every_s, SHARE)
        self._store: Latest[_Answer] = Latest(lambda: _asked(client), every_s)
        ProcessCollector(registry=self.registry)
        build = Gauge("segcal_build_info", "1, with the version of the code", ["version", "python"],
                      registry=self.registry)  # fmt: skip
        build.labels(code_version(), platform.python_version()).set(1)
        self.requests = Counter("segcal_http_requests", "Requests by route and status",
                                ["method", "route", "status"], registry=self.registry)  # fmt: skip
        self.request_seconds = Histogram("segcal_http_request_seconds", "Seconds until the answer began",
                                         ["method", "route"], buckets=REQUEST_S, registry=self.registry)  # fmt: skip
        self.in_flight = Gauge("segcal_http_requests_in_flight", "Requests that are being answered",
                               registry=self.registry)  # fmt: skip
        self._ended = Counter("segcal_analyses_ended", "Analyses by how they ended", ["outcome"],
                              registry=self.registry)  # fmt: skip
        self._seconds = Histogram("segcal_analysis_seconds", "Seconds from an analysis's begin to its end",
                                  buckets=ANALYSIS_S, registry=self.registry)  # fmt: skip
        self._predictions = Counter("segcal_predictions", "Predictions by how they ended", ["outcome"],
                                    registry=self.registry)  # fmt: skip
        for outcome in ("finished", "failed", "cancelled"):  # 0 is told as well, so that a rate sees the first one
            self._ended.labels(outcome)
        for outcome in ("finished", "failed", "refused"):
            self._predictions.labels(outcome)
        self.registry.register(_Asked(self._read))

    def analysis(self, analysis_id: str, state: AnalysisState) -> None:
        """Told of an analysis whenever its state changes; one that is told twice counts once."""
        with self._lock:
            before, since = self._analyses.get(analysis_id, (None, 0.0))
            if before == state:
                return
            if state in ("queued", "running"):
                self._analyses[analysis_id] = state, time.monotonic()
                return
            if before is None:  # it ended before
                return
            del self._analyses[analysis_id]
        self._ended.labels(state).inc()
        if before == "running":
            self._seconds.observe(time.monotonic() - since)

    def prediction(self, outcome: Literal["finished", "failed", "refused"]) -> None:
        """Told of a prediction when it ends."""
        self._predictions.labels(outcome).inc()

    def exposition(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)

    def _read(self) -> Iterator[Metric]:
        self._sweeps.start()
        self._store.start()
        yield from self._analysis_families()
        until = time.monotonic() + self._wait_s
        answer = self._store.wait(until)
        silent_s = time.monotonic() - self._store.began
        if self._store.hangs or answer is None:  # or it raised
            answer = _Answer(False, silent_s)
        yield GaugeMetricFamily("segcal_tracking_up", "Whether the tracking store answers, 0 or 1", answer.up)
        yield GaugeMetricFamily("segcal_tracking_answer_seconds",
                                "How long the tracking store took to answer; so far, where it does not",
                                answer.seconds)  # fmt: skip
        reading = self._sweeps.wait(until)
        age_s = time.monotonic() - (self._sweeps.ended or self._sweeps.began)
        yield from families(reading or SweepReading(), age_s)

    def _analysis_families(self) -> Iterator[Metric]:
        with self._lock:
            states = list(self._analyses.values())
        count = GaugeMetricFamily("segcal_analyses", "Analyses that wait and that are computed", labels=["state"])
        for state in ("queued", "running"):
            count.add_metric([state], sum(of == state for of, _ in states))
        yield count
        waits_s = [time.monotonic() - since for state, since in states if state == "queued"]
        yield GaugeMetricFamily("segcal_analysis_oldest_queued_seconds",
                                "How long the first of the waiting analyses waits; 0 without any",
                                max(waits_s, default=0.0))  # fmt: skip


class _Asked(Collector):
    """Families that are made at each scrape. It describes none: nothing is asked when it is registered."""

    def __init__(self, read: Callable[[], Iterator[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()

    def describe(self) -> Iterable[Metric]:
        return ()


def _asked(client: Any) -> _Answer:
    began = time.monotonic()
    up = answers(client)
    return _Answer(up, time.monotonic() - began)


class RequestMetrics:
    """The outermost middleware: counts requests by their route's template, never by the path that was asked for."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, root = time.perf_counter(), scope.get("root_path", "")
        method = scope["method"] if scope["method"] in METHODS else "other"
        status = 0

        def count(code: int) -> None:
            nonlocal status
            status, route = code, _template(scope, root)
            self._metrics.requests.labels(method, route, str(code)).inc()
            self._metrics.request_seconds.labels(method, route).observe(time.perf_counter() - began)

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, sent)
            except Exception:
                if not status:  # the server answers for us
                    count(500)
                raise


def _template(scope: Scope, root: str) -> str:
    """The route that took a request, such as /v1/analyses/{analysis_id}; of a mounted folder its name and {path}."""
    path = getattr(scope.get("route"), "path", None)
    if path:
        return str(path)
    mounted = scope.get("root_path", "").removeprefix(root)
    return f"{mounted}/{{path}}" if mounted and "endpoint" in scope else NOWHERE


def metrics_of(app: FastAPI) -> Metrics:
    """The metrics of an application, made where it has none. Its state has `client` and `settings`."""
    found = getattr(app.state, "metrics", None)
    if found is None:
        settings = app.state.settings
        found = app.state.metrics = Metrics(app.state.client, SweepReader(settings.tracking_uri, settings.storage))
    return found


def install(app: FastAPI) -> Metrics:
    """Count the application's requests from now; to be called last, so that refusals of other middleware count too."""
    metrics = metrics_of(app)
    app.add_middleware(RequestMetrics, metrics=metrics)
    return metrics


router = APIRouter()


@router.get("/metrics", include_in_schema=False)
def scrape(request: Request) -> Response:
    """What Prometheus asks for."""
    return Response(metrics_of(request.app).exposition(), media_type=CONTENT_TYPE_LATEST)
