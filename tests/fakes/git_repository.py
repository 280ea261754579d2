"""A repository with a commit for each tree of files that a test gives."""

import subprocess
from pathlib import Path
from textwrap import dedent

from tests.structure.revision import Revision

_GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")


class GitRepository:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._git("init", "--quiet")

    def commit(self, files: dict[str, str]) -> Revision:
        """A commit of these files and no others."""
        self._git("rm", "-r", "--quiet", "--ignore-unmatch", ".")
        for path, text in files.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(dedent(text))
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "--no-gpg-sign", "--message", "a tree")
        return Revision.read(self._git("rev-parse", "HEAD"), self.folder)

    def _git(self, *arguments: str) -> str:
        done = subprocess.run(
            [*_GIT, *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()
