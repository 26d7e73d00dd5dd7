"""The package's source as parsed files: what each module makes public, and under which full name a short one is known.

Nothing is imported, so that the documentation of 200 modules costs seconds and needs no GPU, cluster or server.
"""

__all__ = ["Module", "Tree", "read_tree"]

import ast
import functools
import io
import tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Module:
    """One file: its public names in their order, its definitions, imports and comments."""

    name: str
    path: Path
    doc: str
    public: tuple[str, ...]
    definitions: dict[str, ast.stmt]
    imports: dict[str, str]  # name here -> full name
    comments: dict[int, str]  # line -> the comment that ends it, or stands on it
    lines: tuple[str, ...]

    def field_comments(self, class_name: str) -> dict[str, str]:
        """What the comments behind the fields of a class say of them."""
        definition = self.definitions[class_name]
        fields = (field for field in getattr(definition, "body", []) if isinstance(field, ast.AnnAssign))
        return {ast.unparse(field.target): self.comments.get(field.end_lineno or 0, "") for field in fields}


class Tree:
    """All modules of a package, and the way from a name used in one of them to where it is defined."""

    def __init__(self, modules: dict[str, Module]) -> None:
        self.modules = modules
        owners: dict[str, set[str]] = {}
        for module in modules.values():
            for name in module.public:
                owners.setdefault(name, set()).add(self.full_name(f"{module.name}.{name}"))
        self._names = set(owners)
        self._unique = {name: full.pop() for name, full in owners.items() if len(full) == 1}

    def full_name(self, dotted: str) -> str:
        """Where a dotted name is defined: imports of imports are followed; names of other packages stay."""
        for _ in range(5):
            module, _, name = dotted.rpartition(".")
            here = self.modules.get(module)
            if here is None or name in here.definitions or name not in here.imports:
                return dotted
            dotted = here.imports[name]
        return dotted

    def known_in(self, module: Module, name: str) -> str:
        """The full name of what a module calls so; the name itself where it is a builtin or unknown."""
        first, _, rest = name.partition(".")
        if first in module.definitions:
            return f"{module.name}.{name}"
        if first in module.imports:
            return self.full_name(module.imports[first] + (f".{rest}" if rest else ""))
        return name

    def is_public(self, full_name: str) -> bool:
        """Whether the documentation has an entry of this name."""
        module, _, name = full_name.rpartition(".")
        found = self.modules.get(module)
        return found is not None and name in found.public and name in found.definitions

    def is_a_name(self, name: str) -> bool:
        """Whether anything public is called so, wherever it is."""
        return name in self._names

    def mentioned(self, module: Module, text: str) -> str:
        """The public thing that inline code in a docstring speaks of; "" where it is something else."""
        name = text.removesuffix("()")
        if not all(part.isidentifier() for part in name.split(".")):
            return ""
        for full in (self.known_in(module, name), self.full_name(name)):
            if self.is_public(full):
                return full
        return self._unique.get(name, "") if name[:1].isupper() and not name.isupper() else ""

    def below(self, name: str) -> list[Module]:
        """A module and all below it, a package before its modules."""
        return [self.modules[key] for key in sorted(self.modules) if key == name or key.startswith(f"{name}.")]


@functools.cache
def read_tree(package: Path = ROOT / "segcal") -> Tree:
    """Parse every file of the package."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[-1] != "__main__":
            modules[name] = _read(name, path)
    return Tree(modules)


def _read(name: str, path: Path) -> Module:
    text = path.read_text()
    body = ast.parse(text)
    public: tuple[str, ...] = ()
    definitions: dict[str, ast.stmt] = {}
    imports: dict[str, str] = {}
    for statement in ast.walk(body):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                first = alias.name.partition(".")[0]
                imports[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            imports |= {alias.asname or alias.name: f"{statement.module}.{alias.name}" for alias in statement.names}
    for statement in body.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            definitions[statement.name] = statement
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            if statement.targets[0].id == "__all__":
                public = tuple(ast.literal_eval(statement.value))
            definitions[statement.targets[0].id] = statement
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            definitions[statement.target.id] = statement
    return Module(
        name, path, ast.get_docstring(body) or "", public, definitions, imports, _comments(text),
        tuple(text.splitlines()),
    )  # fmt: skip


def _comments(text: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    found = {token.start[0]: token.string.lstrip("# ").strip() for token in tokens if token.type == tokenize.COMMENT}
    return {line: said for line, said in found.items() if not said.startswith(("fmt:", "noqa", "type:", "pragma"))}
