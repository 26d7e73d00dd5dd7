"""Starts Ray on this machine, or joins a cluster that is there."""

__all__ = ["ray_cluster"]

import contextlib
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

import segcal
from segcal.errors import SegcalError
from segcal.learn.allocator import handed_on


@contextlib.contextmanager
def ray_cluster(say: Callable[[str], None], address: str | None = None) -> Iterator[None]:
    """Ray within the block: the cluster at `address` or $RAY_ADDRESS, which gets this code; else one of this machine.

    A Ray that runs in this process already is used as it is. Raises SegcalError where a cluster does not answer.
    """
    import ray  # takes seconds

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    quiet = {"include_dashboard": False} if not address else {}
    folder = None if address else tempfile.mkdtemp(prefix="segcal-ray-", dir="/tmp")  # sockets need a short path
    say(f"joining Ray at {address}" if address else "starting Ray")
    try:
        with handed_on():
            ray.init(
                address=address or "local",
                runtime_env=_code() if address else None,
                log_to_driver=False,
                logging_level="ERROR",
                **({"_temp_dir": folder} if folder else {}),
                **quiet,
            )
    except Exception as error:  # ConnectionError, RuntimeError, AuthenticationError, ...
        _tidy(folder)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        where = f"at {address}" if address else "here"
        remedy = "give its --address and its token" if address else "see the free memory and disk"
        raise SegcalError(f"Ray must start {where}, got: {reason}; {remedy}") from None
    try:
        yield
    finally:
        ray.shutdown()
        _tidy(folder)


def _code() -> dict[str, list[str]] | None:
    """This version of segcal, for workers that have another or none; a submitted job has brought its own."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return None
    return {"py_modules": [str(Path(segcal.__file__).parent)]}


def _tidy(folder: str | None) -> None:
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
