"""Real tracking servers as fixtures: `mlflow server` on loopback over SQLite, and over a PostgreSQL of the test's own.

def test_something(tracking_server):  # once a kind; a kind that cannot run here is skipped and says why
    client = open_store(tracking_server.uri)
    tracking_server.stop()  # SIGKILL, as an outage would have it
    tracking_server.start()  # the same address, the same database, the same artifacts
"""

import contextlib
import getpass
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

KINDS = ("sqlite", "postgres")
_PATIENCE_S = 90.0


@dataclass
class TrackingServer:
    """`mlflow server` with proxied artifacts; killed and started again at will."""

    database: str  # SQLAlchemy's URL
    folder: Path
    workers: int = 1
    port: int = field(default_factory=lambda: free_port())
    _process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns when the server answers; does nothing where it runs."""
        if self.running:
            return
        command = [
            *(str(Path(sys.executable).with_name("mlflow")), "server", "--backend-store-uri", self.database),
            *("--host", "127.0.0.1", "--port", str(self.port), "--workers", str(self.workers)),
            *("--serve-artifacts", "--artifacts-destination", str(self.folder / "artifacts")),
        ]
        # Job execution, for evaluations of language models, would start nine processes more.
        quick = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env={**os.environ, **quick}, stdout=log, stderr=log, start_new_session=True
            )
        until(self._answers, lambda: self.running, self.log)

    def stop(self) -> None:
        """SIGKILL to every process of the server: what it was writing is left as it is."""
        if self._process is not None:
            kill_group(self._process)
            self._process = None

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False


class Postgres:
    """Debian's PostgreSQL on loopback, trusting everybody, in a folder of the user it runs as; nothing is synced."""

    def __init__(self, bin_dir: Path) -> None:
        # The server refuses to run as root.
        self._user = getpass.getuser() if os.geteuid() else _other_user()
        self._bin, self._port = bin_dir, free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="segcal-postgres-"))
        if not os.geteuid():
            shutil.chown(self.folder, self._user)
        self._process: subprocess.Popen | None = None
        self._run("initdb", "-D", "data", "-U", "segcal", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        self.start()

    def start(self) -> None:
        """Returns when the database answers."""
        options = {"fsync": "off", "unix_socket_directories": "", "listen_addresses": "127.0.0.1"}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        log = self.folder / "postgres.log"
        with log.open("ab") as out:
            command = [self._bin / "postgres", "-D", "data", "-p", str(self._port), *settings]
            self._process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, **self._as_user())
        until(lambda: accepts(self._port), lambda: self._process.poll() is None, log)
        until(lambda: self._run("pg_isready", *self._address, check=False), lambda: True, log)

    def stop(self) -> None:
        """At once and without a checkpoint, as a crash: the next start recovers from the log."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # SIGKILL would leave its children, each a session of its own
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def new_database(self, name: str) -> str:
        """SQLAlchemy's URL of an empty database."""
        self._run("createdb", *self._address, name)
        return f"postgresql+psycopg://segcal@127.0.0.1:{self._port}/{name}"

    @property
    def _address(self) -> tuple[str, ...]:
        return "-h", "127.0.0.1", "-p", str(self._port), "-U", "segcal"

    def _run(self, program: str, *words: str, check: bool = True) -> bool:
        done = subprocess.run([self._bin / program, *words], capture_output=True, text=True, **self._as_user())
        if check and done.returncode:
            raise RuntimeError(f"{program} must end with 0, got {done.returncode}: {done.stderr}")
        return done.returncode == 0

    def _as_user(self) -> dict:
        return {"cwd": self.folder, **({} if os.geteuid() else {"user": self._user, "group": self._user_group()})}

    def _user_group(self) -> int:
        return pwd.getpwnam(self._user).pw_gid


def postgres_missing() -> str | None:
    """Why there can be no PostgreSQL here; None where there can."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed: pip install 'segcal[postgres]'"
    if postgres_bin() is None:
        return "no /usr/lib/postgresql/*/bin/initdb: apt-get install postgresql"
    return None


def postgres_bin() -> Path | None:
    """The folder of the newest PostgreSQL's programs: Debian's, or the one of the search path."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found and (anywhere := shutil.which("initdb")):
        return Path(anywhere).parent
    return max(found, key=lambda path: int(path.parent.name), default=None)


def _other_user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def until(ready: Callable[[], bool], alive: Callable[[], bool], log: Path) -> None:
    """Wait until ready; RuntimeError with the end of the log where the process dies or takes too long."""
    deadline = time.monotonic() + _PATIENCE_S
    while not ready():
        if not alive() or time.monotonic() > deadline:
            raise RuntimeError(f"the server must answer within {_PATIENCE_S:.0f} s, got: {log.read_text()[-2000:]}")
        time.sleep(0.1)


def kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL for all tests; each takes a database of its own."""
    if why := postgres_missing():
        pytest.skip(why)
    database = Postgres(postgres_bin())
    yield database
    database.remove()


@pytest.fixture(scope="session")
def _servers(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest):
    """A server of each kind, started when first asked for."""
    servers: dict[str, TrackingServer] = {}

    def of(kind: str) -> TrackingServer:
        if kind not in servers:
            folder = tmp_path_factory.mktemp(f"{kind}-server")
            if kind == "postgres":
                database = request.getfixturevalue("postgres").new_database("mlflow")
            else:
                database = f"sqlite:///{folder / 'mlflow.db'}"
            servers[kind] = TrackingServer(database, folder)
        servers[kind].start()
        return servers[kind]

    yield of
    for server in servers.values():
        server.stop()


@pytest.fixture(params=KINDS)
def tracking_server(request: pytest.FixtureRequest, _servers) -> TrackingServer:
    """A running server of each kind, the same one for all tests: take an experiment of your own."""
    return _servers(request.param)


@pytest.fixture(params=["file", *KINDS])
def store_uri(request: pytest.FixtureRequest, _servers, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of each store that segcal supports: a SQLite file, and the servers."""
    if request.param == "file":
        return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    return str(_servers(request.param).uri)
