"""Bodies of 32 MiB that no honest client sends, and that gzip makes some 32 KiB of."""

from __future__ import annotations

ROWS_TARGET = "/api/v1/metrics"

#: What a gateway takes at most after decompression.
_SIZE = 32 * 1024 * 1024


def _ones(before: bytes, after: bytes) -> bytes:
    ones = b"1," * ((_SIZE - len(before) - len(after)) // 2 - 1)
    return b"%b%b1%b" % (before, ones, after)


def one_list() -> bytes:
    """JSON that is of another shape than rows."""
    return _ones(b'{"x":[', b"]}")


def list_in_a_row() -> bytes:
    """A row, but for the value that is a list."""
    return _ones(b'{"rows":[{"experiment":"e","run":"r","step":1,"values":{"x":[', b"]}}]}")


def bad_lines() -> bytes:
    """Lines that all lack a value."""
    line = b"resnet,run=r1 loss=,step=1i\n"
    return line * (_SIZE // len(line))


#: Bodies of JSON by what they are.
JSON = {"one list": one_list, "a list in a row": list_in_a_row}
