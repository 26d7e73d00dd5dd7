"""The examples of docs/concepts.md: every ```python block is run, in order, and must give what is shown."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "concepts.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    """(line of the page, text) of each block."""
    page = PAGE.read_text(encoding="utf-8")
    return [(page[: found.start(1)].count("\n"), found[1]) for found in BLOCK.finditer(page)]


def wrong_in(found):
    """What the blocks gave instead of what they show, as doctest tells it; blocks share their names."""
    told, names = [], {}
    runner = doctest.DocTestRunner(verbose=False)
    for line, text in found:
        test = doctest.DocTestParser().get_doctest(text, names, PAGE.name, str(PAGE), line)
        runner.run(test, out=told.append, clear_globs=False)
        names = test.globs
    return "".join(told)


def test_every_example_gives_what_is_shown():
    found = blocks()
    assert len(found) >= 15
    assert all(text.startswith(">>> ") for _, text in found), "a block without a prompt is run by nobody"
    with np.printoptions(precision=8, suppress=False, linewidth=75):
        assert wrong_in(found) == ""


@pytest.mark.parametrize(("shown", "wrong"), [("2", False), ("3", True)])
def test_an_example_that_shows_something_else_is_found(shown, wrong):
    assert bool(wrong_in([(1, ">>> a = 1\n"), (5, f">>> a + 1\n{shown}\n")])) is wrong
