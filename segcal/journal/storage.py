"""A folder that outlives its machine's crashes: on a disk, or behind any URI that fsspec knows (s3://, gs://, ...)."""

__all__ = ["Storage"]

import contextlib
import functools
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from segcal.errors import SegcalError, needs

P = ParamSpec("P")
T = TypeVar("T")


def _as_os_error(method: Callable[P, T]) -> Callable[P, T]:
    """What a storage's own library raises, where it is away or refuses, is an OSError as a disk's would be."""

    @functools.wraps(method)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return method(*arguments, **options)
        except (OSError, ImportError, ValueError, NotImplementedError, SegcalError):
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error

    return call


@dataclass(frozen=True)
class Storage:
    """Files by name below `uri`. A file that `write` or `create` made is there whole, or not at all."""

    uri: str  # a path, or protocol://...

    @cached_property
    def _system(self) -> tuple[Any, str]:
        with needs("s3", self.uri) if self.uri.startswith("s3://") else contextlib.nullcontext():
            system, path = url_to_fs(self.uri)
        return system, str(path).rstrip("/")

    @property
    def local(self) -> Path | None:
        """The folder where it is one of this machine; None behind a URI."""
        system, path = self._system
        return Path(path) if isinstance(system, LocalFileSystem) else None

    def at(self, *parts: str) -> "Storage":
        """A folder below this one."""
        return Storage("/".join([self.uri.rstrip("/"), *parts]))

    @_as_os_error
    def names(self) -> list[str]:
        """What lies in the folder, without what is being written; nothing where it does not exist."""
        system, path = self._system
        system.invalidate_cache(path)
        try:
            found = [str(name).rstrip("/").rpartition("/")[2] for name in system.ls(path, detail=False)]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith("."))

    @_as_os_error
    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        system, path = self._system
        data: bytes = system.cat_file(f"{path}/{name}")
        return data

    @_as_os_error
    def has(self, name: str) -> bool:
        """Whether a file or folder is there now."""
        system, path = self._system
        if self.local:
            return os.path.exists(f"{path}/{name}")
        system.invalidate_cache(path)
        return bool(system.exists(f"{path}/{name}"))

    @_as_os_error
    def write(self, name: str, data: bytes) -> None:
        """Put a file in place of any before it; on a disk it has reached the platter when this returns."""
        system, path = self._system
        if self.local is None:
            system.pipe_file(f"{path}/{name}", data)
            return
        with self._temporary(name, data) as temporary:
            os.replace(temporary, f"{path}/{name}")
        _sync(path)

    @_as_os_error
    def create(self, name: str, data: bytes) -> bool:
        """Put a file where there is none; False where there is one, which stays as it is."""
        system, path = self._system
        try:
            if self.local is None:
                system.pipe_file(f"{path}/{name}", data, mode="create")
                return True
            with self._temporary(name, data) as temporary:
                os.link(temporary, f"{path}/{name}")
        except FileExistsError:
            return False
        _sync(path)
        return True

    @_as_os_error
    def append(self, name: str, data: bytes) -> None:
        """Lengthen a file; one that a crash cut short ends in the middle of what was appended last."""
        _, path = self._system
        if self.local is None:  # few object stores can, and some overwrite instead
            before = self.read(name) if self.has(name) else b""
            self.write(name, before + data)
            return
        with open(f"{path}/{name}", "ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    @_as_os_error
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        system, path = self._system
        with contextlib.suppress(FileNotFoundError):
            system.rm_file(f"{path}/{name}")

    @_as_os_error
    def rename(self, name: str, new: str) -> None:
        """Move a file or a folder below here to another name. Raises OSError where it is not there."""
        system, path = self._system
        system.mv(f"{path}/{name}", f"{path}/{new}")

    @_as_os_error
    def touch(self, name: str) -> None:
        """Renew a file's time; needs no space on a disk. Raises FileNotFoundError."""
        system, path = self._system
        if self.local is None:
            system.pipe_file(f"{path}/{name}", self.read(name))
        else:
            os.utime(f"{path}/{name}")

    @_as_os_error
    def modified(self, name: str) -> Any:
        """The file's time, by the storage's own clock: to be compared with itself only. Raises FileNotFoundError."""
        system, path = self._system
        if self.local is not None:
            return os.stat(f"{path}/{name}").st_mtime_ns
        system.invalidate_cache(path)
        return system.modified(f"{path}/{name}")

    @_as_os_error
    def upload(self, source: Path, name: str) -> None:
        """Copy a large file of this machine into the folder."""
        system, path = self._system
        system.makedirs(path, exist_ok=True)
        system.put_file(str(source), f"{path}/{name}")

    @_as_os_error
    def download(self, name: str, target: Path) -> None:
        """Copy a large file to this machine. Raises FileNotFoundError."""
        system, path = self._system
        system.get_file(f"{path}/{name}", str(target))

    @contextlib.contextmanager
    def _temporary(self, name: str, data: bytes) -> Any:
        """A file beside its final place that has reached the disk; gone after the block."""
        folder = self._system[1]
        os.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}"
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _sync(folder: str) -> None:
    """A new name reaches the disk with its folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
