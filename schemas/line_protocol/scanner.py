"""Reads one line of line protocol where it stands in a longer text, and says where it ends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.line_protocol.tokens import STRING, fault, integer

#: Tag keys that InfluxDB keeps for itself.
RESERVED_TAG_KEYS = frozenset((b"time", b"_measurement", b"_field"))

#: InfluxDB's bound of series + 4 + field key, in bytes as they stand on the wire.
MAX_SERIES_BYTES = 65_535

#: InfluxDB's storage engine joins series and field key by ``#!~#`` and splits at the first
#: one it finds. A series that holds or ends like it shares its key with another one, and
#: where their types differ every later write and query of it fails.
ENGINE_SEPARATOR = b"#!~"
_SEPARATOR_REASON = "name holds #!~: InfluxDB joins its own keys with it"

# A backslash escapes the delimiter behind it. Anywhere else it stands for itself, provided that
# the byte behind a run of backslashes is neither delimiter nor quote: InfluxDB's several
# scanners disagree on those, which has killed its process.
_LITERAL_BACKSLASH = rb'\\++(?=[^\x00-\x20,="\\\x7f])'
_MEASUREMENT = rb"(?:[^\x00-\x20,\\\x7f]++|\\[ ,]|" + _LITERAL_BACKSLASH + rb")++"
_KEY = rb"(?:[^\x00-\x20,=\\\x7f]++|\\[ ,=]|" + _LITERAL_BACKSLASH + rb")++"
_BARE_VALUE = rb'(?!")[^, \r\n]*+'

_MEASUREMENT_PATTERN = re.compile(rb"(?!#)" + _MEASUREMENT)
_KEY_PATTERN = re.compile(_KEY)
_TAG = re.compile(rb",(" + _KEY + rb")=(" + _KEY + rb")")
_FIELD = re.compile(rb"(" + _KEY + rb")=(" + STRING + rb"|" + _BARE_VALUE + rb")", re.DOTALL)
_SPACES = re.compile(rb" *+")
_TIME = re.compile(rb"-?[0-9]+")
_LINE_END = re.compile(rb"\r?(?:\n|\Z)")
_ESCAPE = re.compile(rb"\\([ ,=])")


class Refused(Exception):
    """The line is not admitted.

    column: 1-based, in bytes, from where the line begins. reason: its kind, a fixed phrase
    of the table in `docs/line-protocol.md`, a colon, and what was expected.
    """

    def __init__(self, column: int, reason: str) -> None:
        super().__init__(f"column {column}: {reason}")
        self.column = column
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Line:
    """One line. Names and tag values are unescaped, tags in the order given.

    fields: unescaped key and the value's token as on the wire (``b'1200i'``, ``b'"text"'``).
    time: in the unit of the request; None for a line without one.
    """

    measurement: bytes
    tags: tuple[tuple[bytes, bytes], ...]
    fields: tuple[tuple[bytes, bytes], ...]
    time: int | None


@dataclass(frozen=True, slots=True)
class Scanned:
    """A line, its text, and where parts of it stood.

    series, fields: measurement with tags, and fields, as they stood; no other spelling of
    them is admitted. end: index of the line ending. Columns are 1-based.
    """

    line: Line
    series: bytes
    fields: bytes
    end: int
    measurement_column: int
    field_columns: Mapping[bytes, int]
    time_column: int


def scan(text: bytes, start: int) -> Scanned:
    """The line that begins at index `start` and ends with LF, CR LF or the end of `text`.

    Raises Refused.
    """
    return _Scanner(text, start).scan()


class _Scanner:
    """One pass over one line; `pos` is the index of the next byte to read."""

    def __init__(self, text: bytes, start: int) -> None:
        self._text = text
        self._start = start
        self._pos = start

    def scan(self) -> Scanned:
        text = self._text
        begin = self._skip_spaces()
        measurement = self._measurement()
        tags = self._tags()
        series = text[begin : self._pos]
        if begin > self._start and b'"' in series:
            # InfluxDB takes the leading space for the one before the fields, and the quote for
            # the start of a string, which then swallows the lines behind this one.
            raise Refused(1, "space before the line: leave it out where a name holds a quote")
        if ENGINE_SEPARATOR in series:
            raise Refused(self._column(begin + series.index(ENGINE_SEPARATOR)), _SEPARATOR_REASON)
        fields_begin = self._skip_spaces()
        fields, columns = self._fields(len(series))
        fields_end = self._pos
        time_begin = self._skip_spaces()
        time = self._time()
        end = self._skip_spaces()
        if _LINE_END.match(text, end) is None:
            raise self._stuck("text behind the time: expected the end of the line")
        self._check_utf8(begin)
        return Scanned(
            line=Line(measurement, tuple(tags.items()), tuple(fields.items()), time),
            series=series,
            fields=text[fields_begin:fields_end],
            end=end,
            measurement_column=self._column(begin),
            field_columns={key: self._column(pos) for key, pos in columns.items()},
            time_column=self._column(time_begin),
        )

    def _measurement(self) -> bytes:
        name = _MEASUREMENT_PATTERN.match(self._text, self._pos)
        if name is None:
            raise self._stuck("no measurement: expected its name, which can't begin with #")
        self._pos = name.end()
        return name[0].replace(b"\\,", b",").replace(b"\\ ", b" ")

    def _tags(self) -> dict[bytes, bytes]:
        tags: dict[bytes, bytes] = {}
        while tag := _TAG.match(self._text, self._pos):
            key, value = _unescape(tag[1]), _unescape(tag[2])
            if key in RESERVED_TAG_KEYS:
                reason = "tag key is reserved: InfluxDB keeps time, _measurement and _field"
                raise Refused(self._column(tag.start(1)), reason)
            if key in tags:
                reason = "tag is there twice: expected each tag key once"
                raise Refused(self._column(tag.start(1)), reason)
            tags[key] = value
            self._pos = tag.end()
        if self._peek() == b",":
            raise self._bad_tag()
        if self._peek() != b" ":
            raise self._stuck("no fields: expected a space and key=value behind the tags")
        return tags

    def _fields(self, series_bytes: int) -> tuple[dict[bytes, bytes], dict[bytes, int]]:
        """The fields, and the index where each begins."""
        fields: dict[bytes, bytes] = {}
        begins: dict[bytes, int] = {}
        while True:
            field = _FIELD.match(self._text, self._pos)
            if field is None:
                raise self._bad_field()
            key, value = _unescape(field[1]), field[2]
            if series_bytes + 4 + len(field[1]) > MAX_SERIES_BYTES:
                raise self._refused("series too long: with the field key it reaches 64 KiB")
            if key == b"time":
                raise self._refused("field key is reserved: a field can't be called time")
            if key in fields:
                raise self._refused("field is there twice: expected each field key once")
            if ENGINE_SEPARATOR in key:
                raise self._refused(_SEPARATOR_REASON)
            reason = fault(value)
            if reason is not None:
                raise Refused(self._column(field.start(2)), reason)
            fields[key] = value
            begins[key] = self._pos
            self._pos = field.end()
            if self._peek() != b",":
                break
            self._pos += 1
        if self._peek() not in {b"", b" ", b"\r", b"\n"}:
            raise self._stuck("text behind a string: expected a comma, a space or the end")
        return fields, begins

    def _time(self) -> int | None:
        if _LINE_END.match(self._text, self._pos):
            return None
        time = _TIME.match(self._text, self._pos)
        if time is None:
            raise self._stuck("time is not an integer: expected digits")
        value = integer(time[0])
        if not -(2**63) <= value < 2**63:
            raise self._refused("time out of range: expected a 64-bit integer")
        self._pos = time.end()
        return value

    def _check_utf8(self, begin: int) -> None:
        line = self._text[begin : self._pos]
        if not line.isascii():
            try:
                line.decode()
            except UnicodeDecodeError as exc:
                column = self._column(begin + exc.start)
                raise Refused(column, "not UTF-8: expected UTF-8 throughout") from None

    def _bad_tag(self) -> Refused:
        self._pos += 1
        if not self._skip_key():
            return self._stuck("tag key is missing: expected key=value behind the comma")
        if self._peek() != b"=":
            return self._stuck("tag without value: expected key=value behind the comma")
        self._pos += 1
        return self._stuck("tag value is empty: expected a value, or no such tag")

    def _bad_field(self) -> Refused:
        if not self._skip_key():
            return self._stuck("field key is missing: expected key=value")
        if self._peek() != b"=":
            return self._stuck("field without value: expected key=value")
        self._pos += 1
        return self._refused("string is not closed: expected a closing double quote")

    def _skip_key(self) -> bool:
        key = _KEY_PATTERN.match(self._text, self._pos)
        if key is not None:
            self._pos = key.end()
        return key is not None

    def _skip_spaces(self) -> int:
        spaces = _SPACES.match(self._text, self._pos)
        assert spaces is not None
        self._pos = spaces.end()
        return self._pos

    def _peek(self) -> bytes:
        return self._text[self._pos : self._pos + 1]

    def _column(self, pos: int) -> int:
        return pos - self._start + 1

    def _refused(self, reason: str) -> Refused:
        return Refused(self._column(self._pos), reason)

    def _stuck(self, reason: str) -> Refused:
        """The refusal of the byte at `pos`; bytes that fit nowhere have reasons of their own."""
        byte = self._peek()
        if byte == b"\\":
            reason = (
                "backslash is ambiguous: InfluxDB's parsers disagree on one before a quote, "
                "a delimiter it does not escape, another escape, or the end; use / instead"
            )
        elif byte == b"\r":
            reason = "carriage return: expected LF, or CR LF, at the end of a line only"
        elif byte == b"\x7f" or (byte < b" " and byte not in {b"", b"\n"}):
            reason = "control byte: expected text; control bytes may stand in strings only"
        return self._refused(reason)


def _unescape(name: bytes) -> bytes:
    return _ESCAPE.sub(rb"\1", name) if b"\\" in name else name
