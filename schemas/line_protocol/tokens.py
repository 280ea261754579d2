"""The value of a field as it stands on the wire, and the value it means."""

from __future__ import annotations

import re

#: Pattern from the opening to the closing quote, for DOTALL. A backslash takes the next byte
#: with it, so a quote behind it does not close; newlines and control bytes may stand inside.
STRING = rb'"(?:[^"\\]++|\\.)*+"'

_STRING = re.compile(STRING, re.DOTALL)
# Mostly it is one of these, well within range.
_CERTAIN = re.compile(rb'-?[0-9]{1,18}(?:i|(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,2})?)|".*', re.DOTALL)
_INTEGER = re.compile(rb"-?[0-9]+i")
_UNSIGNED = re.compile(rb"[0-9]+u")
_FLOAT = re.compile(rb"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NON_FINITE = re.compile(rb"[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_TRUE = frozenset((b"t", b"T", b"true", b"True", b"TRUE"))
_FALSE = frozenset((b"f", b"F", b"false", b"False", b"FALSE"))
_STRING_ESCAPE = re.compile(rb'\\(["\\])')

_INT64_MAX = 2**63 - 1
_UINT64_MAX = 2**64 - 1
# No 64-bit number has more.
_MAX_DIGITS = 20


def fault(token: bytes) -> str | None:
    """Why `token` is no field value; None where it is one, or a string (by its first quote).

    Floats are what both Go's ``strconv.ParseFloat`` and InfluxDB's scanner read: no sign
    but ``-``, no hexadecimal, no underscore, no NaN, no infinity, within the double range.
    """
    if _CERTAIN.fullmatch(token):
        return None
    if _INTEGER.fullmatch(token):
        if -_INT64_MAX - 1 <= integer(token[:-1]) <= _INT64_MAX:
            return None
        return "integer out of range: a signed 64-bit integer holds -2^63 to 2^63-1"
    if _UNSIGNED.fullmatch(token):
        if integer(token[:-1]) <= _UINT64_MAX:
            return None
        return "unsigned integer out of range: an unsigned 64-bit integer holds 0 to 2^64-1"
    if _FLOAT.fullmatch(token):
        if abs(float(token)) != float("inf"):
            return None
        return "float out of range: a double holds up to 1.8e308"
    if token in _TRUE or token in _FALSE:
        return None
    if _NON_FINITE.fullmatch(token):
        return (
            "NaN or infinity: line protocol can't carry it; send it to /api/v1/metrics, "
            "or as a line of measurement nonfinite"
        )
    if not token:
        return "field value is missing: write a value behind the ="
    return (
        "field value not understood: write a float (0.5), an integer (5i), true or false, "
        'or a string in double quotes ("text")'
    )


def integer(digits: bytes) -> int:
    """The integer that decimal digits stand for, of any length (int() refuses thousands).

    What has more than 20 digits becomes 10^20 with its sign: out of any range here, too.
    """
    negative = digits.startswith(b"-")
    significant = digits.lstrip(b"-0") or b"0"
    value = int(significant) if len(significant) <= _MAX_DIGITS else 10**_MAX_DIGITS
    return -value if negative else value


def field_value(token: bytes) -> float | int | bool | str:
    """The value of a token that the parser took: ``1i`` and ``1u`` are int, ``1`` is float.

    In strings a backslash before a quote or a backslash is an escape; any other stands for
    itself, as InfluxDB stores it. Raises ValueError for what is no token.
    """
    if _STRING.fullmatch(token):
        return _STRING_ESCAPE.sub(rb"\1", token[1:-1]).decode()
    reason = "string is not closed" if token.startswith(b'"') else fault(token)
    if reason is not None:
        raise ValueError(reason)
    if token in _TRUE:
        return True
    if token in _FALSE:
        return False
    if token[-1:] in b"iu":
        return integer(token[:-1])
    return float(token)


def kind_of(token: bytes) -> str:
    """How stores name the type of a token that the parser took."""
    if token.startswith(b'"'):
        return "string"
    if token in _TRUE or token in _FALSE:
        return "boolean"
    return {b"i": "integer", b"u": "unsigned"}.get(token[-1:], "float")


def encode_string(text: str) -> bytes:
    """The token of a string field. Raises ValueError for text that UTF-8 can't hold."""
    return b'"' + text.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
