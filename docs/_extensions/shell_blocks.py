"""Indented blocks whose every line is a command are coloured as such: comments step back. All others stay plain."""

__all__ = ["language_of", "setup"]

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

PROGRAMS = {
    "segcal", "mlflow", "make", "pip", "python", "git", "cd", "cp", "mkdir", "export", "source", "ray", "docker",
    "curl", "install", "systemctl", "promtool", "apt-get", "sqlite3", "pg_dump", "pg_restore", "sbatch", "srun", "ssh",
    "sudo",
}  # fmt: skip


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("doctree-read", _colour)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def language_of(text: str) -> str:
    """console where a prompt stands, pycon for Python's, bash for commands alone; else none."""
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    if any(line.startswith("$ ") for line in lines):
        return "console"
    if any(line.startswith(">>> ") for line in lines):
        return "pycon"
    words = [line.split()[0] for line in lines]
    return "bash" if words and all(word in PROGRAMS or word.startswith("#") for word in words) else "none"


def _colour(app: Sphinx, document: nodes.document) -> None:
    for block in document.findall(nodes.literal_block):
        if block.get("language") == "none":
            block["language"] = language_of(block.astext())
