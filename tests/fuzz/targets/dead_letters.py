"""A dead letter's record: read and written back, or refused by ValueError."""

from __future__ import annotations

from schemas.log.dead_letter import decode, encode_headers
from schemas.log.protocols import Record
from tests.fuzz.head import record_headers, split_head

TOKENS = (
    *(b"v: 1\n", b"reason: refused\n", b"detail: no\n", b"tenant: t\n", b"namespace: n\n"),
    *(b"view: wall\n", b"precision: ns\n", b"topic: stepclock.raw\n", b"partition: 1\n"),
    *(b"offset: 7\n", b"malformed", b"unresolved", b"\xff", b"-1", b"1_0"),
)


def check(data: bytes) -> None:
    pairs, value = split_head(data)
    record = Record("stepclock.dlq", 0, 5, value, record_headers(pairs), 0)
    try:
        letter = decode(record)
    except ValueError as exc:
        assert str(exc)
        return
    assert letter.lines == value
    again = decode(Record("stepclock.dlq", 0, 5, letter.lines, encode_headers(letter), 0))
    assert again == letter or len(letter.detail) > 1000
