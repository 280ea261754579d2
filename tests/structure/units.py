from __future__ import annotations

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.structure.names import Names, Thing
from tests.structure.normal_form import Normal, is_docstring, normal_form
from tests.structure.revision import Revision, module_name

PRODUCT = (
    *("adapters", "admin", "consumers", "demo", "embedded", "grafana", "ingest", "janitor"),
    *("native", "schemas", "telemetry", "client/stepclock"),
)
BENCH = ("bench", "client/bench")
TESTS = ("tests", "client/tests")


@dataclass(frozen=True, slots=True)
class Unit:
    """A function, the body of a class without its methods, or another statement of a module."""

    path: str
    line: int
    kind: str
    #: ``Class.method``, or what a statement binds.
    name: str
    normal: Normal

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.normal.text

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


def under(path: str, folders: Iterable[str]) -> bool:
    return any(path.startswith(folder + "/") for folder in folders)


def units_of(revision: Revision, folders: Iterable[str]) -> list[Unit]:
    folders = tuple(folders)
    names = Names(revision)
    return [
        unit
        for path, tree in revision.trees.items()
        if under(path, folders)
        for unit in _Splitter(path, names).split(tree.body, ())
    ]


class Definitions:
    """A digest of what each name at the top of a module stands for, classes with their methods."""

    def __init__(self, units: Iterable[Unit]) -> None:
        texts: dict[Thing, list[str]] = defaultdict(list)
        for unit in units:
            for name in unit.name.split(", "):
                top = name.partition(".")[0]
                texts[Thing(module_name(unit.path), top)].append(f"{name}\n{unit.normal.text}")
        self._digests = {
            thing: hashlib.sha256("\0".join(sorted(found)).encode()).hexdigest()[:12]
            for thing, found in texts.items()
        }
        self.all = {(thing.name, digest) for thing, digest in self._digests.items()}

    def led_to(self, unit: Unit) -> tuple[tuple[str, str], ...]:
        """Names and digests of what a unit's names lead to, in order of their appearance."""
        return tuple((one.name, self._digests.get(one, "")) for one in unit.normal.leads_to)


class _Splitter:
    def __init__(self, path: str, names: Names) -> None:
        self._path = path
        self._names = names

    def split(self, body: Iterable[ast.stmt], classes: tuple[ast.ClassDef, ...]) -> Iterator[Unit]:
        for node in body:
            match node:
                case ast.Import() | ast.ImportFrom():
                    pass
                case ast.ClassDef():
                    yield from self._class(node, classes)
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    yield self._unit("function", node.name, node, classes)
                case _ if is_docstring(node) or _only_imports(node) or self._exports(node):
                    pass
                case _:
                    yield self._unit("statement", _bound_by(node), node, classes)

    def _class(self, node: ast.ClassDef, classes: tuple[ast.ClassDef, ...]) -> Iterator[Unit]:
        inner = [one for one in node.body if isinstance(one, _DEFINITIONS)]
        rest = [one for one in node.body if not isinstance(one, _DEFINITIONS)]
        bare = ast.ClassDef(
            node.name, node.bases, node.keywords, rest or [ast.Pass()], node.decorator_list
        )
        yield self._unit("class", node.name, ast.copy_location(bare, node), classes)
        yield from self.split(inner, (*classes, node))

    def _unit(
        self, kind: str, name: str, node: ast.stmt, classes: tuple[ast.ClassDef, ...]
    ) -> Unit:
        qualified = ".".join([*(one.name for one in classes), name])
        normal = normal_form(node, self._path, self._names, classes)
        return Unit(self._path, node.lineno, kind, qualified, normal)

    def _exports(self, node: ast.stmt) -> bool:
        """Whether this is ``__all__``: inside a package it moves with the imports."""
        outermost = self._path.count("/") == 1 or self._path == "client/stepclock/__init__.py"
        facade = self._path.endswith("/__init__.py") and outermost
        return _bound_by(node) == "__all__" and not facade


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _bound_by(node: ast.stmt) -> str:
    match node:
        case ast.Assign(targets=targets):
            return ", ".join(ast.unparse(target) for target in targets)
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            return ast.unparse(target)
        case _:
            return f"<{type(node).__name__.lower()}>"


def _only_imports(node: ast.stmt) -> bool:
    """Whether a statement is ``if TYPE_CHECKING:`` around imports."""
    return (
        isinstance(node, ast.If)
        and not node.orelse
        and all(isinstance(one, ast.Import | ast.ImportFrom) for one in node.body)
    )
