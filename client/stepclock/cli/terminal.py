"""What the commands print: colours and curves where a person looks, plain text elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

_COLORS = {"red": 31, "green": 32, "yellow": 33, "bold": 1, "dim": 2}

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.-=*#"


class Terminal:
    """Where output goes. secret: a text that is never printed, whoever may repeat it.

    live: a person looks at a terminal that can be drawn over. Colours come with it, unless
    NO_COLOR is set.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        *,
        secret: str | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._out = sys.stdout if out is None else out
        self._secret = secret
        self.live = self._out.isatty() and environ.get("TERM") != "dumb"
        self._colors = self.live and not environ.get("NO_COLOR")
        self._unicode = (getattr(self._out, "encoding", None) or "").lower().startswith("utf")
        self._drawn = 0

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return shutil.get_terminal_size((100, 30))

    def paint(self, text: str, color: str) -> str:
        """The text in a colour, where there are any."""
        return f"\x1b[{_COLORS[color]}m{text}\x1b[0m" if self._colors else text

    def say(self, line: str = "") -> None:
        """Print a line, in the place of what was drawn."""
        self.draw([line])
        self._drawn = 0

    def draw(self, lines: Sequence[str]) -> None:
        """Print lines in the place of those that were drawn last.

        No line may be wider than the terminal, or the next one is drawn elsewhere.
        """
        over = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
        self._write(over + "".join(f"{line}\n" for line in lines))
        self._drawn = len(lines)

    def curve(self, values: Sequence[float], width: int) -> str:
        """A curve one line high: one character a value, the last `width` of them."""
        blocks = _BLOCKS if self._unicode else _ASCII_BLOCKS
        shown = values[-width:] if width > 0 else []
        if not shown:
            return ""
        low, high = min(shown), max(shown)
        # Halved, since the difference of two floats may be none.
        span = high / 2 - low / 2
        if not span:
            return blocks[len(blocks) // 2 - 1] * len(shown)
        top = len(blocks) - 1
        return "".join(blocks[round((v / 2 - low / 2) / span * top)] for v in shown)

    def _write(self, text: str) -> None:
        if self._secret:
            text = text.replace(self._secret, "(the key)")
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        self._out.write(text.encode(encoding, "replace").decode(encoding))
        self._out.flush()


def complain(message: str) -> None:
    """Say on standard error why a command does not do what it should."""
    sys.stderr.write(f"stepclock: {message}\n")


def printable(text: str) -> str:
    """A name or message from elsewhere, without what would steer the terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    ]


def duration(seconds: float) -> str:
    """A time span as people say it: `340 ms`, `12 s`, `3 h 20 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, part, part_size in (
        ("d", 86_400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // part_size
            return f"{whole // size} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
