"""Long work as Ray tasks, in processes of their own. The only room of the service that knows Ray."""

__all__ = ["Cluster", "Task"]

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from segcal.analysis.request import Resolved
from segcal.analysis.word import Word
from segcal.cluster import ray_cluster, scratch
from segcal.environment import environment, home
from segcal.errors import SegcalError
from segcal.ledger.store import open_store

# Hours of work are not lost because a tracking server is away for some minutes; requests of readers are given up early.
PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "7", "MLFLOW_HTTP_REQUEST_TIMEOUT": "120"}


class Cluster:
    """Ray, started at the first task in a thread of its own, and kept until `close`."""

    def __init__(self, say: Callable[[str], None], address: str | None) -> None:
        self._say, self._address = say, address
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self.signals_taken: Callable[[], None] = lambda: None  # called when Ray has changed who hears SIGTERM

    def analyse(self, uri: str, resolved: Resolved, run_id: str, holder: str, url: str) -> "Task":
        """Compute an analysis into its open run. Raises SegcalError where Ray cannot be started."""
        variables = {"MLFLOW_TRACKING_URI": uri, "SEGCAL_HOME": str(home()), "SEGCAL_URL": url}
        return self._start(_analyse, 0, variables, resolved, run_id, holder)  # its own tasks take the cores

    def call(self, function: Callable[..., Any], uri: str, *arguments: Any) -> "Task":
        """Call a function of this code with a core of its own."""
        return self._start(_call, 1, {"MLFLOW_TRACKING_URI": uri, "SEGCAL_HOME": str(home())}, function, *arguments)

    def close(self) -> None:
        """Stop Ray and what it still computes. A cluster that others started goes on."""
        with self._lock:
            self._closing.set()
            if self._thread:
                self._thread.join(20)

    def renew(self) -> None:
        """Start Ray again for the next task, as it is when it has died."""
        with self._lock:
            thread, closing = self._thread, self._closing
            self._thread, self._closing = None, threading.Event()
        closing.set()
        if thread:
            thread.join(20)

    def _start(self, function: Callable[..., Any], cores: int, *arguments: Any) -> "Task":
        with self._lock:
            self._ready()
            import ray

            remote = ray.remote(num_cpus=cores, max_retries=0)(function)
            return Task(remote.remote(*arguments))

    def _ready(self) -> None:
        """Ray runs when this returns. To be called with the lock."""
        if self._closing.is_set():
            raise SegcalError("the service stops")
        if self._thread and self._thread.is_alive():
            return
        started, failed = threading.Event(), list[Exception]()
        closing = self._closing

        def hold() -> None:
            try:
                with ray_cluster(self._say, self._address):
                    self.signals_taken()
                    started.set()
                    closing.wait()
                self.signals_taken()
            except Exception as error:  # told to whoever waits
                failed.append(error)
            finally:
                started.set()

        self._thread = threading.Thread(target=hold, name="segcal-ray", daemon=True)
        self._thread.start()
        started.wait()
        if failed:
            self._thread = None
            raise failed[0] if isinstance(failed[0], SegcalError) else SegcalError(f"Ray must start, got: {failed[0]}")


class Task:
    """Something that Ray computes."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def wait(self, seconds: float) -> bool:
        """Whether it is over."""
        import ray

        return bool(ray.wait([self._reference], timeout=seconds)[0])

    def result(self) -> Any:
        """What it returned. Raises what it raised, SegcalError where its process died, and RayDied."""
        import ray.exceptions as lost
        from ray import get

        try:
            return get(self._reference)
        except lost.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else SegcalError(str(error.cause))) from None
        except lost.TaskCancelledError:
            raise SegcalError("it was cancelled") from None
        except (lost.WorkerCrashedError, lost.OutOfMemoryError) as error:
            memory = isinstance(error, lost.OutOfMemoryError)
            raise SegcalError(
                f"its process must live to the end, got one that {'took too much memory' if memory else 'died'}; "
                "ask again, with less --memory-gb where the machine is small"
            ) from None
        except lost.RayError as error:
            raise RayDied(f"Ray must live to the end, got: {str(error).splitlines()[0][:200]}; ask again") from None

    def cancel(self, force: bool) -> None:
        """Interrupt it and what it has started; force: its process ends at once, whatever it does."""
        import ray

        with contextlib.suppress(Exception):  # over, or Ray is gone
            ray.cancel(self._reference, recursive=True, force=force)


class RayDied(SegcalError):
    """Ray itself is gone, not only a task."""


def _analyse(variables: Mapping[str, str], resolved: Resolved, run_id: str, holder: str) -> None:
    from segcal.analysis.run_analysis import run_analysis

    with _worker(variables), scratch("report") as folder:
        client = open_store()
        with Word(client, run_id, holder) as word:
            run_analysis(client, resolved, run_id, folder / "report", word.say, word.progress)


def _call(variables: Mapping[str, str], function: Callable[..., Any], *arguments: Any) -> Any:
    with _worker(variables):
        return function(*arguments)


@contextlib.contextmanager
def _worker(variables: Mapping[str, str]) -> Any:
    """What a task's process needs. One that is told to end does so at once: who started it says how a run ended."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(143))
    try:
        with environment({**PATIENT, **variables}):
            yield
    except SegcalError as error:  # some have more to them than can be sent from process to process
        raise SegcalError(str(error)) from None
    except Exception as error:
        raise RuntimeError("".join(traceback.format_exception(error))) from None
