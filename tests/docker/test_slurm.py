"""examples/slurm.sbatch with programs of Slurm, Ray and segcal that only say how they were called."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.docker.composed import ROOT

PROGRAMS = {
    "scontrol": 'printf "n1\\nn2\\nn3\\n"',
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"',
    "hostname": 'echo "10.0.0.1 192.168.0.1"',
    "ray": 'echo "ray $*" >>"$CALLS"\nif [ "$1" = start ]; then exec sleep 60; fi',
    "segcal": """trap "trap : TERM; sleep 1; echo stopped >>$CALLS; exit 130" TERM
mkdir -p "$RAY_TMPDIR/session"
echo "segcal $* at $RAY_ADDRESS" >>"$CALLS"
cp "$RAY_AUTH_TOKEN_PATH" "$CALLS.token"
stat -c %a "$RAY_AUTH_TOKEN_PATH" >>"$CALLS"
sleep "${LASTS:-0}" & wait $!
exit 3""",
}


@pytest.fixture
def job(tmp_path: Path):
    """Starts the job with these words: (process, the file of calls)."""
    for name, script in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(calls), "SEGCAL_STORAGE": str(tmp_path / "shared"),
        "MLFLOW_TRACKING_URI": "http://mlflow", "SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_JOB_NUM_NODES": "3", "SLURM_CPUS_PER_TASK": "8", "SLURM_GPUS_ON_NODE": "2",
    }  # fmt: skip
    started = []

    def start(*words: str, **changes: str) -> tuple[subprocess.Popen, Path]:
        started.append(
            subprocess.Popen(
                ["bash", ROOT / "examples/slurm.sbatch", *words], env=environment | changes, stderr=subprocess.PIPE,
                text=True, start_new_session=True,
            )
        )  # fmt: skip
        return started[-1], calls

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def test_a_job_is_a_cluster_with_a_token_and_ends_as_its_sweep_does(job, tmp_path):
    process, calls = job("sweep", "--task", "brain")
    assert process.wait(20) == 3
    said = calls.read_text().splitlines()
    (head,) = [line for line in said if "--head" in line]
    (others,) = [line for line in said if line.startswith("ray start --block")]
    assert "--node-ip-address 10.0.0.1 --port 23456 --ray-client-server-port 31456 --include-dashboard false" in head
    assert "--num-cpus 8 --num-gpus 2" in head
    assert "--address 10.0.0.1:23456" in others
    assert "segcal sweep --task brain at 10.0.0.1:23456" in said
    assert "600" in said
    assert len((tmp_path / "calls.token").read_text()) == 64
    assert not list((tmp_path / "shared").iterdir())  # the token is gone
    assert not Path("/tmp/ray-123456").exists()  # and what Ray left on the node


@pytest.mark.parametrize("signals", [1, 3])  # scancel sends more than one
def test_slurm_s_signal_stops_the_sweep_gently(job, signals):
    process, calls = job("sweep", "--task", "brain", LASTS="30")
    while "segcal" not in calls.read_text():
        time.sleep(0.05)
    time.sleep(0.3)  # the job knows its number
    for _ in range(signals):
        process.terminate()
        time.sleep(0.2)
    assert process.wait(20) == 130
    assert calls.read_text().splitlines()[-1] == "stopped"


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [((), {}, "must be a verb of segcal"), (("sweep",), {"SEGCAL_STORAGE": ""}, "a folder that all nodes see")],
)
def test_what_is_missing_is_told_before_anything_starts(job, words, changes, message):
    process, calls = job(*words, **changes)
    assert process.wait(20) != 0
    assert message in process.communicate()[1]
    assert calls.read_text() == ""
