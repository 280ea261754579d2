"""Patterns for runs of lines that are certainly good, which spare a look at each line.

Linear-time (google-re2), a few hundred MB/s. What they match, the exact parser and the
bounds admit, except for what a regular expression can't see: a name that is there twice
(`schemas.admission.skeleton`), text that is not UTF-8, and a line that is too long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import re2

from schemas.admission.digit_range import digit_range
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.precision import Precision
from schemas.line_protocol.scanner import RESERVED_TAG_KEYS

# The pattern's window has edges at multiples of this, inside the true window, so that it
# serves for a while; what lies between goes to the exact parser. A power of ten of every
# unit, so that a time is leading digits in a range and free digits behind them.
_WINDOW_STEP_NS = 10**12

# The bytes that end a name, as they stand in a character class, and the escapes in it.
_MEASUREMENT = (rb"\x00-\x20,\\\x7f", rb"\\[ ,]")
_KEY = (rb"\x00-\x20,=\\\x7f", rb"\\[ ,=]")

# At most 18 digits before the point and 2 in the exponent: certainly within range.
_VALUE = (
    rb"(?:-?(?:[0-9]{1,18}(?:i|(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,2})?)"
    rb"|\.[0-9]+(?:[eE][+-]?[0-9]{1,2})?)"
    rb"|[0-9]{1,18}u"
    rb"|[tTfF]|[Tt]rue|TRUE|[Ff]alse|FALSE"
    rb'|"(?:[^"\\\n]|\\[^\n])*")'
)
_STEP = rb"step=[0-9]{1,12}i"


class RunPattern:
    """Finds how far certainly good lines go."""

    def __init__(self, line: bytes) -> None:
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        self._regex = re2.compile(rb"(?:" + line + rb"(?:\n|\z))*", options)

    def end(self, body: bytes, start: int, stop: int) -> int:
        """Index behind the last good line of those that begin at `start`; `start` for none.

        `stop` is the end of the body or the start of a line; no byte behind it is read.
        """
        found: int = self._regex.match(body, start, stop).end()
        return found


class Window(NamedTuple):
    """What patterns know of the rules: leading digits of the first and the last time."""

    precision: Precision
    lowest: int
    highest: int
    reserved: frozenset[str]

    @classmethod
    def of(cls, precision: Precision, rules: Rules) -> Window:
        """The window of a moment. It stays the same for a while."""
        oldest_ns = _WINDOW_STEP_NS if rules.oldest_ns is None else rules.oldest_ns
        lowest = max(-(-oldest_ns // _WINDOW_STEP_NS), 1)
        return cls(precision, lowest, rules.newest_ns // _WINDOW_STEP_NS - 1, rules.reserved)

    def time(self) -> bytes:
        """The pattern of a time in the window."""
        free_digits = len(str(_WINDOW_STEP_NS // self.precision.ns)) - 1
        return digit_range(self.lowest, self.highest) + rb"[0-9]{%d}" % free_digits


def timed(precision: Precision, rules: Rules) -> RunPattern:
    """Lines with a time within the rules, in a precision that a block may have."""
    return _timed(Window.of(precision, rules))


def line_of_names(tags: Sequence[bytes], fields: Sequence[bytes], window: Window) -> bytes:
    """The pattern of a timed line with these names in this order, all of them admitted."""
    value = _names_except((), *_KEY)
    return (
        _measurement(window.reserved)
        + b"".join(b"," + re2.escape(key) + b"=" + value for key in tags)
        + b" "
        + b",".join(_STEP if key == b"step" else re2.escape(key) + b"=" + _VALUE for key in fields)
        + b" "
        + window.time()
    )


@lru_cache(maxsize=64)
def untimed(reserved: frozenset[str]) -> RunPattern:
    """Lines without a time. reserved: measurements that clients can't write."""
    return RunPattern(_series_and_fields(reserved))


@lru_cache(maxsize=64)
def _timed(window: Window) -> RunPattern:
    return RunPattern(_series_and_fields(window.reserved) + b" " + window.time())


def _measurement(reserved: frozenset[str]) -> bytes:
    return _names_except([name.encode() for name in reserved], *_MEASUREMENT, b"#_")


def _series_and_fields(reserved: frozenset[str]) -> bytes:
    tag_key = _names_except(RESERVED_TAG_KEYS, *_KEY)
    tag_value = _names_except((), *_KEY)
    field = b"(?:" + _STEP + b"|" + _names_except((b"step", b"time"), *_KEY) + b"=" + _VALUE + b")"
    return (
        _measurement(reserved)
        + b"(?:,"
        + tag_key
        + b"="
        + tag_value
        + b")* "
        + field
        + b"(?:,"
        + field
        + b")*"
    )


def _names_except(
    words: Iterable[bytes], stops: bytes, escapes: bytes, not_first: bytes = b""
) -> bytes:
    """A pattern of the non-empty names that are none of `words` (plain letters and _).

    `not_first`: bytes that can't begin a name either.
    """
    rest = b"(?:[^" + stops + b"]|" + escapes + b")*"

    def behind(suffixes: list[bytes], barred: bytes, may_end: bool) -> bytes:
        """What may follow a prefix of some words, which end with `suffixes`."""
        alternatives = []
        nexts = barred
        for first, group in groupby(sorted(filter(None, suffixes)), key=lambda word: word[:1]):
            tails = [word[1:] for word in group]
            alternatives.append(first + behind(tails, b"", b"" not in tails))
            nexts += first
        alternatives.append(b"(?:[^" + stops + nexts + b"]|" + escapes + b")" + rest)
        return b"(?:" + b"|".join(alternatives) + (b")?" if may_end else b")")

    return behind(list(words), not_first, may_end=False)
