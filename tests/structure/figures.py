"""``report``: how the code of revisions is laid out, in numbers."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from pathlib import PurePosixPath

from tests.structure.normal_form import is_docstring
from tests.structure.passages import MIN_LINES, passages_of
from tests.structure.revision import Revision
from tests.structure.units import BENCH, PRODUCT, TESTS, under

_MOST_FILES = 10
_FEWEST_FILES = 3
_SMALL_LINES = 30


class Figures:
    """The figures of one revision, by the name of each row, with lists of what they count.

    An ``__init__.py`` counts as a file of its folder only if it has statements besides imports,
    docstring and ``__all__``.
    """

    def __init__(self, revision: Revision) -> None:
        self._revision = revision
        self.rows: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {}
        self._count_folders()
        self._count_classes()
        self._count_passages()
        self._count_statements()

    def _count_folders(self) -> None:
        folders: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for path in self._files((*PRODUCT, *BENCH, *TESTS)):
            lines = self._revision.files[path].count(b"\n")
            folders[str(PurePosixPath(path).parent)].append((lines, PurePosixPath(path).name))
        for folder, files in sorted(folders.items()):
            lines, name = max(files)
            self.rows[f"files in {folder}/"] = f"{len(files)}, largest {lines} ({name})"
        for title, scope in (("product and bench", (*PRODUCT, *BENCH)), ("tests", TESTS)):
            ours = {f: files for f, files in sorted(folders.items()) if under(f + "/", scope)}
            self._list(
                f"folders with over {_MOST_FILES} files, {title}",
                [f"{f}/ {len(files)}" for f, files in ours.items() if len(files) > _MOST_FILES],
            )
            self._list(
                f"folders with under {_FEWEST_FILES} files, {title}",
                [f"{f}/ {len(files)}" for f, files in ours.items() if len(files) < _FEWEST_FILES],
            )
            self._list(
                f"files under {_SMALL_LINES} lines, {title}",
                [
                    f"{f}/{name} {lines}"
                    for f, files in ours.items()
                    for lines, name in sorted(files)
                    if lines < _SMALL_LINES
                ],
            )

    def _count_classes(self) -> None:
        places: dict[str, list[str]] = defaultdict(list)
        for path in self._files((*PRODUCT, *BENCH)):
            for node in self._revision.trees[path].body:
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(path)
        for title, scope in (("product", PRODUCT), ("product and bench", (*PRODUCT, *BENCH))):
            shared = {
                name: [path for path in paths if under(path, scope)]
                for name, paths in sorted(places.items())
            }
            self._list(
                f"names that several classes share, {title}",
                [f"{name}: {', '.join(paths)}" for name, paths in shared.items() if paths[1:]],
            )

    def _count_passages(self) -> None:
        self._list(
            f"passages of {MIN_LINES} lines and more that stand twice, product",
            [
                f"{one.lines} lines: {', '.join(one.places)}"
                for one in passages_of(self._revision, PRODUCT)
            ],
        )

    def _count_statements(self) -> None:
        counts: Counter[str] = Counter()
        for folders in (PRODUCT, BENCH, TESTS):
            for folder in folders:
                for path, tree in self._revision.trees.items():
                    if under(path, (folder,)):
                        counts[folder] += statements(tree)
        for folder in (*PRODUCT, *BENCH, *TESTS):
            self.rows[f"statements in {folder}/"] = f"{counts[folder]:,}"
        for title, folders in (("product", PRODUCT), ("bench", BENCH), ("tests", TESTS)):
            self.rows[f"statements, {title}"] = f"{sum(counts[f] for f in folders):,}"

    def _list(self, title: str, found: list[str]) -> None:
        self.rows[title] = str(len(found))
        self.lists[title] = found

    def _files(self, folders: tuple[str, ...]) -> list[str]:
        return [
            path
            for path, tree in self._revision.trees.items()
            if under(path, folders) and not (path.endswith("/__init__.py") and _is_bare(tree))
        ]


def statements(tree: ast.Module) -> int:
    """How many statements a file has, docstrings apart."""
    return sum(isinstance(node, ast.stmt) and not is_docstring(node) for node in ast.walk(tree))


def _is_bare(tree: ast.Module) -> bool:
    return all(
        isinstance(node, ast.Import | ast.ImportFrom)
        or is_docstring(node)
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
        for node in tree.body
    )
