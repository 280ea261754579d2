from __future__ import annotations

import ast
import io
import subprocess
import tarfile
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Folders that are no part of a dotted name: what is in them is imported from there.
_SOURCE_ROOTS = ("client/tests/", "client/bench/", "client/")


class NoSuchRevision(Exception):
    """Git has no commit of this name; the message says what it said."""


class Revision:
    """The files of one commit, in memory."""

    def __init__(self, name: str, files: dict[str, bytes]) -> None:
        self.name = name
        self.files = files

    @classmethod
    def read(cls, name: str, repository: Path = ROOT) -> Revision:
        done = subprocess.run(
            ["git", "archive", "--format=tar", name, "--"],
            cwd=repository,
            check=False,
            capture_output=True,
        )
        if done.returncode:
            raise NoSuchRevision(f"{name!r} in {repository}: {done.stderr.decode().strip()}")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            files = {
                member.name: content.read()
                for member in archive
                if member.isfile() and (content := archive.extractfile(member)) is not None
            }
        return cls(name, files)

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """The syntax tree of each Python file, by path."""
        return {
            path: ast.parse(content, path)
            for path, content in sorted(self.files.items())
            if path.endswith(".py")
        }

    @cached_property
    def modules(self) -> dict[str, str]:
        """The path of each module of ours, by its dotted name."""
        return {module_name(path): path for path in self.trees}

    @cached_property
    def packages(self) -> set[str]:
        """The dotted names of folders that hold modules, with or without an ``__init__``."""
        return {
            ".".join(parts[:length])
            for parts in (name.split(".") for name in self.modules)
            for length in range(1, len(parts))
        }


def module_name(path: str) -> str:
    for root in _SOURCE_ROOTS:
        if path.startswith(root):
            path = path.removeprefix(root)
            break
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
