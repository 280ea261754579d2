"""Headers of a block: what can be read says only what a gateway can say, and is written back."""

from __future__ import annotations

from schemas.line_protocol.precision import BLOCK_PRECISIONS
from schemas.log.block import Block, Delivery, ForeignRecord, UnknownBlock, decode, encode_headers
from tests.fuzz.head import record_headers, split_head

TOKENS = (
    *(b"v: 1\n", b"tenant: t\n", b"namespace: n\n", b"precision: ns\n", b"points: 1\n"),
    *(b"received_ns: 5\n", b"multiline: 1\n", b"view: steps\n", b"traceparent: 00-\n"),
    *(b'deliveries: [["s",1,2,"e","r",0,1,0,3]]\n', b"null", b"NaN", b"\\ud800", b"[[[[", b"1e5"),
)


def check(data: bytes) -> None:
    pairs, value = split_head(data)
    headers = record_headers(pairs)
    try:
        block = decode(headers, value)
    except ForeignRecord:
        assert "v" not in dict(headers)
        return
    except UnknownBlock as exc:
        str(exc).encode()
        return
    check_block(block)
    assert decode(encode_headers(block), block.lines) == block


def check_block(block: Block) -> None:
    assert block.precision in BLOCK_PRECISIONS
    assert 0 <= block.points < 2**63
    assert 0 <= block.received_ns < 2**63
    for delivery in block.deliveries:
        assert isinstance(delivery, Delivery)
        texts = (delivery.stream, delivery.experiment, delivery.run)
        numbers = (delivery.sequence, delivery.start, delivery.part, delivery.points)
        assert all(type(text) is str for text in texts)
        assert all(type(number) is int and 0 <= number < 2**63 for number in numbers)
