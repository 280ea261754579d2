"""Whose runs are kept: every namespace that the keys file names."""

from __future__ import annotations

import logging
from pathlib import Path

from schemas.tenants.keys import DEFAULT_NAMESPACE, InvalidKeys
from schemas.tenants.keys_file import namespaces

_log = logging.getLogger("stepclock.janitor")


class Namespaces:
    """The namespaces of a keys file, read again at each call; the default one without a file.

    A file that can't be read keeps those of before, and the log says why. Raises InvalidKeys or
    OSError if it can't be read at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = self._read()

    def __call__(self) -> list[str]:
        """Names, sorted."""
        try:
            self._known = self._read()
        except (InvalidKeys, OSError) as exc:
            _log.warning("%s can't be read, its namespaces stay as they were: %s", self._path, exc)
        return self._known

    def _read(self) -> list[str]:
        if not self._path.exists():
            return [DEFAULT_NAMESPACE]
        return namespaces(self._path.read_text("utf-8"))
