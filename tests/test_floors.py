"""The floors of the house hold: import-linter's contracts of pyproject.toml."""

from pathlib import Path

from importlinter.cli import lint_imports


def test_imports_run_down(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert lint_imports(no_cache=True) == 0
