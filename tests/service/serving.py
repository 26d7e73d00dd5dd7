"""`segcal serve` in a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import httpx

OVER = ("finished", "failed", "cancelled")


class Serving:
    """A service on a free port; `log` is what it has said on stderr, once it has ended."""

    def __init__(self, uri, folder, *arguments):
        self._log = open(folder / "serve.log", "a+")  # noqa: SIM115
        command = [sys.executable, "-m", "segcal", "serve", "--port", "0", "--json", *arguments]
        environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.log)
        self.url = json.loads(line)["url"]
        self.client = httpx.Client(base_url=self.url, timeout=60)

    @property
    def log(self):
        self._log.seek(0)
        return self._log.read()

    def wait(self, analysis_id, *states, seconds=120):
        """The status of an analysis when it is in one of these states."""
        end = time.monotonic() + seconds
        while True:
            content = self.client.get(f"/v1/analyses/{analysis_id}").raise_for_status().json()
            if content["status"] in states:
                return content
            assert content["status"] not in OVER, content
            assert time.monotonic() < end, (content, self.log)
            time.sleep(0.1)

    def stop(self, number=signal.SIGTERM):
        """Its exit code after a signal."""
        self.process.send_signal(number)
        try:
            return self.process.wait(40)
        finally:
            self.client.close()
            self.process.stdout.close()

    def close(self):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            if self.process.poll() is None:
                self.process.terminate()
                self.process.wait(20)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()
