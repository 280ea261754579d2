from __future__ import annotations

import io
import tokenize
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from tests.structure.revision import Revision
from tests.structure.units import under

#: A passage has at least so many lines.
MIN_LINES = 9


@dataclass(frozen=True, slots=True)
class Passage:
    """Lines that stand alike in several places; blank lines and comments do not count."""

    lines: int
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    text: str


def passages_of(revision: Revision, folders: Iterable[str]) -> list[Passage]:
    """Every passage that stands in two places or more, each as long as it goes, longest first.

    Whitespace is made one space, so that a passage may be indented otherwise.
    """
    folders = tuple(folders)
    files = {
        path: _lines(content)
        for path, content in sorted(revision.files.items())
        if path.endswith(".py") and under(path, folders)
    }
    windows: dict[tuple[str, ...], list[_Place]] = defaultdict(list)
    for path, lines in files.items():
        for start in range(len(lines) - MIN_LINES + 1):
            window = tuple(line.text for line in lines[start : start + MIN_LINES])
            windows[window].append((path, start))
    found: dict[tuple[str | None, ...], set[_Place]] = defaultdict(set)
    for places in windows.values():
        for one, other in combinations(places, 2):
            if _alike(files, one, other, -1):
                continue  # it began before
            length = MIN_LINES
            while _alike(files, one, other, length):
                length += 1
            text = tuple(_text(files, one, offset) for offset in range(length))
            found[text] |= {one, other}
    passages = [
        Passage(len(text), tuple(_told(files, place) for place in sorted(places)))
        for text, places in found.items()
    ]
    return sorted(passages, key=lambda one: (-one.lines, one.places))


_Files = dict[str, list[_Line]]
#: A path and the number of a line among those that count.
_Place = tuple[str, int]


def _alike(files: _Files, one: _Place, other: _Place, offset: int) -> bool:
    text = _text(files, one, offset)
    return text is not None and text == _text(files, other, offset)


def _text(files: _Files, place: _Place, offset: int) -> str | None:
    path, start = place
    number = start + offset
    return files[path][number].text if 0 <= number < len(files[path]) else None


def _told(files: _Files, place: _Place) -> str:
    path, start = place
    return f"{path}:{files[path][start].number}"


def _lines(source: bytes) -> list[_Line]:
    texts = source.decode().splitlines()
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            texts[row - 1] = texts[row - 1][:column]
    return [
        _Line(n, joined) for n, text in enumerate(texts, 1) if (joined := " ".join(text.split()))
    ]
