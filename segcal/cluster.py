"""Starts Ray on this machine, or joins a cluster that is there."""

__all__ = ["ray_cluster", "scratch"]

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# Before Ray is imported. Workers keep the folder the sweep was started in.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a trial without a share sees no GPU
os.environ.setdefault("RAY_ROTATION_MAX_BYTES", "10000000")  # of each of Ray's own logs, and as many older ones
os.environ.setdefault("RAY_ROTATION_BACKUP_COUNT", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # results are ours to keep
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # segcal.sweep.interrupts is better

import segcal
from segcal.errors import SegcalError, first_line
from segcal.learn.allocator import handed_on


@contextlib.contextmanager
def ray_cluster(say: Callable[[str], None], address: str | None = None) -> Iterator[None]:
    """Ray within the block: the cluster at `address` or $RAY_ADDRESS, which gets this code; else one of this machine.

    A Ray that runs in this process already is used as it is. Raises SegcalError where a cluster does not answer, and
    where Ray cannot go on in the block, such as on a machine without memory.
    """
    import ray  # takes seconds

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a process that died is told in one line, by the views

    if ray.is_initialized():
        with _told_in_a_line():
            yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    say(f"joining Ray at {address}" if address else "starting Ray")
    with scratch("ray") as folder:
        own = {"_temp_dir": str(folder), "include_dashboard": False}
        try:
            with handed_on():
                ray.init(
                    address=address or "local",
                    log_to_driver=False,
                    logging_level="ERROR",
                    **({"runtime_env": _code()} if address else own),
                )
        except Exception as error:  # ConnectionError, RuntimeError, AuthenticationError, ...
            where = f"answer at {address}" if address else "start here"
            remedy = "see its address and RAY_AUTH_TOKEN_PATH" if address else "see the free memory and disk"
            raise SegcalError(f"Ray must {where}, got: {first_line(error)[:200]}; {remedy}") from None
        try:
            with _told_in_a_line():
                yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _told_in_a_line() -> Iterator[None]:
    """Processes that Ray lost and cannot do without, as a SegcalError. What a task itself raised stays what it is."""
    from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError, WorkerCrashedError

    try:
        yield
    except Exception as error:
        cause: BaseException | None = error  # Tune wraps what happened into a RuntimeError
        while cause is not None and not isinstance(cause, RayError):
            cause = cause.__cause__
        if cause is None or isinstance(cause, RayTaskError) or isinstance(error, SegcalError):
            raise
        remedy = "see Ray's logs"
        if isinstance(cause, OutOfMemoryError | RayActorError | WorkerCrashedError):
            remedy = "free some memory, or run fewer at a time (resources.cpus)"
        raise SegcalError(
            f"Ray must keep its processes, got: {first_line(cause)[:200]}; what was done is kept: {remedy}, and call "
            "the same command again"
        ) from error


@contextlib.contextmanager
def scratch(what: str) -> Iterator[Path]:
    """A folder for the block, with a path that is short enough for sockets; those of killed processes are removed."""
    for left in Path("/tmp").glob("segcal-*-*-*"):
        pid = left.name.split("-")[2]
        with contextlib.suppress(OSError):  # another process tidies as well
            if pid.isdigit() and left.is_dir() and left.stat().st_uid == os.getuid() and not _runs(int(pid)):
                shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"segcal-{what}-{os.getpid()}-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _code() -> dict[str, list[str]] | None:
    """This version of segcal, for workers that have another or none; a submitted job has brought its own."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return None
    return {"py_modules": [str(Path(segcal.__file__).parent)]}
