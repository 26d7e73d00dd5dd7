"""Pages of `segcal serve` under many readers at once: a server in a process of its own, readers in this one.

The newest finished report of the tracking store is read ($MLFLOW_TRACKING_URI, or mlflow.db here); `make demo` makes
one. Readers take their share of the cores too.
"""

__all__ = ["Answer", "measure", "pages_of", "read_all"]

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import numpy as np

from benchmarks.table import Row
from segcal.ledger.location import tracking_uri

READERS, ROUNDS = 50, 20
GOAL_S = 0.3


@dataclass(frozen=True)
class Answer:
    """One request."""

    path: str
    status: int
    size: int  # bytes of the body, packed
    seconds: float


def pages_of(url: str, run_id: str, task: str, analysis_id: str) -> list[str]:
    """What readers look at, each of which is asked once here: pages are cached afterwards."""
    report = f"/reports/{run_id}/{quote(task, safe='')}"
    analysis = f"/v1/analyses/{analysis_id}"
    paths = ["/", "/v1/experiments", "/v1/analyses", analysis, f"{analysis}/result"]
    paths += [f"{report}{view}" for view in ("", "/table", "/curve", "/reliability", "/scatter", "/cases")]
    with httpx.Client(base_url=url, timeout=120) as client:
        for path in paths:
            client.get(path).raise_for_status()
    return paths


def read_all(url: str, paths: Sequence[str], readers: int, rounds: int) -> list[Answer]:
    """Every reader asks for every path `rounds` times, one after another; the readers begin at different paths."""
    return asyncio.run(_read_all(url, paths, readers, rounds))


async def _read_all(url: str, paths: Sequence[str], readers: int, rounds: int) -> list[Answer]:
    """By plain sockets: a client library would take more of the cores than the server does."""
    host = urlsplit(url)
    answers: list[Answer] = []

    async def read(first: int) -> None:
        source, sink = await asyncio.open_connection(host.hostname, host.port, limit=1 << 20)
        for number in range(rounds * len(paths)):
            path = paths[(first + number) % len(paths)]
            began = time.perf_counter()
            sink.write(f"GET {path} HTTP/1.1\r\nHost: {host.netloc}\r\nAccept-Encoding: gzip\r\n\r\n".encode())
            head = (await source.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            size = int(head.partition("\r\ncontent-length: ")[2].partition("\r\n")[0])
            await source.readexactly(size)
            answers.append(Answer(path, int(head.split(" ", 2)[1]), size, time.perf_counter() - began))
        sink.close()
        await sink.wait_closed()

    await asyncio.gather(*(read(reader) for reader in range(readers)))
    return answers


def measure() -> list[Row]:
    """A row for each path, and one for all of them."""
    with _serving(tracking_uri()) as url:
        known = httpx.get(f"{url}/v1/analyses", timeout=60).json()["analyses"]
        newest = next((analysis for analysis in known if analysis["status"] == "finished"), None)
        if newest is None:
            raise SystemExit("benchmarks service: the tracking store must hold a report, got none; run `make demo`")
        paths = pages_of(url, newest["run_id"], newest["tasks"][0], newest["id"])
        answers = read_all(url, paths, READERS, ROUNDS)
    wrong = [answer for answer in answers if answer.status != 200]
    rows = [_row("all pages", answers, f"{len(wrong)} errors of {len(answers)} requests")]
    for path in paths:
        kind = path.replace(newest["run_id"], "RUN").replace(newest["id"], "ID")
        rows.append(_row(kind, [answer for answer in answers if answer.path == path], ""))
    return rows


def _row(what: str, answers: Sequence[Answer], note: str) -> Row:
    seconds = np.array([answer.seconds for answer in answers])
    p50, p95, worst = np.quantile(seconds, [0.5, 0.95, 1.0])
    text = f"median {1000 * p50:.0f} ms, worst {1000 * worst:.0f} ms; {note}".removesuffix("; ")
    return Row(f"p95 of {READERS} readers at once: {what}", float(p95), goal=f"{GOAL_S} s", note=text)


@contextlib.contextmanager
def _serving(uri: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        command = [sys.executable, "-m", "segcal", "serve", "--port", "0", "--json", "--rate", "1000000"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | {"MLFLOW_TRACKING_URI": uri}
        )
        try:
            assert process.stdout is not None
            yield str(json.loads(process.stdout.readline())["url"])
        finally:
            process.terminate()
            process.wait(30)
