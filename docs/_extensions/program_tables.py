"""Tables made from the program itself: its commands, the keys of its files, its HTTP routes."""

__all__ = ["command_list", "commands", "keys", "recipe_settings", "routes"]

import argparse
import dataclasses
import importlib
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from unittest import mock

from docs._extensions.source_tree import read_tree

DEFAULT = re.compile(r"\s*\(default: ([^()]*(?:\([^()]*\)[^()]*)*)\)$")

REFUSALS = {  # that every route under /v1 may answer with
    "401": "The request shows no token, or a wrong one.",
    "403": "It comes from a page of another site.",
    "413": "Its body is larger than the service takes.",
    "421": "The service is asked by a name that it was not given with `--allowed-host`.",
    "422": "A value in it breaks a rule.",
    "429": "This client asks more often than `--rate`, or too much waits already.",
    "503": "The tracking store or Ray does not answer.",
}
PLURAL = {"whole number": "whole numbers", "number": "numbers", "text": "texts"}


def verbs_of(parser: argparse.ArgumentParser, name: str = "segcal") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that runs something, with its parser: `segcal data check`, ..."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for verb, child in action.choices.items():
            yield from verbs_of(child, f"{name} {verb}")


def command_list() -> str:
    """A table of all commands."""
    rows = [f"| [`{name}`](#{name.replace(' ', '-')}) | {_text(parser.description)} |" for name, parser in _commands()]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def commands() -> str:
    """A section for each command: what it does, its arguments, an example."""
    return "\n\n".join(_command(name, parser) for name, parser in _commands())


def _commands() -> list[tuple[str, argparse.ArgumentParser]]:
    from segcal.cli import _parser

    return list(verbs_of(_parser()))


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    with mock.patch.dict("os.environ", {"COLUMNS": "96", "NO_COLOR": "1"}):
        usage = parser.format_usage().removeprefix("usage: ").strip()
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    rows = [f"| {_argument(action)} | {_meaning(action)} |" for action in actions if action.help != argparse.SUPPRESS]
    text = (parser.description or "").strip()
    parts = [f"## {name}", f"{_capital(text)}.", f"```text\n{usage}\n```"]
    if rows:
        parts.append("\n".join(["| argument | meaning |", "|---|---|", *rows]))
    if example := (parser.epilog or "").removeprefix("example:").strip():
        parts.append(f"Example:\n\n```bash\n{example}\n```")
    return "\n\n".join(parts)


def _argument(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if action.choices is not None and not action.metavar:
        value = "|".join(map(str, action.choices))
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return _code(action.metavar if isinstance(action.metavar, str) else action.dest)
    return " ".join(_code(f"{option} {value}".strip()) for option in action.option_strings)


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "") % {"default": action.default, "prog": "segcal"} if action.help else ""
    required = " Required." if action.required and action.option_strings else ""
    if found := DEFAULT.search(text):
        return f"{_sentence(text[: found.start()])}{required} Default: {_text(found[1])}."
    return _sentence(text) + required


def _sentence(text: str) -> str:
    text = text.strip()
    return f"{_capital(text)}{'' if text.endswith(('.', '?')) else '.'}" if text else ""


def keys(name: str) -> str:
    """The fields of a dataclass or a pydantic model, given as module:Class, with what its source says of each."""
    return _key_table(name, lambda field: True)


def recipe_settings() -> str:
    """The fields of a trial that a recipe may set."""
    from segcal.sweep.plan import RECIPE_FIELDS

    elsewhere = {"head": "the loss's", "weights": "the loss's", "batch": "the task's"}
    return _key_table("segcal.trial:TrialConfig", lambda field: field in RECIPE_FIELDS, elsewhere)


def _key_table(name: str, wanted: Callable[[str], bool], elsewhere: Mapping[str, str] = {}) -> str:
    module, _, attribute = name.partition(":")
    model = getattr(importlib.import_module(module), attribute)
    comments = read_tree().modules[module].field_comments(attribute)
    rows = [
        f"| {_code(field)} | {_escaped(kind)} | {elsewhere.get(field, default)} | {_text(said or comments[field])} |"
        for field, kind, default, said in _fields(model)
        if wanted(field)
    ]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])


def _fields(model: typing.Any) -> Iterator[tuple[str, str, str, str]]:
    if dataclasses.is_dataclass(model):
        for field in dataclasses.fields(model):
            default = field.default if field.default is not dataclasses.MISSING else None
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            yield field.name, _kind(field.type), _shown(default, needed), field.metadata.get("help", "")
    else:
        for name, field in model.model_fields.items():
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            yield name, _kind(field.annotation), _shown(default, field.is_required()), field.description or ""


def _kind(kind: typing.Any) -> str:
    """A type in the words of YAML."""
    if isinstance(kind, str):
        return kind
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " | ".join(map(str, parts))
    if origin is typing.Annotated:
        return _kind(parts[0])
    if origin in (list, tuple):
        each = _kind(parts[0]) if parts else "anything"
        return f"list of {PLURAL.get(each, each)}"
    if origin is dict:
        return "keys" if parts[1] is typing.Any else f"{_kind(parts[0]).replace('text', 'name')}: {_kind(parts[1])}"
    if parts:
        return " | ".join(map(_kind, parts))
    words = {str: "text", int: "whole number", float: "number", bool: "true | false", type(None): "null", dict: "keys"}
    return words.get(kind, "anything" if kind is typing.Any else "keys")


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")


def _shown(default: typing.Any, needed: bool) -> str:
    if needed:
        return "*required*"
    if hasattr(default, "model_dump"):
        default = {key: value for key, value in default.model_dump().items() if value != {}}
    empty = default in (None, "", (), [], {}) and default is not False
    return "" if empty else _code(json.dumps(default))


def routes() -> str:
    """Every route of the HTTP API, by its tag, from the OpenAPI that the service itself gives."""
    described = _openapi()
    titles = {tag["name"]: tag.get("description", "") for tag in described.get("tags", [])}
    every = [(path, method, route) for path, methods in described["paths"].items() for method, route in methods.items()]
    guarded = [route["responses"] for path, _, route in every if path.startswith("/v1/")]
    shared = sorted(set.intersection(*(set(answers) for answers in guarded)) - {"200"})
    by_tag: dict[str, list[str]] = {}
    for path, method, route in every:
        answers = ", ".join(status for status in sorted(route["responses"]) if status not in shared)
        said = _text((route.get("description") or route.get("summary") or "").split("\n\n")[0])
        by_tag.setdefault(route.get("tags", ["other"])[0], []).append(
            f"| {_code(f'{method.upper()} {path}')} | {said}{_queries(route)} | {answers} |"
        )
    refusals = [f"| {status} | `{guarded[0][status]['description']}` | {REFUSALS[status]} |" for status in shared]
    parts = ["\n".join(["| answer | code | where |", "|---|---|---|", *refusals])]
    for tag, rows in by_tag.items():
        parts.append(f"## {titles.get(tag) or tag.capitalize()}")
        parts.append("\n".join(["| route | what it does | answers |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _queries(route: dict[str, typing.Any]) -> str:
    names = [parameter["name"] for parameter in route.get("parameters", []) if parameter["in"] == "query"]
    return f" Query: {', '.join(map(_code, names))}." if names else ""


def _openapi() -> dict[str, typing.Any]:
    from segcal.service import app
    from segcal.service.settings import Settings

    with mock.patch.object(app, "open_store"):  # the routes do not depend on what the store holds
        return app.create_app(Settings(tracking_uri="sqlite://", token="of-the-documentation")).openapi()


def _capital(text: str) -> str:
    said = _text(text)
    return said[:1].upper() + said[1:]


def _text(text: str | None) -> str:
    """A line of help inside a table: options and variables are code, and nothing is markup."""
    line = re.sub(r"(?<![\w`-])(--[a-z][a-z-]+|\$[A-Z_]+)(?![\w`])", r"`\1`", " ".join((text or "").split()))
    pieces = re.split(r"(`[^`]+`)", line)
    return "".join(
        piece.replace("|", r"\|") if index % 2 else re.sub(r"([*<\[\]{}|_])", r"\\\1", piece)
        for index, piece in enumerate(pieces)
    )


def _code(text: str) -> str:
    return "`" + text.replace("|", r"\|") + "`"
