"""A small sweep that is disturbed, and what is counted afterwards."""

import collections
import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from segcal.journal.checkpoint import WEIGHTS
from segcal.journal.reading import look, records, trial_storage
from segcal.journal.storage import Storage
from segcal.ledger.names import metric_name, tag
from segcal.ledger.read import models
from segcal.ledger.store import open_store
from segcal.sweep.run_trial import Assignment, run_trial

DRIVER = Path(__file__).with_name("driver.py")


class Sweep:
    """A sweep in a folder of its own, run by a driver that notes what is trained."""

    def __init__(self, folder, file, data, settings=(), uri=None, pace_s=0.05):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.events = folder, folder / "events.txt"
        self.uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
        self.records, self.experiment = folder / "records", f"faults-{uuid.uuid4().hex[:8]}"
        self.argv = ["sweep", str(file), "--data", str(data), "--storage", str(self.records)]
        self.argv += ["--experiment", self.experiment]
        for setting in settings:
            self.argv += ["--set", setting]
        self.environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": self.uri,
            "SEGCAL_TEST_EVENTS": str(self.events),
            "SEGCAL_TEST_PACE": str(pace_s),
        }
        self.said = ""

    def start(self, *more):
        """The driver as a process, in a group of its own as a terminal's would be."""
        return subprocess.Popen(
            [sys.executable, str(DRIVER), *self.argv, *more], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def run(self, *more, timeout=600):
        """The driver to its end; returns its exit code."""
        process = self.start(*more)
        _, self.said = process.communicate(timeout=timeout)
        return process.returncode

    @property
    def storage(self):
        return Storage(str(self.records / self.experiment))

    def noted(self, what):
        """Lines of the events that begin with this word, as lists of words; the last may be cut short by a kill."""
        if not self.events.exists():
            return []
        lines = [line.split() for line in self.events.read_text().splitlines()]
        return [line for line in lines if line[:1] == [what] and len(line) == 3]

    def wait_for(self, condition, timeout=120):
        until = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < until, f"waited {timeout} s in vain"
            time.sleep(0.02)

    def hashes(self):
        """sha256 of the weights of every finished trial, of the files themselves where they are on record."""
        found = {}
        for key, record in records(self.storage).items():
            if record.state == "finished":
                weights = trial_storage(self.storage, key).read(WEIGHTS)
                assert hashlib.sha256(weights).hexdigest() == record.weights_sha256, f"{record.name} looks complete"
                found[key] = record.weights_sha256
        return found

    def registered(self):
        return {ref.key: ref.weights_sha256 for ref in models(open_store(self.uri), self.experiment)}

    def executed(self):
        """Epochs that were trained over those that had to be."""
        needed = sum(record.epochs for record in records(self.storage).values() if record.state == "finished")
        return len(self.noted("epoch")) / needed

    def retrained(self):
        """Trainings that were begun of a trial that had ended before."""
        ended, again = set(), 0
        for line in self.events.read_text().splitlines():
            word, key, *_ = line.split()
            again += word == "start" and key in ended
            ended |= {key} if word == "end" else set()
        return again

    def statuses(self):
        client = open_store(self.uri)
        where = client.get_experiment_by_name(self.experiment).experiment_id
        return collections.Counter(run.info.status for run in client.search_runs([where], max_results=1000))

    def metrics(self):
        """(missing, doubled, wrong) values in MLflow against what is on record, over all trials."""
        client = open_store(self.uri)
        where = client.get_experiment_by_name(self.experiment).experiment_id
        missing = doubled = wrong = 0
        for key, record in records(self.storage).items():
            runs = client.search_runs([where], f"tags.`{tag('kind')}` = 'trial' and tags.`{tag('key')}` = '{key}'")
            progress = look(trial_storage(self.storage, key))
            doubled += len(runs) - 1
            for name, of in _expected(record, progress.lines).items():
                stored = collections.defaultdict(list)
                for run in runs:
                    for metric in client.get_metric_history(run.info.run_id, name):
                        stored[metric.step].append(metric.value)
                missing += len(of.keys() - stored.keys())
                doubled += sum(len(values) - 1 for values in stored.values())
                wrong += sum(of.get(step) != value for step, values in stored.items() for value in values)
        return missing, doubled, wrong


def _expected(record, lines):
    expected = {name: {line.epoch: getattr(line, name) for line in lines} for name in ("train_loss", "val_dice", "lr")}
    expected["seconds"] = {line.epoch: line.seconds for line in lines}
    for index, structure in enumerate(dict.fromkeys(record.task["labels"].values())):
        values = {line.epoch: line.val_dice_by_structure[index] for line in lines}
        expected[metric_name("val_dice", structure)] = {step: value for step, value in values.items() if value == value}
    return expected


def undisturbed(folder, configs, task, cohort):
    """Hashes of the same trials, trained one after another in this process without Ray, MLflow or any fault."""
    storage = Storage(str(folder))
    for config in configs:
        run_trial(Assignment(config, task, storage, "test", cohort.folder))
    return {record.key: record.weights_sha256 for record in records(storage).values()}


def kill_group(process):
    """SIGKILL of a driver alone: its helpers must notice by themselves."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
