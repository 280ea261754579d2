"""InfluxDB line protocol, exactly: one line to its parts and back.

Admitted is what both the strict published grammar (the decoder of the Go module
``github.com/influxdata/line-protocol/v2``) and InfluxDB 2.7 take, and read alike;
`docs/line-protocol.md` lists what is refused and why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from schemas.line_protocol.scanner import (
    ENGINE_SEPARATOR,
    RESERVED_TAG_KEYS,
    Line,
    Refused,
    Scanned,
    scan,
)
from schemas.line_protocol.tokens import encode_string, field_value

__all__ = [
    "Line",
    "Refused",
    "Scanned",
    "encode",
    "encode_string",
    "escape_key",
    "escape_measurement",
    "field_value",
    "line_end",
    "parse",
    "scan",
    "split",
]

# A backslash that would stand before an escape, a quote or the end of the name.
_AMBIGUOUS_BACKSLASH = re.compile(rb'\\(?:[ ,="]|\Z)')
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

# Names without escapes, numbers well within range.
_PLAIN_NAME = re.compile(rb"[A-Za-z0-9_./:@%+-]++")
_MAX_PLAIN_BYTES = 16 * 1024
_KEY = rb"[^\x00-\x20,=\\\x7f]++"
_VALUE = (
    rb'(?:-?[0-9]{1,18}+(?:i|(?:\.[0-9]*+)?+(?:[eE][+-]?[0-9]{1,2})?+)|"[^"\\\n]*+"|true|false)'
)
_PLAIN_TAG = re.compile(rb",(" + _KEY + rb")=(" + _KEY + rb")")
_PLAIN_FIELD = re.compile(rb"(" + _KEY + rb")=(" + _VALUE + rb"),?+")
_PLAIN_LINE = re.compile(
    rb"([^\x00-\x20,#\\\x7f][^\x00-\x20,\\\x7f]*+)"
    rb"((?:," + _KEY + rb"=" + _KEY + rb")*+) "
    rb"(" + _KEY + rb"=" + _VALUE + rb"(?:," + _KEY + rb"=" + _VALUE + rb")*+)"
    rb"(?: (-?[1-8]?[0-9]{1,18}))?"
)


def parse(line: bytes) -> Line:
    """The parts of one line, given without its newline. Raises Refused."""
    plain = _parse_plain(line)
    if plain is not None:
        return plain
    scanned = scan(line, 0)
    if scanned.end != len(line):
        what = "newline outside a string" if b"\n" in line[scanned.end :] else "carriage return"
        raise Refused(scanned.end + 1, f"{what}: expected one line without its line ending")
    return scanned.line


def _parse_plain(line: bytes) -> Line | None:
    """The parts of a line without backslash, oddities and faults; None for any other.

    Nearly every line is one, and this is several times as fast as the scanner.
    """
    plain = _PLAIN_LINE.fullmatch(line) if len(line) < _MAX_PLAIN_BYTES else None
    if plain is None or not line.isascii() or ENGINE_SEPARATOR in line:
        return None
    measurement, tag_text, field_text, time = plain.groups()
    tags = _PLAIN_TAG.findall(tag_text)
    fields = _PLAIN_FIELD.findall(field_text)
    tag_keys = {key for key, _ in tags}
    field_keys = {key for key, _ in fields}
    if (
        len(tag_keys) < len(tags)
        or len(field_keys) < len(fields)
        or not tag_keys.isdisjoint(RESERVED_TAG_KEYS)
        or b"time" in field_keys
    ):
        return None
    return Line(measurement, tuple(tags), tuple(fields), None if time is None else int(time))


def encode(line: Line) -> bytes:
    """The canonical line: single spaces, no needless escape; ``parse(encode(x)) == x``.

    Raises ValueError for names that a line can't carry. Values are written as they are.
    """
    series = [escape_measurement(line.measurement)]
    series += [b"%b=%b" % (escape_key(key), escape_key(value)) for key, value in line.tags]
    fields = [b"%b=%b" % (escape_key(key), value) for key, value in line.fields]
    text = b",".join(series) + b" " + b",".join(fields)
    return text if line.time is None else b"%b %d" % (text, line.time)


def escape_measurement(raw: bytes) -> bytes:
    """A measurement as it stands in a line. Raises ValueError as escape_key does."""
    _check_name(raw)
    if raw.startswith(b"#"):
        raise ValueError("a measurement that begins with # would make a comment of the line")
    return raw.replace(b",", b"\\,").replace(b" ", b"\\ ")


def escape_key(raw: bytes) -> bytes:
    """A tag key, tag value or field key as it stands in a line.

    Raises ValueError for names that no line can carry: empty ones; with a control byte; not
    UTF-8; with a backslash at the end or before a comma, space, equals sign or double quote;
    with ``#!~``, which the storage engine of InfluxDB uses to join its keys.
    """
    _check_name(raw)
    return raw.replace(b",", b"\\,").replace(b" ", b"\\ ").replace(b"=", b"\\=")


def split(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines of a body, not yet parsed, with their 1-based numbers and without newline.

    Blank lines and comments are left out. A newline inside a string field does not end its
    line; if what follows makes no line, the newline does end it, so that one missing quote
    costs one line.
    """
    number, pos = 1, 0
    while pos < len(body):
        end = line_end(body, pos)
        line = body[pos:end]
        if not is_blank(line):
            yield number, line
        number += 1 + line.count(b"\n")
        pos = end + 1


def is_blank(line: bytes) -> bool:
    """Whether a line holds nothing but spaces, a carriage return, or a comment."""
    text = line.strip(b" \r")
    return not text or text.startswith(b"#")


def line_end(body: bytes, start: int) -> int:
    """Index of the newline that ends the line which begins at `start`, or of the body's end."""
    newline = body.find(b"\n", start)
    if newline < 0:
        return len(body)
    # Only a string that opens before the newline can go on behind it.
    if body.find(b'"', start, newline) < 0 or is_blank(body[start:newline]):
        return newline
    try:
        end = scan(body, start).end
    except Refused:
        return newline
    return end + 1 if body[end : end + 1] == b"\r" else end


def _check_name(raw: bytes) -> None:
    if _PLAIN_NAME.fullmatch(raw):
        return
    if not raw:
        raise ValueError("a name can't be empty")
    if _CONTROL.search(raw):
        raise ValueError("a name can't hold control bytes such as tab or newline")
    if _AMBIGUOUS_BACKSLASH.search(raw):
        raise ValueError(
            "a name can't hold a backslash at its end or before a comma, space, = or quote"
        )
    if ENGINE_SEPARATOR in raw:
        raise ValueError("a name can't hold #!~")
    try:
        raw.decode()
    except UnicodeDecodeError:
        raise ValueError("a name must be UTF-8") from None
