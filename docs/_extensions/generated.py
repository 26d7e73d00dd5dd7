"""Pages may hold lines such as `<!-- generated: commands -->`: the text that a function makes stands there in the site.

Links to files of the repository that are no pages of the site lose their link, or become downloads.
"""

__all__ = ["setup"]

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

from docs._extensions import program_tables, python_pages
from docs._extensions.source_tree import ROOT

MARK = re.compile(r"^<!-- generated: (\S+)(?: (\S+))? -->$", re.MULTILINE)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
PROGRAM = {name: getattr(program_tables, name) for name in program_tables.__all__}
SHOWN_HERE = {  # files of the repository, and where the site has them; the first page has other headings than README
    "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md",
    "README.md": "index.md", "docs": "index.md",
}  # fmt: skip
PYTHON = {"module": python_pages.module_page, "object": python_pages.object_entry}

_log = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 1}


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    here = Path(app.srcdir) / page

    def made(mark: re.Match[str]) -> str:
        what, argument = mark[1], mark[2]
        for file in Path(__file__).parent.glob("*.py"):
            app.env.note_dependency(str(file), docname=page)
        if what == "file":
            return _file(app, page, ROOT / argument)
        if what in PYTHON:
            text, files = PYTHON[what](argument)
            for file in files:
                app.env.note_dependency(file, docname=page)
            return text
        if what not in PROGRAM:
            raise ValueError(f"{page}: nothing named '{what}' is generated; known: {', '.join([*PROGRAM, *PYTHON])}")
        app.env.note_reread()  # what the program says is not one file's
        return PROGRAM[what](argument) if argument else PROGRAM[what]()

    text = LINK.sub(lambda link: _led(link, here.parent, here.parent, Path(app.srcdir)), source[0])
    source[0] = MARK.sub(made, text)


def _file(app: Sphinx, page: str, path: Path) -> str:
    """A page that lies elsewhere in the repository, with its links as seen from here."""
    app.env.note_dependency(str(path), docname=page)
    if not path.exists():
        _log.warning("no file %s", path.name, location=page)
        return ""
    there, here = path.parent, (Path(app.srcdir) / page).parent
    return LINK.sub(lambda link: _led(link, there, here, Path(app.srcdir)), path.read_text())


def _led(link: re.Match[str], written_in: Path, shown_in: Path, site: Path) -> str:
    """A link as the site needs it."""
    picture, text, target = link.groups()
    path, _, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return link[0]
    file = Path(os.path.normpath(written_in / path))
    if str(file.relative_to(ROOT)) in SHOWN_HERE and not (file.name == "README.md" and anchor):
        file = site / SHOWN_HERE[str(file.relative_to(ROOT))]
    if not file.is_relative_to(site) and not picture and (file.is_dir() or file.suffix == ".md"):
        shown = file.relative_to(ROOT).as_posix()
        return text if shown in text else f"{text} (`{shown}`)"
    return f"{picture}[{text}]({os.path.relpath(file, shown_in)}{f'#{anchor}' if anchor else ''})"
