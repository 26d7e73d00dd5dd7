"""Modules, classes and functions as Markdown for Sphinx's Python domain: the source's signatures and docstrings."""

__all__ = ["module_page", "object_entry"]

import ast
import copy
import re

from docs._extensions.source_tree import Module, Tree, read_tree

LONGEST_VALUE = 100  # characters of a constant that are shown
FIELDS = {"BaseModel", "NamedTuple", "TypedDict"}  # whose fields are their signature, as a dataclass's are


def module_page(name: str) -> tuple[str, list[str]]:
    """A module and all below it: their public things. Also the files that the text came from."""
    tree = read_tree()
    modules = tree.below(name)
    if not modules:
        raise ValueError(f"no module named {name}")
    parts = [part for module in modules if (part := _module(tree, module))]
    return "\n\n".join(parts), [str(module.path) for module in modules]


def object_entry(name: str) -> tuple[str, list[str]]:
    """One public thing by the name it is imported by, without an entry of its own in the index."""
    tree = read_tree()
    full = tree.full_name(name)
    if not tree.is_public(full):
        raise ValueError(f"nothing public is named {name}")
    module = tree.modules[full.rpartition(".")[0]]
    entry = _entry(tree, module, full.rpartition(".")[2], index=False, shown_in=name.rpartition(".")[0])
    return entry, [str(module.path)]


def _module(tree: Tree, module: Module) -> str:
    own = [name for name in module.public if name in module.definitions]
    passed_on = [name for name in module.public if name not in module.definitions]
    if not module.public and not module.doc:
        return ""
    parts = [f"## `{module.name}`", f"```{{py:module}} {module.name}\n```", _prose(tree, module, module.doc)]
    if passed_on:
        links = (f"{{py:obj}}`{name} <{tree.known_in(module, name)}>`" for name in passed_on)
        parts.append(f"Importable from here: {', '.join(links)}.")
    parts += [_entry(tree, module, name) for name in own]
    return "\n\n".join(part for part in parts if part)


def _entry(tree: Tree, module: Module, name: str, index: bool = True, shown_in: str = "") -> str:
    definition = module.definitions[name]
    options = {} if index else {"no-index": "", "module": shown_in or module.name}
    if isinstance(definition, ast.ClassDef):
        return _class(tree, module, definition, options)
    if isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef):
        return _function(tree, module, definition, options)
    return _constant(tree, module, name, definition, options)


def _class(tree: Tree, module: Module, definition: ast.ClassDef, options: dict[str, str]) -> str:
    bases = [ast.unparse(base).rpartition(".")[2] for base in definition.bases]
    is_dataclass = any("dataclass" in ast.unparse(decorator) for decorator in definition.decorator_list)
    has_fields = is_dataclass or bool(FIELDS & set(bases)) or any(_has_fields(tree, module, base) for base in bases)
    init = next((f for f in definition.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    signature = "" if has_fields or init is None else _signature(tree, module, init, method=True)
    kind = "exception" if any(base.endswith(("Exception", "Error")) for base in bases) else "class"
    parts = [_prose(tree, module, ast.get_docstring(definition) or "")]
    known = [f"{{py:obj}}`~{full}`" for base in definition.bases
             if tree.is_public(full := tree.known_in(module, ast.unparse(base)))]  # fmt: skip
    if known:
        parts[0] = f"A {', '.join(known)}. {parts[0]}"
    if has_fields:
        parts.append(_fields(tree, module, definition))
    methods = (f for f in definition.body if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef))
    parts += [_method(tree, module, method, options) for method in methods if not method.name.startswith("_")]
    body = "\n\n".join(part for part in parts if part)
    return _directive(f"py:{kind}", f"{definition.name}{signature.partition(' -> ')[0]}", options, body, fence=6)


def _has_fields(tree: Tree, module: Module, base: str) -> bool:
    owner, _, name = tree.known_in(module, base).rpartition(".")
    found = tree.modules[owner].definitions.get(name) if owner in tree.modules else None
    return isinstance(found, ast.ClassDef) and any(
        ast.unparse(above).rpartition(".")[2] in FIELDS or _has_fields(tree, tree.modules[owner], ast.unparse(above))
        for above in found.bases
    )


def _fields(tree: Tree, module: Module, definition: ast.ClassDef) -> str:
    rows = []
    for field in definition.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id[0] != "_":
            default, said = _default_and_help(field.value)
            said = said or module.comments.get(field.end_lineno or 0, "")
            shown = _code_cell(ast.unparse(field.annotation)) + (f" = {_code_cell(default)}" if default else "")
            meaning = _prose(tree, module, said).replace("|", r"\|")
            rows.append(f"| {_code_cell(field.target.id)} | {shown} | {meaning} |")
    if not rows:
        return ""
    return "\n".join(["| field | type, default | meaning |", "|---|---|---|", *rows])


def _default_and_help(value: ast.expr | None) -> tuple[str, str]:
    """What stands after the = of a field: its default, and the help that its metadata or its Field(...) give."""
    if not isinstance(value, ast.Call):
        return ("" if value is None else ast.unparse(value)), ""
    named = {keyword.arg: keyword.value for keyword in value.keywords}
    function = ast.unparse(value.func)
    if function not in ("_help", "field", "Field", "dataclasses.field"):
        return ast.unparse(value), ""
    texts = [named["description"]] if "description" in named else value.args[:1] if function == "_help" else []
    said = ast.literal_eval(texts[0]) if texts else ""
    default = named.get("default")
    if default is None and "default_factory" in named:
        return f"{ast.unparse(named['default_factory'])}()", str(said)
    if default is None and function == "Field" and value.args:
        default = value.args[0]
    return ("" if default is None else ast.unparse(default)), str(said)


def _method(tree: Tree, module: Module, method: ast.FunctionDef | ast.AsyncFunctionDef, options: dict[str, str]) -> str:
    decorators = {ast.unparse(decorator) for decorator in method.decorator_list}
    own = {name: value for name, value in options.items() if name != "module"}
    prose = _prose(tree, module, ast.get_docstring(method) or "")
    if decorators & {"property", "functools.cached_property", "cached_property"}:
        if method.returns is not None:
            own["type"] = _annotation(tree, module, method.returns)
        return _directive("py:property", method.name, own, prose, fence=5)
    for decorator in ("classmethod", "staticmethod"):
        if decorator in decorators:
            own[decorator] = ""
    signature = _signature(tree, module, method, method="staticmethod" not in decorators)
    return _directive("py:method", f"{method.name}{signature}", own, prose, fence=5)


def _function(
    tree: Tree, module: Module, function: ast.FunctionDef | ast.AsyncFunctionDef, options: dict[str, str]
) -> str:
    signature = _signature(tree, module, function)
    prose = _prose(tree, module, ast.get_docstring(function) or "")
    return _directive("py:function", f"{function.name}{signature}", options, prose, fence=5)


def _constant(tree: Tree, module: Module, name: str, statement: ast.stmt, options: dict[str, str]) -> str:
    value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
    own = dict(options)
    is_type = isinstance(statement, ast.Assign) and not name.isupper() and name[0].isupper()
    if is_type and value is not None:
        own["canonical"] = _annotation(tree, module, value)
        return _directive("py:type", name, own, _above(tree, module, statement))
    if isinstance(statement, ast.AnnAssign):
        own["type"] = _annotation(tree, module, statement.annotation)
    if value is not None and len(text := ast.unparse(value)) <= LONGEST_VALUE:
        own["value"] = text
    return _directive("py:data", name, own, _above(tree, module, statement), fence=5)


def _above(tree: Tree, module: Module, statement: ast.stmt) -> str:
    """The comment of a constant: behind it, or in the lines above it."""
    if said := module.comments.get(statement.end_lineno or 0):
        return _prose(tree, module, said)
    lines, line = [], statement.lineno - 1
    while line in module.comments and module.lines[line - 1].lstrip().startswith("#"):
        lines.insert(0, module.comments[line])
        line -= 1
    return _prose(tree, module, " ".join(lines))


def _directive(kind: str, signature: str, options: dict[str, str], body: str, fence: int = 5) -> str:
    lines = [f":{name}: {value}".rstrip() for name, value in options.items()]
    head = "\n".join([f"{'`' * fence}{{{kind}}} {signature}", *lines])
    return f"{head}\n\n{body}\n{'`' * fence}" if body else f"{head}\n{'`' * fence}"


def _signature(
    tree: Tree, module: Module, function: ast.FunctionDef | ast.AsyncFunctionDef, method: bool = False
) -> str:
    arguments = copy.deepcopy(function.args)
    plain = [*arguments.posonlyargs, *arguments.args]
    if method and plain:
        plain[0].annotation = None
        (arguments.posonlyargs or arguments.args).pop(0)
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if argument is not None and argument.annotation is not None:
            argument.annotation = _Qualified(tree, module).visit(argument.annotation)
    returns = f" -> {_annotation(tree, module, function.returns)}" if function.returns is not None else ""
    return f"({ast.unparse(arguments)}){returns}"


def _annotation(tree: Tree, module: Module, annotation: ast.expr) -> str:
    copy = ast.parse(ast.unparse(annotation), mode="eval").body
    return ast.unparse(_Qualified(tree, module).visit(copy))


class _Qualified(ast.NodeTransformer):
    """Names in annotations by their full names, so that those of segcal are links; strings are read as annotations."""

    def __init__(self, tree: Tree, module: Module) -> None:
        self.tree, self.module = tree, module

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._known(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return self._known(ast.unparse(node))

    def _known(self, name: str) -> ast.expr:
        full = self.tree.known_in(self.module, name)
        owner, _, last = full.rpartition(".")
        module = self.tree.modules.get(owner)
        if module is not None and not self.tree.is_public(full):
            value = getattr(module.definitions.get(last), "value", None)
            if value is None and last not in module.public and owner == self.module.name:
                return ast.Name(last)  # a class of the module's own, which only its annotations name
            if isinstance(value, ast.Call):  # a type variable
                return ast.Name(last)
            if isinstance(value, ast.expr):  # a short name of the module's own for a type
                return _Qualified(self.tree, module).visit(copy.deepcopy(value))
        if module is None and not self.tree.is_a_name(last):
            return ast.parse(name, mode="eval").body  # of another package, as it is written: no link
        return ast.parse(full, mode="eval").body

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if ast.unparse(node.value).endswith("Literal"):
            return node
        if ast.unparse(node.value).endswith("Annotated") and isinstance(node.slice, ast.Tuple):
            return self.visit(node.slice.elts[0])
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return self.visit(ast.parse(node.value, mode="eval").body) if isinstance(node.value, str) else node


def _prose(tree: Tree, module: Module, text: str) -> str:
    """A docstring as Markdown: its inline code linked where it names something public, its examples as code blocks."""
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(_block(tree, module, block) for block in blocks).strip()


def _block(tree: Tree, module: Module, block: str) -> str:
    if block.lstrip().startswith(">>>"):
        lines = block.splitlines()
        return "\n".join(["```pycon", *lines, "```"])
    if all(line.startswith("    ") for line in block.splitlines()):
        return block  # a formula or a layout, kept as it is
    pieces = re.split(r"(`[^`]+`)", block)
    return "".join(_code(tree, module, piece) if index % 2 else _escaped(piece) for index, piece in enumerate(pieces))


def _code(tree: Tree, module: Module, piece: str) -> str:
    text = " ".join(piece.strip("`").split())
    full = tree.mentioned(module, text)
    return f"{{py:obj}}`{text} <{full}>`" if full else piece


def _escaped(text: str) -> str:
    return re.sub(r"(?<!^)([*<\[\]{}])|^([<\[\]{}])", lambda found: "\\" + found[0], text, flags=re.MULTILINE)


def _code_cell(text: str) -> str:
    return "`" + " ".join(text.replace("|", r"\|").split()) + "`"
