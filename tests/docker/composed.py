"""docker/compose.yaml as Docker Compose reads it, and what the Dockerfile adds to it."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<how>:?[-?])(?P<text>[^{}]*))?\})")


class Unset(ValueError):
    """A variable that must be set is not: compose.yaml says why it must."""


def interpolate(text: str, values: dict[str, str]) -> str:
    """$$, ${X}, ${X-default}, ${X:-default}, ${X?why} and ${X:?why}, as the compose specification has them."""
    if re.search(r"\$(?![${])", _VARIABLE.sub("", text)) or "${" in _VARIABLE.sub("", text):
        raise ValueError(f"a variable must be $$, ${{X}}, ${{X:-default}} or ${{X:?why}}, got '{text}'")

    def value(found: re.Match[str]) -> str:
        if (name := found["name"]) is None:
            return "$"
        how, given = found["how"] or "-", values.get(name)
        if given or (given is not None and ":" not in how):
            return given
        if "?" in how:
            raise Unset(f"{name}: {found['text']}")
        return found["text"] or ""

    return _VARIABLE.sub(value, text)


def compose(values: dict[str, str], path: Path = DOCKER / "compose.yaml") -> dict[str, Any]:
    """The file with these variables. Raises Unset."""

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: walk(value) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value) for value in node]
        return interpolate(node, values) if isinstance(node, str) else node

    return walk(yaml.safe_load(path.read_text()))


def variables(path: Path = DOCKER / "compose.yaml") -> set[str]:
    """The names that a compose file asks for."""
    return {found["name"] for found in _VARIABLE.finditer(path.read_text()) if found["name"]}


def env_file(path: Path = DOCKER / ".env.example") -> dict[str, str]:
    """The values that an .env file sets."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def env_defaults(path: Path = DOCKER / ".env.example") -> dict[str, str]:
    """The values that an .env file shows without setting them: `# NAME=value`."""
    return dict(re.findall(r"^# ([A-Z][A-Z0-9_]*)=(.*)$", path.read_text(), re.MULTILINE))


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, the rest) of each line of the Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines) if word]


def stage(target: str) -> list[tuple[str, str]]:
    """The instructions of a stage, after those of the stages it is made from."""
    stages: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for word, rest in dockerfile():
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            current = stages[name.strip()] = list(stages.get(base.strip(), []))
        current.append((word, rest))
    return stages[target]


def image(target: str) -> dict[str, Any]:
    """ENV, USER, WORKDIR and ENTRYPOINT of a target; of each the last, as Docker has it."""
    environment: dict[str, str] = {}
    last: dict[str, str] = {}
    for word, rest in stage(target):
        if word == "ENV":
            environment |= dict(re.findall(r'(\w+)="?([^"\s]*)"?', rest))
        last[word] = rest
    return {"ENV": environment, **{word: last[word] for word in ("USER", "WORKDIR", "ENTRYPOINT")}}
