"""What no committed file may hold, whatever it is; for `git commit` as for the tests.

python tests/tidy.py FILE...       prints each fault; exit code 1 where there is one
"""

__all__ = ["LARGEST_BYTES", "faults"]

import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import yaml

LARGEST_BYTES = 1_000_000  # pictures of the documentation are below; data and weights have no place in git
VENDORED = "dashboards/assets/vendor/"  # other people's files stay as they were published
CONFLICT = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
READERS: dict[str, Callable[[str], object]] = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": lambda text: list(yaml.safe_load_all(text)),
    ".yml": lambda text: list(yaml.safe_load_all(text)),
    ".cff": yaml.safe_load,
}


def faults(path: Path) -> list[str]:
    """What is wrong with a file, in one line each; none: []."""
    if VENDORED in path.as_posix():
        return []
    content = path.read_bytes()
    found = []
    if len(content) > LARGEST_BYTES:
        found.append(f"must be at most {LARGEST_BYTES} bytes, got {len(content)}")
    if b"\0" in content[:8192]:
        return found  # pictures and the like
    text = content.decode(errors="replace")
    if "\r" in text:
        found.append("lines must end with a line feed alone, got carriage returns")
    if text and (not text.endswith("\n") or text.endswith("\n\n")):
        found.append("must end with one line feed")
    for number, line in enumerate(text.split("\n"), start=1):
        if line != line.rstrip():
            found.append(f"line {number} must not end with a space")
    if CONFLICT.search(text):
        found.append("must hold no mark of a merge conflict")
    if reader := READERS.get(path.suffix):
        try:
            reader(text)
        except (ValueError, yaml.YAMLError) as error:
            found.append(f"must be {path.suffix[1:]}, got {' '.join(str(error).split())}")
    return found


if __name__ == "__main__":
    told = [f"{name}: {fault}" for name in sys.argv[1:] for fault in faults(Path(name))]
    print(*told, sep="\n", end="\n" if told else "")
    sys.exit(bool(told))
