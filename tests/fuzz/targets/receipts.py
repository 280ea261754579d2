"""Receipts: read and written back, or refused."""

from __future__ import annotations

from schemas.log.receipt import InvalidReceipt, decode, encode

TOKENS = (b"1.", b"raw-3-1207", b".events-1-77", b"-", b"0", b"system-0-0")


def check(data: bytes) -> None:
    text = data.decode("latin-1")
    try:
        blocks = decode(text)
    except InvalidReceipt as exc:
        assert len(str(exc)) < 500
        return
    assert blocks
    assert decode(encode(blocks)) == blocks
    assert len(encode(blocks)) <= len(text)
    assert all(b.partition >= 0 and 0 <= b.offset < 2**63 for b in blocks)
