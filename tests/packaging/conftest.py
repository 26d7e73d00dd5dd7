"""What would be published, built from a copy of the files that git tracks or would track."""

import subprocess
from pathlib import Path

import pytest

from tests.packaging.building import PROJECT, build

LEFT_BEHIND = (
    ".venv/bin/python", "docs/mlflow.db", "examples/plugin/x.egg-info/PKG-INFO", "mlflow-trials/calib/id", "mlflow.db",
    "mlruns/1/meta.yaml", "reports/calib/report.html", "segcal/__pycache__/x.pyc", "tests/__pycache__/x.pyc",
)  # fmt: skip


@pytest.fixture(scope="session")
def tracked() -> list[str]:
    """The project's own files, with symbolic links as they are."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (PROJECT / ".git").exists():
        pytest.skip("compares with what git tracks, got no checkout")
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in set(listed.split("\0")) if name and (PROJECT / name).exists())


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory, tracked: list[str]) -> Path:
    """A copy to build in, where work has been done: builds leave folders behind, and must not take up others'."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (PROJECT / name).is_symlink():
            (copy / name).symlink_to((PROJECT / name).readlink())
        else:
            (copy / name).write_bytes((PROJECT / name).read_bytes())
    for name in LEFT_BEHIND:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("of somebody who worked here")
    return copy


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    return build(checkout, tmp_path_factory.mktemp("sdist"), "--sdist")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    return build(checkout, tmp_path_factory.mktemp("wheel"), "--wheel")
