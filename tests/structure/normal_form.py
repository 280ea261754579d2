from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from tests.structure.names import Meaning, Module, Names, Thing, bound, imports, outer

#: Stands for the name of a module of ours, and before a name that such a module defines.
MARK = "◆"

#: Texts that look like modules and are topics.
_TOPICS = {"stepclock.system"}
_DOTTED = re.compile(r"(?<![\w./-])[a-z_]\w*(?:\.\w+)+")
_IMPORTED = re.compile(r"\b(from )([a-z_]\w*)(?= import )")
_FILE = re.compile(r"(?<![\w./-])\w+(?:/\w+)*\.py\b")


@dataclass(frozen=True, slots=True)
class Normal:
    """A piece of code without what a move of files may change, and what its names lead to."""

    text: str
    leads_to: tuple[Thing, ...]


def normal_form(
    node: ast.stmt, path: str, names: Names, classes: Iterable[ast.ClassDef] = ()
) -> Normal:
    """The code of a statement at the top of a file, or in the classes that stand there.

    Apart are docstrings, comments, layout, imports at the top, the names of our modules, and how
    many folders a file is below the root.
    """
    # A tree is shared by all who read the file, and a transformer changes what it is given.
    copy = ast.parse(ast.unparse(node))
    normaliser = _Normaliser(path, names, classes)
    return Normal(ast.unparse(normaliser.visit(copy)), tuple(normaliser.leads_to))


def is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


class _Normaliser(ast.NodeTransformer):
    def __init__(self, path: str, names: Names, classes: Iterable[ast.ClassDef]) -> None:
        self._path = path
        self._names = names
        #: From outside to inside: what names mean there, and whether a class is the scope.
        self._scopes: list[tuple[dict[str, Meaning], bool]] = [
            (dict.fromkeys(bound(one.body)), True) for one in classes
        ]
        self.leads_to: list[Thing] = []

    # What names mean

    def _meaning(self, name: str) -> Meaning:
        for depth, (scope, of_class) in enumerate(reversed(self._scopes)):
            if name in scope and (depth == 0 or not of_class):
                return scope[name]
        return self._origin(self._names.of_top(self._path).get(name))

    def _origin(self, meaning: Meaning) -> Meaning:
        return self._names.origin(meaning) if isinstance(meaning, Thing) else meaning

    def _named(self, meaning: Meaning, node: ast.expr, name: str) -> ast.expr:
        context = getattr(node, "ctx", ast.Load())
        if isinstance(meaning, Module):
            return ast.Name(MARK, context)
        if isinstance(meaning, Thing):
            self.leads_to.append(meaning)
            return ast.Name(MARK + meaning.name, context)
        return ast.Name(name, context)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._named(self._meaning(node.id), node, node.id)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if (folder := self._folder(node)) is not None:
            return folder
        meaning = self._member(node)
        if meaning == "unknown":
            self.generic_visit(node)
            return node
        return self._named(meaning, node, node.attr)

    def _member(self, node: ast.Attribute) -> Meaning | Literal["unknown"]:
        """What ``a.b.c`` means, where ``a.b`` is a module of ours."""
        owner: Meaning | Literal["unknown"] = "unknown"
        if isinstance(node.value, ast.Name):
            owner = self._meaning(node.value.id)
        elif isinstance(node.value, ast.Attribute):
            owner = self._member(node.value)
        if not isinstance(owner, Module) or node.attr.startswith("__"):
            return "unknown"
        return self._origin(self._names.member(owner.name, node.attr))

    # Scopes

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        node.decorator_list = [self.visit(one) for one in node.decorator_list]
        node.returns = self.visit(node.returns) if node.returns else None
        self._signature(node.args)
        self._scopes.append((self._scope(node.args, node.body), False))
        node.body = self._body(node.body)
        self._scopes.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self._signature(node.args)
        self._scopes.append((self._scope(node.args, []), False))
        node.body = self.visit(node.body)
        self._scopes.pop()
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = [self.visit(one) for one in node.decorator_list]
        node.bases = [self.visit(one) for one in node.bases]
        node.keywords = [self.visit(one) for one in node.keywords]
        self._scopes.append((dict.fromkeys(bound(node.body)), True))
        node.body = self._body(node.body)
        self._scopes.pop()
        return node

    def _comprehension(self, node: ast.AST) -> ast.AST:
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]
        generators[0].iter = self.visit(generators[0].iter)
        targets = [one.target for one in generators]
        self._scopes.append((dict.fromkeys(bound(targets)), False))
        for number, one in enumerate(generators):
            one.target = self.visit(one.target)
            one.iter = self.visit(one.iter) if number else one.iter
            one.ifs = [self.visit(test) for test in one.ifs]
        for field in ("elt", "key", "value"):
            if hasattr(node, field):
                setattr(node, field, self.visit(getattr(node, field)))
        self._scopes.pop()
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension  # noqa: N815

    def _signature(self, arguments: ast.arguments) -> None:
        for one in ast.walk(arguments):
            if isinstance(one, ast.arg) and one.annotation:
                one.annotation = self.visit(one.annotation)
        arguments.defaults = [self.visit(one) for one in arguments.defaults]
        arguments.kw_defaults = [one and self.visit(one) for one in arguments.kw_defaults]

    def _scope(self, arguments: ast.arguments, body: list[ast.stmt]) -> dict[str, Meaning]:
        own = {one.arg for one in ast.walk(arguments) if isinstance(one, ast.arg)} | bound(body)
        scope: dict[str, Meaning] = dict.fromkeys(own)
        for name, meaning in self._names.imported(imports(body)).items():
            scope[name] = self._origin(meaning)
        for name in outer(body):
            scope.pop(name, None)
        return scope

    # Statements

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, field, None), list):
                setattr(node, field, self._body(block, empty=field != "body"))
        for field, value in ast.iter_fields(node):
            if field in {"body", "orelse", "finalbody"} and isinstance(value, list):
                continue
            if isinstance(value, list):
                value[:] = [self.visit(v) if isinstance(v, ast.AST) else v for v in value]
            elif isinstance(value, ast.AST):
                setattr(node, field, self.visit(value))
        return node

    def _body(self, body: list[ast.stmt], *, empty: bool = False) -> list[ast.stmt]:
        """A block without docstrings, with an import of ours for each name, in order of names."""
        done: list[ast.stmt] = []
        pending: list[str] = []
        for node in body:
            if is_docstring(node):
                continue
            ours = self._imports_of_ours(node)
            if ours is not None:
                pending += ours
                continue
            done += _imports(pending)
            pending = []
            done.append(self.visit(node))
        done += _imports(pending)
        return done or ([] if empty else [ast.Pass()])

    def _imports_of_ours(self, node: ast.stmt) -> list[str] | None:
        """What a statement imports, if that is ours."""
        if not isinstance(node, ast.Import | ast.ImportFrom):
            return None
        meanings = [self._origin(one) for one in self._names.imported([node]).values()]
        if None in meanings:
            return None
        return [MARK + (one.name if isinstance(one, Thing) else "") for one in meanings if one]

    # Texts that name modules and files

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if isinstance(node.value, str) and node.value not in _TOPICS:
            text = _FILE.sub(self._file, node.value)
            text = _IMPORTED.sub(self._package, text)
            return ast.Constant(_DOTTED.sub(self._dotted, text))
        return node

    def _file(self, found: re.Match[str]) -> str:
        return MARK if self._names.is_file(found[0]) else found[0]

    def _package(self, found: re.Match[str]) -> str:
        return found[1] + (MARK if self._names.is_module(found[2]) else found[2])

    def _dotted(self, found: re.Match[str]) -> str:
        parts = found[0].split(".")
        for length in range(len(parts), 1, -1):
            if self._names.is_module(".".join(parts[:length])):
                return ".".join([MARK, *parts[length:]])
        return found[0]

    def _folder(self, node: ast.expr) -> ast.expr | None:
        """The folder that ``Path(__file__).parents[n]`` or ``.parent`` is, from the root on."""
        match node:
            case ast.Subscript(
                value=ast.Attribute(attr="parents", value=start),
                slice=ast.Constant(value=int(number)),
            ):
                up = number + 1
            case ast.Attribute(attr="parent", value=start):
                up = 1
            case _:
                return None
        if isinstance(start, ast.Call) and ast.unparse(start).endswith(".resolve()"):
            start = start.func.value  # type: ignore[attr-defined]
        if ast.unparse(start) != "Path(__file__)":
            return None
        folders = PurePosixPath(self._path).parents
        return ast.Name(f"{MARK}folder({str(folders[up - 1])!r})") if up <= len(folders) else None

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        return self._folder(node) or self.generic_visit(node)


def _imports(names: list[str]) -> list[ast.stmt]:
    return [ast.Import([ast.alias(name)]) for name in sorted(names)]
