from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.structure.revision import Revision, module_name

#: Seconds for one test, so that one that hangs fails and is named.
_TEST_S = 60
#: Seconds for the tests of one mutant, from the start of pytest on.
PATIENCE_S = 120
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?)(?:\[.*)?(?: - |$)", re.MULTILINE)


class NotThisCopy(Exception):
    """Python imports a module from elsewhere than the copy, so a run would say nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """What tests said: ``passed``, ``failed`` with the first that did, or ``timeout``."""

    outcome: str
    test: str
    output: str


class Sandbox:
    """A copy of a revision in a temporary folder, with an interpreter that knows no other copy.

    The interpreter has the packages of the one that runs this. Its own ``.pth`` file names the
    copy, and the one of the editable install is left out, so that processes that tests start
    import from the copy too, whatever their folder and environment are.
    """

    def __init__(self, revision: Revision) -> None:
        self._revision = revision
        self._folder = tempfile.TemporaryDirectory(prefix="stepclock-mutants-")
        self.root = Path(self._folder.name).resolve() / "copy"
        self._python = self.root / ".venv" / "bin" / "python"

    def __enter__(self) -> Self:
        for path, content in self._revision.files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(content)
        self._make_interpreter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    @contextmanager
    def mutated(self, path: str, content: bytes) -> Iterator[None]:
        """A file of the copy with other content. Raises NotThisCopy."""
        file = self.root / path
        file.write_bytes(content)
        try:
            self._check_import(path)
            yield
        finally:
            file.write_bytes(self._revision.files[path])

    def run(self, tests: list[str], patience_s: float = PATIENCE_S) -> Run:
        """Run tests until the first fails."""
        command = [
            *(
                "nice",
                "-n",
                "10",
                str(self._python),
                "-m",
                "pytest",
                "-x",
                "-q",
                "--tb=line",
                "-p",
                "no:cacheprovider",
            ),
            *("-m", "not real and not slow", f"--timeout={_TEST_S}", *tests),
        ]
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return Run("timeout", "", output)
        if process.returncode == 0:
            return Run("passed", "", output)
        failed = _FAILED.search(output)
        return Run("failed", failed[1] if failed else "pytest itself", output)

    def _check_import(self, path: str) -> None:
        """Ask an interpreter with no environment, in another folder, what it imports."""
        name = module_name(path)
        code = f"import importlib.util; print(importlib.util.find_spec({name!r}).origin)"
        done = subprocess.run(
            [self._python, "-c", code], cwd="/", env={}, check=True, capture_output=True, text=True
        )
        if Path(done.stdout.strip()) != self.root / path:
            raise NotThisCopy(f"{name} is {done.stdout.strip()}, not {self.root / path}")

    def _make_interpreter(self) -> None:
        venv.create(self.root / ".venv", symlinks=True)
        (site,) = (self.root / ".venv").glob("lib/python*/site-packages")
        packages = [path for path in sys.path if path.endswith("site-packages")]
        lines = [
            # A file that changes twice within a second must not be taken from a cache.
            "import sys; sys.dont_write_bytecode = True",
            *map(str, (self.root, self.root / "client", *packages)),
        ]
        (site / "copy.pth").write_text("\n".join(lines) + "\n")
        for name, module in (("stepclock-server", "admin"), ("stepclock", "stepclock")):
            script = self._python.with_name(name)
            script.write_text(f'#!/bin/sh\nexec {self._python} -m {module} "$@"\n')
            script.chmod(0o755)

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        path = f"{self._python.parent}{os.pathsep}{os.environ['PATH']}"
        return {**kept, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
