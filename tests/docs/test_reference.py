"""The reference is whole: every module, every environment variable; and docstrings come out as they were meant."""

import ast
import re
from pathlib import Path

import pytest

from docs._extensions.program_tables import commands
from docs._extensions.python_pages import module_page, object_entry
from docs._extensions.shell_blocks import language_of
from docs._extensions.source_tree import read_tree

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
VARIABLE = re.compile(r"(?:SEGCAL|MLFLOW|RAY|TUNE|CUDA|MALLOC|AWS|DO_NOT)_[A-Z0-9_]+")


def _marked(kind: str) -> list[str]:
    pages = (REFERENCE / "python").glob("*.md")
    return [name for page in pages for name in re.findall(rf"<!-- generated: {kind} (\S+) -->", page.read_text())]


def test_every_module_has_its_place():
    told = ("segcal", *_marked("module"))
    rooms = tuple(f"{room}." for room in told[1:])
    assert not [name for name in read_tree().modules if name not in told and not name.startswith(rooms)]


def test_every_public_function_and_class_says_what_it_is():
    silent = [
        f"{module.name}.{name}"
        for module in read_tree().modules.values()
        for name in module.public
        if isinstance(found := module.definitions.get(name), ast.FunctionDef | ast.ClassDef)
        and not ast.get_docstring(found)
    ]
    assert not silent


def test_names_to_build_on_are_there_with_their_signatures():
    names = _marked("object")
    assert {"segcal.measure.calibration.nll", "segcal.stats.holm", "segcal.learn.unet.UNet"} <= set(names)
    for name in names:
        entry, files = object_entry(name)
        assert name.rpartition(".")[2] in entry.splitlines()[0]
        assert files


def test_environment_variables_are_all_told():
    page = (REFERENCE / "environment.md").read_text()
    told = set(VARIABLE.findall(page))
    source = "\n".join("\n".join(module.lines) for module in read_tree().modules.values())
    used = set(re.findall(rf'"({VARIABLE.pattern})"', source))
    assert len(used) > 20
    # Names of tags, or told to a reader by a message alone.
    inside = {"MLFLOW_RUN_NOTE", "MLFLOW_PARENT_RUN_ID"}
    assert not used - told - inside
    by_others = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"}
    assert not [name for name in told - by_others if name not in source]


def test_help_begins_with_a_capital_and_ends_with_a_stop():
    assert "| A built-in task or the path of a task's YAML file. |" in commands()
    assert "Train every recipe with every seed, keep all of it in MLflow." in commands()


def test_code_in_a_docstring_leads_to_what_it_names():
    page, files = module_page("segcal.trial")
    assert "{py:class} TrialConfig" in page
    assert re.search(r"\| `seed` \|.*seeds the weights' initialisation", page)
    assert files == [str(ROOT / "segcal" / "trial.py")]


@pytest.mark.parametrize(
    ("docstring", "markdown"),
    [
        ("Rises by <n> and a*b*c.", r"Rises by \<n> and a\*b\*c."),
        ("Bins [0, 1].", r"Bins \[0, 1\]."),
        ("As `Thing` says, not `<thing>`.", "As {py:obj}`Thing <package.room.Thing>` says, not `<thing>`."),
        (">>> 1 + 1\n2", "```pycon\n>>> 1 + 1\n2\n```"),
    ],
)
def test_docstrings_become_markdown(tmp_path, docstring, markdown):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text('"""A package."""\n')
    (package / "room.py").write_text(f'__all__ = ["Thing"]\n\n\nclass Thing:\n    """{docstring}"""\n')
    tree = read_tree(package)
    from docs._extensions import python_pages

    assert python_pages._prose(tree, tree.modules["package.room"], docstring) == markdown


@pytest.mark.parametrize(
    ("block", "language"),
    [
        ("segcal sweep --task brain \\\n    --data DIR\n# then\nmlflow ui\n", "bash"),
        ("$ segcal doctor\nsegcal 0.1.0\n", "console"),
        ("segcal doctor\nsegcal_version 0.1.0\n", "none"),
        (">>> 1 + 1\n2\n", "pycon"),
        ("", "none"),
    ],
)
def test_blocks_of_commands_are_coloured(block, language):
    assert language_of(block) == language


def test_annotations_lead_to_where_a_class_is_defined(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text('__all__ = ["Thing"]\nfrom package.room import Thing\n')
    (package / "room.py").write_text('__all__ = ["Thing"]\nclass Thing:\n    """A thing."""\n')
    (package / "user.py").write_text(
        "import numpy as np\nfrom package import Thing\nSay = list[Thing]\n"
        'def use(a: "Thing | None", b: np.ndarray, c: Say = ()) -> Thing: ...\n'
    )
    tree = read_tree(package)
    from docs._extensions import python_pages

    module = tree.modules["package.user"]
    signature = python_pages._signature(tree, module, module.definitions["use"])
    found = "package.room.Thing"
    assert signature == f"(a: {found} | None, b: np.ndarray, c: list[{found}]=()) -> {found}"
