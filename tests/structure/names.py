from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.structure.revision import Revision, module_name

#: Re-exports of re-exports; a circle of imports ends here.
_MAX_HOPS = 10


@dataclass(frozen=True, slots=True)
class Module:
    """A module of ours."""

    name: str


@dataclass(frozen=True, slots=True)
class Thing:
    """What one of our modules defines at its top, under the name that it has there."""

    module: str
    name: str


#: What a name stands for; None is a local, a builtin or something of a third party.
Meaning = Module | Thing | None


class Names:
    """What names mean in a revision, by the imports of its files."""

    def __init__(self, revision: Revision) -> None:
        self._revision = revision
        self._tops: dict[str, dict[str, Meaning]] = {}

    def is_module(self, name: str) -> bool:
        return name in self._revision.modules or name in self._revision.packages

    def is_file(self, path: str) -> bool:
        return path in self._revision.trees

    def of_top(self, path: str) -> dict[str, Meaning]:
        """What the names bound at the top of a file mean."""
        if path not in self._tops:
            module = module_name(path)
            own = bound(self._revision.trees[path].body)
            top: dict[str, Meaning] = {name: Thing(module, name) for name in own}
            top.update(self.imported(_statements(self._revision.trees[path].body)))
            self._tops[path] = top
        return self._tops[path]

    def imported(self, statements: Iterable[ast.stmt]) -> dict[str, Meaning]:
        """What the imports among the statements bind."""
        found: dict[str, Meaning] = {}
        for node in statements:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.name if alias.asname else alias.name.partition(".")[0]
                    found[alias.asname or name] = Module(name) if self.is_module(name) else None
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found[alias.asname or alias.name] = self.member(node.module or "", alias.name)
        return found

    def member(self, module: str, name: str) -> Meaning:
        """What ``module.name`` means; a definition goes before a module of the same name."""
        if not self.is_module(module):
            return None
        if self._defines(module, name):
            return Thing(module, name)
        inner = f"{module}.{name}"
        return Module(inner) if self.is_module(inner) else Thing(module, name)

    def origin(self, thing: Thing) -> Meaning:
        """Where a thing is defined, behind the modules that only pass it on."""
        for _ in range(_MAX_HOPS):
            path = self._revision.modules.get(thing.module)
            if path is None:
                return thing
            meaning = self.of_top(path).get(thing.name, thing)
            if meaning == thing or not isinstance(meaning, Thing):
                return meaning
            thing = meaning
        return thing

    def _defines(self, module: str, name: str) -> bool:
        path = self._revision.modules.get(module)
        if path is None:
            return False
        body = self._revision.trees[path].body
        return name in bound(body) or any(
            (alias.asname or alias.name) == name and node.module != module
            for node in _statements(body)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        )


def bound(body: Iterable[ast.AST]) -> set[str]:
    """The names that statements bind in their own scope; imports apart."""
    names: set[str] = set()
    for node in _own(body):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name):
                names.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                names.add(name)
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                names.add(name)
    return names


def outer(body: Iterable[ast.AST]) -> set[str]:
    """The names that statements declare global or nonlocal."""
    return {
        name
        for node in _own(body)
        if isinstance(node, ast.Global | ast.Nonlocal)
        for name in node.names
    }


def imports(body: Iterable[ast.AST]) -> list[ast.stmt]:
    """The imports of a scope, inner scopes apart."""
    return [node for node in _own(body) if isinstance(node, ast.Import | ast.ImportFrom)]


def _statements(body: Iterable[ast.AST]) -> list[ast.stmt]:
    return [node for node in _own(body) if isinstance(node, ast.stmt)]


def _own(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of a scope. Of inner scopes: the nodes that bind them, and walrus targets."""
    for node in body:
        yield node
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Lambda():
                pass
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                for inner in ast.walk(node):
                    if isinstance(inner, ast.NamedExpr):
                        yield inner.target
            case _:
                yield from _own(ast.iter_child_nodes(node))
