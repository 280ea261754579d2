"""The exact parser: what it takes it writes back, and what it refuses it can point at."""

from __future__ import annotations

from schemas.line_protocol.codec import (
    Line,
    Refused,
    encode,
    escape_key,
    escape_measurement,
    field_value,
    is_blank,
    parse,
    scan,
    split,
)

TOKENS = (
    *b"m v=1 ,t=1 ,run=r1 step=1i 1u true F 1e5 -.5 #!~# time _field NaN".split(),
    *(b"\\ ", b"\\,", b"\\=", b'\\"', b'="a b"', b"\\\\", b"\r\n", b"\xc3\xa9", b"\xff"),
)


def check(data: bytes) -> None:
    _check_split(data)
    _check_line(data)
    _check_name(data)


def _check_split(body: bytes) -> None:
    all_lines = body.split(b"\n")
    last = 0
    for number, line in split(body):
        assert last < number <= len(all_lines)
        held = line.count(b"\n")
        assert b"\n".join(all_lines[number - 1 : number + held]).removesuffix(
            b"\r"
        ) == line.removesuffix(b"\r")
        assert all(is_blank(one) for one in all_lines[last : number - 1])
        if held:
            parse(line.removesuffix(b"\r"))  # only a good line goes on behind a newline
        last = number + held
    assert all(is_blank(one) for one in all_lines[last:])


def _check_line(text: bytes) -> None:
    try:
        line = parse(text)
    except Refused as refused:
        assert 1 <= refused.column <= len(text) + 1
        assert refused.reason.partition(": ")[2]
        return
    assert line == scan(text, 0).line
    for _, token in line.fields:
        field_value(token)
    assert parse(encode(line)) == line
    assert encode(parse(encode(line))) == encode(line)


def _check_name(name: bytes) -> None:
    try:
        escape_key(name)
    except ValueError:
        return
    line = Line(b"m", ((name, name),), ((name, b"1"),), None)
    if name not in {b"time", b"_measurement", b"_field"}:
        assert parse(encode(line)) == line
    try:
        escape_measurement(name)
    except ValueError:
        assert name.startswith(b"#")
        return
    assert parse(encode(Line(name, (), ((b"v", b"1"),), 5))).measurement == name
