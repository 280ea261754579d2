from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from pathlib import PurePosixPath

from tests.structure.names import Module, Names, Thing
from tests.structure.revision import Revision
from tests.structure.units import TESTS

_FOLDERS = ("tests/unit/", "client/tests/")


class Coverage:
    """Which test files lead to a module by their imports."""

    def __init__(self, revision: Revision) -> None:
        self._revision = revision
        self._names = Names(revision)

    def tests_of(self, path: str, limit: int) -> list[str]:
        """The nearest test files to a file: those that import it, then through rigs, then others.

        Those whose names share words with the file come two imports nearer, and of those at one
        distance the longest first.
        """
        distances = self._distances(path)
        words = set(PurePosixPath(path).stem.split("_"))

        def rank(test: str) -> tuple[int, int]:
            shared = words & set(PurePosixPath(test).stem.split("_"))
            return distances[test] - 2 * bool(shared), -len(self._revision.files[test])

        return sorted(filter(_is_test, distances), key=rank)[:limit]

    def found_again(self, test: str) -> list[str]:
        """The ids of a test in this revision, by its class and name."""
        _, *names = test.split("::")
        return [
            "::".join([path, *names])
            for path, tree in self._revision.trees.items()
            if _is_test(path) and _holds(tree.body, names)
        ]

    def _distances(self, path: str) -> dict[str, int]:
        """How many imports away each file is; what a rig of the tests imports, its user does."""
        distances = {path: 0}
        waiting = deque([path])
        while waiting:
            one = waiting.popleft()
            for importer in self._importers.get(one, ()):
                through_rig = one.startswith(TESTS) and importer.startswith(TESTS)
                distance = distances[one] + (not through_rig)
                if distance >= distances.get(importer, distance + 1):
                    continue
                distances[importer] = distance
                if through_rig:
                    waiting.appendleft(importer)
                elif not _is_test(importer):
                    waiting.append(importer)
        return distances

    @cached_property
    def _importers(self) -> dict[str, list[str]]:
        importers: dict[str, list[str]] = {}
        for path in self._revision.trees:
            for imported in sorted(set(self._imports(path))):
                importers.setdefault(imported, []).append(path)
        return importers

    def _imports(self, path: str) -> Iterator[str]:
        for node in ast.walk(self._revision.trees[path]):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield from self._file(alias.name)
            elif isinstance(node, ast.ImportFrom):
                for meaning in self._names.imported([node]).values():
                    if isinstance(meaning, Module):
                        yield from self._file(meaning.name)
                    elif isinstance(meaning, Thing):
                        origin = self._names.origin(meaning)
                        yield from self._file(meaning.module)
                        if isinstance(origin, Thing):
                            yield from self._file(origin.module)

    def _file(self, module: str) -> Iterator[str]:
        if module in self._revision.modules:
            yield self._revision.modules[module]


def _is_test(path: str) -> bool:
    return path.startswith(_FOLDERS) and PurePosixPath(path).name.startswith("test_")


def _holds(body: list[ast.stmt], names: list[str]) -> bool:
    """Whether statements define ``names[0]``, and that holds the next, and so on."""
    if not names:
        return True
    return any(
        _holds(node.body, names[1:])
        for node in body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name == names[0]
    ) or any(
        ast.unparse(node.targets[0]) == names[0] for node in body if isinstance(node, ast.Assign)
    )
