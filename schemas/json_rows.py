"""Rows out of the body of a JSON request, one after the other.

The whole document as objects may be ten times as large as its text, and making them holds the
interpreter for as long as it takes. So a window of text is parsed at a time. Where it ends inside
a row, that row is parsed again in the next one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from typing import Any, Final

from pydantic_core import from_json

#: Bytes of one row. A row takes 10,000 values, which are rarely longer than 20 bytes each.
MAX_ROW_BYTES = 256 * 1024

#: Brackets that open in one row, those in names included: more than its values can need. Lists
#: and dicts cost far more than what else a row of its size may hold.
_MAX_BRACKETS = 20_000

#: Numbers beyond a float in one row, each of which is kept as text.
_MAX_UNREPRESENTABLE = 1_000

#: Bytes that are parsed at once while rows are small, as they are until PAUSE comes.
WINDOW_BYTES = 16 * 1024

#: Comes instead of a row, so that the caller can do other things while none is complete: in a
#: long row, or in blanks.
PAUSE: Final = object()

#: How much of the body a message repeats: characters of a number, bytes of what is unexpected.
_MAX_LITERAL = 40
_MAX_FOUND = 20


class InvalidRows(ValueError):
    """The body is not `{"rows": [...]}`. Says where, what is wrong, and what to do."""


class RowTooLarge(InvalidRows):
    """A row does not end within MAX_ROW_BYTES, or has too many lists and objects."""


class Unrepresentable(str):
    """A number as it was written, if it is beyond the range of a 64-bit float: `1e400`.

    No metric has such a value, and it is not an infinity either. Long literals are cut.
    """

    __slots__ = ()


_BLANKS = re.compile(rb"[ \t\n\r]*+")
_COMMA = re.compile(rb"[ \t\n\r]*+,[ \t\n\r]*+")
#: `},{` is most likely the border of two rows. Greedy, so that it finds the last one.
_LAST_BORDER = re.compile(rb"(?s:.*\})(?=[ \t\n\r]*+,[ \t\n\r]*+\{)")
_BRACKETS = re.compile(rb"(?:[^\[{]*+[\[{]){0,%d}+[^\[{]*+" % _MAX_BRACKETS)
#: `rows`, which may be written with escapes of six characters.
_NAME = re.compile(rb'"[^"]{0,24}+"')
#: A number that may be beyond a float has an exponent of three digits, or 200 digits in a row. What
#: is neither is below 1e300. Beginning with a letter, patterns are found at a tenth of the cost.
_EXPONENTS = tuple(re.compile(rb"%c(?<=[0-9].)\+?[0-9]{3,}+[\s,\]}]" % mark) for mark in b"eE")
_DIGITS_TO_0 = bytes.maketrans(b"123456789", b"000000000")
_MANY_DIGITS = b"0" * 200

#: Finds where a value ends; what it makes of numbers is thrown away. Positions of the text are
#: positions of the body, since it reads Latin-1: whether it is UTF-8 is for `from_json`.
_find_end = JSONDecoder(parse_int=len, parse_float=len).raw_decode

#: No token but a string is longer, so an error further from the end of the text is not due to it.
_LONGEST_TOKEN = 16

_REMEDY = 'send one JSON document {"rows": [...]} without other members'


def decode_rows(
    body: bytes, *, _window_bytes: int = WINDOW_BYTES, _max_row_bytes: int = MAX_ROW_BYTES
) -> Iterator[object]:
    """Each member of `rows` in `{"rows": [...]}`, in order, and PAUSE now and then.

    Between two items at most twice MAX_ROW_BYTES are parsed, which takes milliseconds. Raises
    InvalidRows, possibly after many good rows: whoever wants all or nothing has to read to the
    end. What JSON is, duplicate keys and the depth of nesting included, is as
    `pydantic_core.from_json` has it with NaN and infinities; except that `rows` may come once
    only, that rows have a bound, and that Unrepresentable stands for what it makes an infinity.
    """
    return _Reader(body, _window_bytes, _max_row_bytes).rows()


class _Reader:
    def __init__(self, body: bytes, window_bytes: int, max_row_bytes: int) -> None:
        self._body = body
        self._at = 0
        self._row = 0
        self._window = min(window_bytes, max_row_bytes)
        self._max_row_bytes = max_row_bytes

    def rows(self) -> Iterator[object]:
        yield from self._expect(b"{", "an object")
        yield from self._blanks()
        self._take_name()
        yield from self._expect(b":", "a colon")
        yield from self._expect(b"[", "a list of rows")
        yield from self._blanks()
        if not self._body.startswith(b"]", self._at):
            yield from self._members()
            yield from self._blanks()
            while self._body.startswith(b",", self._at):
                self._at += 1
                yield from self._blanks()
                yield from self._members()
                yield from self._blanks()
        yield from self._expect(b"]", "a comma or the end of the list")
        yield from self._expect(b"}", "the end of the object")
        yield from self._blanks()
        if self._at < len(self._body):
            raise self._unexpected("nothing more")

    def _take_name(self) -> None:
        name = _NAME.match(self._body, self._at)
        try:
            if name is None or from_json(name[0]) != "rows":
                raise self._unexpected('"rows"')
        except ValueError as exc:
            raise self._unexpected('"rows"') from exc
        self._at = name.end()

    def _expect(self, mark: bytes, meaning: str) -> Iterator[object]:
        yield from self._blanks()
        if not self._body.startswith(mark, self._at):
            raise self._unexpected(meaning)
        self._at += 1

    def _blanks(self) -> Iterator[object]:
        """Go behind what blanks there are."""
        while True:
            stop = self._at + self._max_row_bytes
            blanks = _BLANKS.match(self._body, self._at, stop)
            assert blanks is not None
            self._at = blanks.end()
            if self._at < stop:
                return
            yield PAUSE

    def _members(self) -> Iterator[object]:
        """One window of rows; ends behind the last one that is whole."""
        rows = self._batch()
        if rows is not None:
            self._row += len(rows)
            yield from rows
            return
        before = self._row
        while True:
            yield PAUSE
            yield from self._one_by_one()
            if self._row > before:
                return
            self._window = min(4 * self._window, self._max_row_bytes)

    def _batch(self) -> list[Any] | None:
        """All rows up to the last border in the window, or None if it takes a closer look.

        What parses as a list between brackets is a list. So it does no harm if the border was
        none, but inside a row or a string: the brackets don't match then.
        """
        stop = self._stop()
        if stop == len(self._body):
            end = self._body.rfind(b"]", self._at)
        else:
            border = _LAST_BORDER.match(self._body, self._at, stop)
            end = -1 if border is None else border.end()
        if end <= self._at:
            return None
        text = b"[[%b]]" % self._body[self._at : end]
        if _may_be_huge(text):
            return None
        try:
            lists: list[list[Any]] = from_json(text, allow_inf_nan=True)
        except ValueError:
            return None
        if len(lists) > 1:  # the text was `{}],[{}`
            return None
        self._at = end
        return lists[0]

    def _stop(self) -> int:
        """Where the window ends: at its size, or sooner if there are very many containers."""
        stop = min(self._at + self._window, len(self._body))
        count = self._body.count
        if count(b"[", self._at, stop) + count(b"{", self._at, stop) > _MAX_BRACKETS:
            brackets = _BRACKETS.match(self._body, self._at, stop)
            assert brackets is not None
            stop = brackets.end()
        return stop

    def _one_by_one(self) -> Iterator[object]:
        """Each row that ends in the window. Raises if the first one doesn't and never will."""
        began = self._at
        text = self._body[began : self._stop()].decode("latin-1")
        is_whole = began + len(text) == len(self._body)
        may_grow = len(text) == self._window < self._max_row_bytes and not is_whole
        at = 0
        while True:
            try:
                end = _find_end(text, at)[1]
            except JSONDecodeError as exc:
                if at == 0 and not may_grow:
                    raise self._malformed(exc, len(text), is_whole=is_whole) from None
                return
            except RecursionError:
                self._at = began + at
                raise self._invalid("the row is nested too deeply: send it flat") from None
            if text[end - 1] not in '}]"':  # a number or a word, which may go on
                if end == len(text) and not is_whole:
                    if at == 0 and not may_grow:
                        raise self._too_large()
                    return
                if may_grow and text[end] not in " \t\n\r,]":
                    return
            self._at = began + at
            if end - at > WINDOW_BYTES:
                yield PAUSE
            row = self._parse(self._body[self._at : began + end])
            self._at = began + end
            self._row += 1
            yield row
            comma = _COMMA.match(self._body, self._at, began + len(text))
            if comma is None or comma.end() == began + len(text):
                return
            at = comma.end() - began

    def _parse(self, text: bytes) -> object:
        text = b"[[%b]]" % text  # as deep as in the body, for the bound of nesting
        try:
            [[row]] = from_json(text, allow_inf_nan=True)
        except ValueError as exc:
            cause = str(exc).partition(" at line ")[0]
            raise self._invalid(f"{cause}: {_REMEDY}") from None
        return self._with_literals(text.decode()) if _may_be_huge(text) else row

    def _with_literals(self, text: str) -> object:
        """The row with Unrepresentable in the place of infinities that were written as numbers."""
        left = _MAX_UNREPRESENTABLE

        def number(literal: str) -> object:
            nonlocal left
            value = float(literal)
            if -math.inf < value < math.inf:
                return value
            left -= 1
            if left < 0:
                raise self._invalid(
                    f"over {_MAX_UNREPRESENTABLE} numbers beyond the range of a 64-bit float: "
                    "send NaN or Infinity for what is none"
                )
            return Unrepresentable(literal[:_MAX_LITERAL])

        [[row]] = JSONDecoder(parse_float=number).decode(text)
        return row

    def _malformed(self, exc: JSONDecodeError, size: int, *, is_whole: bool) -> InvalidRows:
        """The error for a first row that does not end in size bytes of text."""
        is_cut = exc.pos > size - _LONGEST_TOKEN or exc.msg.startswith("Unterminated string")
        if is_cut and not is_whole:
            return self._too_large()
        cause = exc.msg.removesuffix(" starting at")
        return self._invalid(f"{cause} at byte {self._at + exc.pos}: {_REMEDY}")

    def _too_large(self) -> RowTooLarge:
        return RowTooLarge(
            f"rows[{self._row}] at byte {self._at} is longer than {self._max_row_bytes} bytes or "
            f"has over {_MAX_BRACKETS} brackets: send its values in several rows"
        )

    def _invalid(self, cause: str) -> InvalidRows:
        return InvalidRows(f"rows[{self._row}] at byte {self._at}: {cause}")

    def _unexpected(self, expected: str) -> InvalidRows:
        found = self._body[self._at : self._at + _MAX_FOUND].decode(errors="replace")
        return InvalidRows(
            f"byte {self._at}: expected {expected}, not {found or 'the end'!r}: {_REMEDY}"
        )


def _may_be_huge(text: bytes) -> bool:
    """Whether a number may be beyond a float. Strings may look like one."""
    return any(exponent.search(text) for exponent in _EXPONENTS) or (
        _MANY_DIGITS in text.translate(_DIGITS_TO_0)
    )
