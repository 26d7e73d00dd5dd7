"""The services of docker/compose.yaml as processes of this machine, each on a loopback address of its own.

What a container gives a program, and nothing else, is put in its place: names of services become 127.0.1.x (so that all
ports stay as they are), an address that means the container itself becomes its own, and folders of images and volumes
become folders of this machine. Three images are not segcal's; programs stand in: Debian's PostgreSQL, set up as the
image's entrypoint would, Debian's Prometheus, and moto in SeaweedFS's place.
"""

import contextlib
import getpass
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.docker.composed import DOCKER, ROOT, compose, image
from tests.tracking_servers import postgres_bin

VENV = Path(sys.executable).parent
STAND_INS = ("postgres", "s3", "prometheus")
_SELF = r"127\.0\.0\.1|localhost|0\.0\.0\.0"
_PATIENCE_S = 180.0


@dataclass
class Lab:
    """Everything of one `docker compose up`, below one folder with a short path: Ray's sockets lie in it."""

    values: dict[str, str]
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="sc-", dir="/tmp")))
    _processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.compose = compose(self.values)
        self.services: dict[str, dict[str, Any]] = self.compose["services"]
        self.address = {name: f"127.0.1.{index}" for index, name in enumerate(self.services, start=11)}
        self.folders = {
            "/run/secrets": self.folder / "secrets",
            "/opt/setup": DOCKER / "setup",
            "/etc/segcal": self.folder / "etc",
            "/etc/prometheus": self.folder / "etc",
            "/prometheus": self.folder / "prometheus",
            "/data": self.folder / "data",
            "/images": self.folder / "images",
        }
        for path in stage_folders():
            (self.folder / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for name in ("etc", "images"):
            (self.folder / name).mkdir()
        subprocess.run([DOCKER / "secrets.sh", self.folder / "secrets"], check=True, capture_output=True)
        for service, name in (("mlflow", "mlflow_auth.ini"), ("prometheus", "prometheus.yml")):
            (self.folder / "etc" / name).write_text(self.here(service, (DOCKER / name).read_text()))
        shutil.copy(ROOT / "dashboards/prometheus/alerts.yml", self.folder / "etc")

    # --- what is put in the place of what

    def here(self, service: str, text: str) -> str:
        """A word of a service's command or environment, with the names of this machine. Nothing else changes."""
        names = "|".join(map(re.escape, sorted(self.address, key=len, reverse=True)))
        folders = "|".join(map(re.escape, self.folders))
        pattern = rf"(?<![\w.-])(?:(?P<own>{_SELF})(?![\w.])|(?P<name>{names})(?=:\d)|(?P<folder>{folders})(?=[/\s]|$))"

        def replacement(found: re.Match[str]) -> str:
            if found["own"]:
                return self.address[service]
            return self.address[found["name"]] if found["name"] else str(self.folders[found["folder"]])

        return re.sub(pattern, replacement, text)

    def environment(self, service: str) -> dict[str, str]:
        """The image's variables and those of the service: nothing of the caller's but what its processors need."""
        target = self.services[service].get("build", {}).get("target")
        given = (image(target)["ENV"] if target else {}) | self.services[service].get("environment", {})
        given = {name: self.here(service, str(value)) for name, value in given.items()}
        own = self._tmp(service)
        own.mkdir(exist_ok=True)
        system = {
            "PATH": f"{VENV}:{DOCKER}:{postgres_bin() or ''}:/usr/bin:/bin",
            "HOME": str(own),
            "HOSTNAME": self.address[service],
            "RAY_TMPDIR": str(own),
            "MPLCONFIGDIR": str(own / "matplotlib"),
        }
        processor = {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}
        return processor | given | system

    def words(self, service: str, *instead: str) -> list[str]:
        """The command line of a service; `instead` of its command, as `docker compose run SERVICE WORDS` has it."""
        spec = self.services[service]
        entry = spec.get("entrypoint") or ["entrypoint.sh"]
        return [self.here(service, word) for word in (*entry, *(instead or spec["command"]))]

    # --- running it

    def up(self, *services: str) -> None:
        """Start services after those they depend on, each when the one before is healthy or has ended well."""
        for name in services:
            if name in self._processes:
                continue
            needed = self.services[name].get("depends_on", {})
            self.up(*needed)
            for other, how in needed.items():
                if how["condition"] == "service_healthy":
                    self.wait_healthy(other)
            if self.services[name].get("restart") == "no":
                done = self.run(name)
                if done.returncode:
                    raise RuntimeError(f"{name} must end with 0, got {done.returncode}: {done.stdout}{done.stderr}")
                self._processes[name] = None
            else:
                self._processes[name] = self._start(name)

    def run(self, service: str, *instead: str, timeout_s: float = 400, **changes: str) -> subprocess.CompletedProcess:
        """`docker compose run --rm SERVICE WORDS`; changes are to its environment."""
        return subprocess.run(
            self.words(service, *instead), cwd=self.folder / "data/work", env=self.environment(service) | changes,
            capture_output=True, text=True, timeout=timeout_s, start_new_session=True,
        )  # fmt: skip

    def healthy(self, service: str) -> bool:
        """What Docker's health check would say; of moto, whether it listens."""
        test = self.services[service]["healthcheck"]["test"]
        if service == "s3":
            test = ["CMD", "python", "-c", f"import socket; socket.create_connection(('{self.address['s3']}', 8333))"]
        done = subprocess.run(
            [self.here(service, word) for word in test[1:]], env=self.environment(service), capture_output=True
        )
        return test[0] == "CMD" and done.returncode == 0

    def wait_healthy(self, service: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not self.healthy(service):
            process = self._processes[service]
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{service} must get healthy, got: {self.log(service)[-3000:]}")
            time.sleep(0.5)

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text()

    def stop(self, service: str) -> None:
        """As `docker compose stop`: SIGTERM, then SIGKILL to what is left of the container."""
        process = self._processes.pop(service)
        if process is not None:
            process.send_signal(signal.SIGINT if service == "postgres" else signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        self._kill_rest(service)

    def down(self) -> None:
        for service in reversed(list(self._processes)):
            self.stop(service)
        for service in self.services:
            self._kill_rest(service)
        shutil.rmtree(self.folder)

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text()

    def _start(self, service: str) -> subprocess.Popen:
        words, environment, options = self.words_of_stand_in(service) if service in STAND_INS else (
            self.words(service), self.environment(service), {}
        )  # fmt: skip
        with (self.folder / f"{service}.log").open("ab") as log:
            cwd = options.pop("cwd", self.folder / "data/work")
            return subprocess.Popen(
                words, cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True, **options
            )

    def words_of_stand_in(self, service: str) -> tuple[list[str], dict[str, str], dict[str, Any]]:
        environment = self.environment(service)
        if service == "s3":
            moto = [sys.executable, "-m", "moto.server", "-H", self.address["s3"], "-p", "8333"]
            return moto, environment, {}
        if service == "prometheus":
            words = [self.here(service, word) for word in self.services[service]["command"]]
            return ["prometheus", *words, f"--web.listen-address={self.address[service]}:9090"], environment, {}
        data, user = self.folder / "postgres", getpass.getuser() if os.geteuid() else "postgres"
        os.chmod(self.folder, 0o711)  # PostgreSQL's user comes through, and lists nothing
        if not data.exists():
            data.mkdir()
            (data / "password").write_text(Path(environment["POSTGRES_PASSWORD_FILE"]).read_text())
            if not os.geteuid():
                for path in (data, data / "password"):
                    shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
        options = {"cwd": data} | ({} if os.geteuid() else {"user": user, "group": pwd.getpwnam(user).pw_gid})
        if not (data / "data").exists():
            given = ["-U", environment["POSTGRES_USER"], "--pwfile=password", "--auth=scram-sha-256"]
            locale = ["-E", "UTF8", "--locale=C", "--no-sync"]
            self._postgres_tool(options, "initdb", "-D", "data", *given, *locale)
            single = ["postgres", "--single", "-D", "data", "postgres"]
            statement = f"CREATE DATABASE {environment['POSTGRES_DB']}".encode()
            subprocess.run(
                [postgres_bin() / single[0], *single[1:]], input=statement, capture_output=True, check=True, **options
            )
        settings = {
            "listen_addresses": self.address["postgres"], "port": "5432", "fsync": "off", "unix_socket_directories": "",
        }  # fmt: skip
        words = [str(postgres_bin() / "postgres"), "-D", "data"]
        return [*words, *(f"--{name}={value}" for name, value in settings.items())], environment, options

    @staticmethod
    def _postgres_tool(options: dict[str, Any], program: str, *words: str) -> None:
        done = subprocess.run([postgres_bin() / program, *words], capture_output=True, text=True, **options)
        if done.returncode:
            raise RuntimeError(f"{program} must end with 0, got {done.returncode}: {done.stderr}")

    def _tmp(self, service: str) -> Path:
        """A container's /tmp."""
        return self.folder / self.address[service].rpartition(".")[2]

    def _kill_rest(self, service: str) -> None:
        """What a container's end would end: every process that has its folder."""
        mark = f"RAY_TMPDIR={self._tmp(service)}\0".encode()
        for entry in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in entry.read_bytes() + b"\0":
                    os.kill(int(entry.parent.name), signal.SIGKILL)


def stage_folders() -> list[str]:
    """The folders below /data that the image makes."""
    from tests.docker.composed import stage

    made = next(rest for word, rest in stage("cpu") if word == "RUN" and "/data" in rest)
    return re.findall(r"/data\S*", made)
