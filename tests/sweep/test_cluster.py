"""A cluster of two nodes on loopback that asks for a token: jobs, shipped code, a sweep on the node that is named."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

import segcal

pytest.importorskip("aiohttp_cors", reason="the jobs server of a cluster's head needs ray[default]")
pytestmark = pytest.mark.fault  # about a minute

HEAD, SECOND = "127.0.0.2", "127.0.0.3"  # Ray replaces 127.0.0.1 by the machine's outer address
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
STORE_BYTES = 80_000_000  # about the smallest object store that Ray takes


@dataclass(frozen=True)
class RayCluster:
    """Where the cluster answers, and the environment of those who hold its token."""

    address: str
    jobs: str
    environment: dict[str, str]
    folder: Path

    def submit(self, runtime_env: dict, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit` of a command, waited for; changes are to the environment of the submitter."""
        options = ["--address", self.jobs, "--runtime-env-json", json.dumps(runtime_env)]
        return subprocess.run(
            [*RAY, "job", "submit", *options, "--", *command],
            cwd=self.folder, env=self.environment | changes, capture_output=True, text=True, timeout=240,
        )  # fmt: skip

    def state(self, what: str) -> list[dict]:
        """What the cluster's state API lists: nodes, actors."""
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(
            f"{self.jobs}/api/v0/{what}?detail=1", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["data"]["result"]["result"]


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def start_node(folder: Path, name: str, environment: dict[str, str], *options: str) -> subprocess.Popen[bytes]:
    """A node in a process group of its own, once it runs."""
    output = folder / f"{name}.out"
    command = [
        *RAY, "start", "--block", "--disable-usage-stats", "--num-cpus", "2", "--object-store-memory", str(STORE_BYTES),
        "--temp-dir", str(folder / name), *options,
    ]  # fmt: skip
    with output.open("wb") as out:
        node = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + 90
    while b"Ray runtime started" not in output.read_bytes():
        if node.poll() is not None or time.monotonic() > deadline:
            stop_node(node)
            raise RuntimeError(f"node '{name}' did not start: {output.read_text()[-2000:]}")
        time.sleep(0.2)
    return node


def stop_node(node: subprocess.Popen[bytes]) -> None:
    """End one node and what it started; `ray stop` would end every Ray of the machine."""
    node.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        node.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait(20)


def wait_for_jobs(cluster: RayCluster) -> None:
    """Until the cluster takes jobs, seconds after its nodes have started."""
    deadline = time.monotonic() + 60
    while (done := cluster.submit({}, "true")).returncode:
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            raise RuntimeError(f"the cluster takes no jobs: {done.stderr[-2000:]}")


@pytest.fixture(scope="module")
def cluster():
    folder = Path(tempfile.mkdtemp(prefix="segcal-nodes-", dir="/tmp"))  # sockets need a short path
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    port, jobs, client, *agents = free_ports(5)
    nodes = []
    try:
        head = f"--head --node-ip-address {HEAD} --port {port} --ray-client-server-port {client}"
        dashboard = f"--dashboard-host 127.0.0.1 --dashboard-port {jobs} --dashboard-agent-listen-port {agents[0]}"
        nodes.append(start_node(folder, "head", environment, *head.split(), *dashboard.split()))
        second = f"--address {HEAD}:{port} --node-ip-address {SECOND} --dashboard-agent-listen-port {agents[1]}"
        nodes.append(start_node(folder, "second", environment, *second.split(), "--resources", '{"trainer": 2}'))
        started = RayCluster(f"{HEAD}:{port}", f"http://127.0.0.1:{jobs}", environment, folder)
        wait_for_jobs(started)
        yield started
    finally:
        for node in reversed(nodes):
            stop_node(node)
        shutil.rmtree(folder, ignore_errors=True)


SHIPPED = {"py_modules": [str(Path(segcal.__file__).parent)]}
WHERE = """
import ray, segcal
ray.init(logging_level="ERROR", log_to_driver=False)
@ray.remote(resources={"trainer": 1})
def where():
    from segcal.tasks import TaskSpec
    return f"code {segcal.__file__} on {ray.util.get_node_ip_address()}"
print(ray.get(where.remote(), timeout=60))
"""


def test_a_job_runs_shipped_code_on_the_node_with_the_resource(cluster):
    (script := cluster.folder / "where.py").write_text(WHERE)
    done = cluster.submit(SHIPPED, sys.executable, str(script))
    assert done.returncode == 0, done.stdout + done.stderr
    path, node = re.search(r"^code (\S+) on (\S+)$", done.stdout, re.MULTILINE).groups()
    assert node == SECOND
    assert Path(path).is_relative_to(cluster.folder / "second")


def test_a_job_without_the_token_is_refused(cluster):
    wrong = cluster.folder / "wrong"
    wrong.write_text("0" * 64)
    done = cluster.submit({}, "true", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert done.returncode != 0
    assert "Invalid authentication token" in done.stderr


def test_a_submitted_sweep_trains_on_the_node_with_the_resource(cluster, tiny_files, blobs):
    sweep = cluster.folder / "sweep.yaml"
    sweep.write_text(tiny_files[1].read_text() + "resources: {custom: {trainer: 1}}\n")
    home, store = cluster.folder / "home", f"sqlite:///{cluster.folder}/mlflow.db"
    runtime_env = SHIPPED | {"env_vars": {"SEGCAL_HOME": str(home), "MLFLOW_TRACKING_URI": store}}
    command = [sys.executable, "-m", "segcal", "sweep", str(sweep), "--data", str(blobs), "--json"]
    storage = (cluster.folder / "storage").as_uri()
    done = cluster.submit(runtime_env, *command, "--storage", storage, "--address", cluster.address)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(re.search(r"^\{.*\}$", done.stdout, re.MULTILINE).group())
    assert sorted(result["finished"]) == ["ce seed 0", "ce seed 1", "dice seed 0", "dice seed 1"]
    addresses = {node["node_id"]: node["node_ip"] for node in cluster.state("nodes")}
    trainers = [actor for actor in cluster.state("actors") if "ImplicitFunc" in actor["class_name"]]
    assert {addresses[actor["node_id"]] for actor in trainers} == {SECOND}


def test_a_wrong_token_is_refused_in_one_line(cluster, tiny_files, blobs):
    wrong = cluster.folder / "wrong"
    wrong.write_text("0" * 64)
    command = [sys.executable, "-m", "segcal", "sweep", str(tiny_files[1]), "--data", str(blobs)]
    options = ["--storage", (cluster.folder / "refused").as_uri(), "--address", cluster.address]
    environment = cluster.environment | {
        "RAY_AUTH_TOKEN_PATH": str(wrong),
        "SEGCAL_HOME": os.environ["SEGCAL_HOME"],
        "MLFLOW_TRACKING_URI": f"sqlite:///{cluster.folder}/refused.db",
    }
    done = subprocess.run(
        [*command, *options], cwd=cluster.folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("segcal: ")]  # Ray's core has its own
    assert f"Ray must answer at {cluster.address}, got: " in line
    assert "RAY_AUTH_TOKEN_PATH" in line
