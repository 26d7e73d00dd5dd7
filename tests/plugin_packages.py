"""Packages of third parties as pip leaves them, in a folder that is on the path for one test."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from segcal.data.layouts import LAYOUTS
from segcal.learn.losses import LOSSES
from segcal.measure.metric import METRICS
from segcal.tasks import TASKS


class Packages:
    """Installs packages into a folder; what segcal found before is forgotten."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.modules = folder, set[str]()

    def install(self, name: str, code: str, version: str = "1.0", **groups: Mapping[str, str]) -> None:
        """A package with one module of its name; groups: losses={"focal": "focal"}, entry point -> object in it."""
        module = name.replace("-", "_")
        self.modules.add(module)
        (self.folder / f"{module}.py").write_text(code)
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [
            line
            for group, entries in groups.items()
            for line in (f"[segcal.{group}]", *(f"{entry} = {module}:{found}" for entry, found in entries.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        self.look_again()

    def upgrade(self, name: str, before: str, after: str) -> None:
        """Another version of the same package; what segcal has found of it stays as it is."""
        module = name.replace("-", "_")
        info = (self.folder / f"{module}-{before}.dist-info").rename(self.folder / f"{module}-{after}.dist-info")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {after}\n")
        importlib.invalidate_caches()

    def uninstall(self, name: str, version: str = "1.0") -> None:
        module = name.replace("-", "_")
        for path in (self.folder / f"{module}-{version}.dist-info").iterdir():
            path.unlink()
        (self.folder / f"{module}-{version}.dist-info").rmdir()
        self.look_again()

    def look_again(self) -> None:
        importlib.invalidate_caches()
        for extensions in (TASKS, LOSSES, LAYOUTS, METRICS):
            extensions.rescan()


@pytest.fixture
def packages(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Packages]:
    folder = tmp_path_factory.mktemp("site")
    found = Packages(folder)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield found
    for module in found.modules:
        sys.modules.pop(module, None)
    found.look_again()
