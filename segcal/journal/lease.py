"""One driver a sweep: a file that says who works on it, renewed as long as he lives."""

__all__ = ["Holder", "Lease", "holder_of", "is_alive", "this_process"]

import contextlib
import fcntl
import getpass
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from segcal.errors import SweepHeld
from segcal.journal.storage import Storage

NAME = "lease.json"
BEAT_S, STALE_S = 10.0, 60.0


@dataclass(frozen=True)
class Holder:
    """Who holds a sweep."""

    token: str
    host: str
    boot: str  # of the host since when; process ids are given anew after it
    space: str  # of process ids: a container has its own
    pid: int
    born: str  # of the process, in the kernel's clock: a process id can be given again
    user: str
    since: str

    @property
    def told(self) -> str:
        """For people: which process, whose, where and since when."""
        return f"process {self.pid} of {self.user} on {self.host}, since {self.since}"


class Lease:
    """Held from `take` to `release`; `lost` is set where another driver took it meanwhile."""

    def __init__(self, storage: Storage, holder: Holder, beat_s: float = BEAT_S) -> None:
        self.holder, self.token, self.lost = holder, holder.token, threading.Event()
        self._storage, self._beat_s, self._released = storage, beat_s, threading.Event()
        self._beating = threading.Thread(target=self._beat, name="segcal-lease", daemon=True)
        self._beating.start()

    @classmethod
    def take(
        cls, storage: Storage, say: Callable[[str], None], stale_s: float = STALE_S, beat_s: float = BEAT_S
    ) -> "Lease":
        """Take the sweep of this folder, from a holder that is dead too. Raises SweepHeld where he lives.

        A holder on this machine is dead when his process is; one on another when he renews nothing for `stale_s`.
        """
        me = this_process()
        while True:
            with _exclusive(storage):
                other = holder_of(storage)
                if other is None and _put(storage, me):
                    return cls(storage, me, beat_s)
                alive = is_alive(other) if other else True
                if other and alive is False:
                    storage.remove(NAME)
                    say(f"the sweep was held by {other.told}, which is gone: going on")
                    continue
            if other and (alive or _renewed(storage, other, stale_s, say)):
                raise SweepHeld(
                    f"a sweep must have one driver, got a second: {storage.uri} is held by {other.told}; "
                    "wait for it, or stop it"
                )
            if other:
                with _exclusive(storage):
                    if holder_of(storage) == other:
                        storage.remove(NAME)

    def release(self) -> None:
        """Let go; nothing where it is lost. A storage that is away keeps it until the next driver finds it stale."""
        self._released.set()
        self._beating.join()
        with contextlib.suppress(OSError):
            holder = holder_of(self._storage)
            if holder and holder.token == self.token:
                self._storage.remove(NAME)

    def _beat(self) -> None:
        while not self._released.wait(self._beat_s):
            with contextlib.suppress(OSError):  # a storage that is away for a while
                holder = holder_of(self._storage)
                if holder is None or holder.token != self.token:
                    self.lost.set()
                    return
                self._storage.touch(NAME)


def holder_of(storage: Storage) -> Holder | None:
    """Who holds the sweep of this folder, dead or alive; None where nobody does."""
    try:
        return Holder(**json.loads(storage.read(NAME)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # of another version, or not ours
        return Holder("", "unknown", "", "", 0, "", "unknown", "unknown")


def is_alive(holder: Holder) -> bool | None:
    """Whether a holder's process lives; None where it cannot be asked from here: another machine, or a container."""
    me = this_process()
    if (holder.host, holder.space) != (me.host, me.space):
        return None
    if holder.boot != me.boot:  # started anew since then, or another machine of this name
        return None
    return _born(holder.pid) == holder.born


def _renewed(storage: Storage, holder: Holder, stale_s: float, say: Callable[[str], None]) -> bool:
    """Whether the lease changes within `stale_s`: watched with this machine's clock, as two clocks may differ."""
    say(f"the sweep is held by {holder.told}: watching for up to {stale_s:.0f} s whether it lives")
    try:
        before, until = storage.modified(NAME), time.monotonic() + stale_s
        while time.monotonic() < until:
            time.sleep(min(1.0, stale_s / 10))
            if storage.modified(NAME) != before:
                return True
    except FileNotFoundError:  # released
        return False
    say("it does not: going on in its place")
    return False


def _put(storage: Storage, me: Holder) -> bool:
    data = json.dumps(asdict(me)).encode()
    try:
        return storage.create(NAME, data)
    except NotImplementedError:  # an object store that cannot: written, then looked at
        storage.write(NAME, data)
        time.sleep(1.0)
        return holder_of(storage) == me


@contextlib.contextmanager
def _exclusive(storage: Storage) -> Iterator[None]:
    """On a disk no two drivers look and take at once; elsewhere `create` alone decides."""
    if storage.local is None:
        yield
        return
    storage.local.mkdir(parents=True, exist_ok=True)
    with (storage.local / ".lease.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def this_process() -> Holder:
    """Who this process is, in the words of a lease."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"
    return Holder(
        token=uuid.uuid4().hex,
        host=platform.node(),
        boot=boot.read_text().strip() if boot.exists() else "",
        space=os.readlink(space) if os.path.lexists(space) else "",
        pid=os.getpid(),
        born=_born(os.getpid()) or "",
        user=_user(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


def _born(pid: int) -> str | None:
    """When a process began; "" where the system does not say; None where there is no such process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if state == "Z" else fields[18]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        return str(os.getuid())
