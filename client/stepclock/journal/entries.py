"""The file of a journal: an entry a line, as JSON, with a checksum behind a tab."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any


class Entries:
    """Entries are appended; now and then one that says what all amount to replaces them.

    damaged: whether some that were there can't be read. Not for several threads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self.damaged = False

    def read(self) -> list[dict[str, Any]]:
        """Those that can be read, in order.

        A last one that was never whole is no damage: nothing followed from it. It stays in the
        way of the next one until `cut_off`.
        """
        try:
            data = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError:
            self.damaged = True
            return []
        whole = data.rfind(b"\n") + 1
        entries = [_parsed(line) for line in data[:whole].split(b"\n")[:-1]]
        self.damaged = None in entries or not _is_a_beginning(data[whole:])
        return [entry for entry in entries if entry is not None]

    def cut_off(self) -> None:
        """Make way for the next entry; makes the file if it is not there. Raises OSError."""
        data = self.path.read_bytes() if self.path.exists() else b""
        os.ftruncate(self._opened(), data.rfind(b"\n") + 1)

    def append(self, entry: dict[str, Any]) -> None:
        """Returns when the entry outlives the process. Raises OSError."""
        fd = self._opened()
        data = _line(entry)
        size = os.fstat(fd).st_size
        if os.write(fd, data) != len(data):
            os.ftruncate(fd, size)
            raise OSError("the disk is full")

    def replace(self, entry: dict[str, Any]) -> None:
        """Begin anew with one that says what all amount to. Raises OSError."""
        draft = self.path.with_name(f".{self.path.name}")
        draft.write_bytes(_line(entry))
        draft.replace(self.path)
        self.close()
        self._opened()  # so that it shows if the file is removed

    @property
    def removed(self) -> bool:
        """Whether the file that is open has no name any more."""
        return self._fd is not None and os.fstat(self._fd).st_nlink == 0

    @property
    def size(self) -> int:
        """Bytes of the file. Raises OSError."""
        return os.fstat(self._opened()).st_size

    def close(self) -> None:
        """Let go of the file; the next entry opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _opened(self) -> int:
        if self._fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
        return self._fd


def _line(entry: dict[str, Any]) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%b\t%08x\n" % (text, zlib.crc32(text))


def _is_a_beginning(rest: bytes) -> bool:
    """Whether it may be an entry, or nothing, of which the checksum was never written."""
    return not rest or (rest[:1] == b"{" and rest.isascii() and rest.decode().isprintable())


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None if it can't be read, or is not what was written."""
    text, _, checksum = line.partition(b"\t")
    try:
        if zlib.crc32(text) != int(checksum, 16):
            return None
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
