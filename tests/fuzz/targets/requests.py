"""Query string and headers of a write: read, or refused with an answer that can be sent."""

from __future__ import annotations

import json

from consumers.batches.batch import PlacedBlock
from consumers.writing.deliveries import delivery_lines
from ingest import errors
from ingest.errors import BadRequest, GatewayError, Unauthorized
from ingest.keys.auth import key_in_headers, key_in_query
from ingest.publish.origin import Origin, Piece
from ingest.write.line_decoder import LineDecoder, LineDecoderV1, influx_1
from schemas.admission.body import admit
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block, decode, encode_headers
from schemas.log.protocols import TopicPartition
from schemas.tenants.keys import digest, id_of
from tests.fuzz.head import split_head
from tests.fuzz.targets.admission import HOUR_NS, NOW_NS
from tests.fuzz.targets.block import check_block

TOKENS = (
    *(
        b"bucket=raw",
        b"bucket=lab%2Fraw",
        b"&precision=ms",
        b"&org=x",
        b"db=lab",
        b"&rp=raw",
        b"&p=",
    ),
    *(
        b"authorization: Bearer sk_a_b\n",
        b"authorization: Token u:p\n",
        b"\xc2\xb5",
        b"%ff",
        b"%00",
    ),
    *(b"authorization: Basic dTpw\n", b"stepclock-stream: s\n", b"stepclock-sequence: 1\n"),
    *(b"stepclock-start: 5\n", b"stepclock-run: r\n", b"stepclock-experiment: e\n", b"9" * 19),
    b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01\n",
)


def check(data: bytes) -> None:
    """The first line is the query string, the others are headers."""
    query, _, head = data.partition(b"\n")
    pairs, _ = split_head(head)
    headers = [(name.lower(), value) for name, value in pairs]
    for decoder in (LineDecoder(), LineDecoderV1()):
        _check_target(decoder, query)
    _check_key(headers, query)
    _check_origin(dict(headers))


def _check_target(decoder: LineDecoder, query: bytes) -> None:
    try:
        target = decoder.target(query)
    except BadRequest as exc:
        _check_answer(exc)
        return
    assert target.namespace != ""
    assert target.precision in Precision
    assert isinstance(decoder, LineDecoderV1) or target.precision not in {Precision.M, Precision.H}
    target.class_name.encode()


def _check_key(headers: list[tuple[bytes, bytes]], query: bytes) -> None:
    try:
        keys = [key_in_headers(headers)]
    except Unauthorized as exc:
        _check_answer(exc)
        keys = []
    for key in (*keys, key_in_query(query)):
        if key is not None:
            digest(key)
            id_of(key)


def _check_origin(headers: dict[bytes, bytes]) -> None:
    try:
        origin = Origin.from_headers(headers, NOW_NS, NOW_NS - 400 * 24 * HOUR_NS)
    except BadRequest as exc:
        _check_answer(exc)
        return
    delivery = origin.delivery(Piece(b"m v=1 5", 1), 0)
    assert delivery is None or b"stepclock-stream" in headers
    deliveries = () if delivery is None else (delivery,)
    block = Block(
        "t",
        "n",
        Precision.NS,
        1,
        NOW_NS,
        b"m v=1 5",
        deliveries=deliveries,
        traceparent=origin.traceparent,
    )
    check_block(block)
    assert decode(encode_headers(block), block.lines) == block
    placed = PlacedBlock(block, TopicPartition("stepclock.raw", 0), 0, 0)
    lines = list(delivery_lines(placed, ()))
    assert len(lines) == (delivery is not None and delivery.start > 0)
    for line in lines:  # as the worker writes it, for the store to take
        rules = Rules(NOW_NS - 400 * 24 * HOUR_NS, NOW_NS + HOUR_NS, "400d", frozenset())
        assert admit(line, Precision.NS, rules, lambda: 0).parts[0].lines == line


def _check_answer(error: GatewayError) -> None:
    for dialect in (errors.influx, influx_1, errors.problem):
        status, headers, body = errors.response(error, dialect, "/write")
        assert status in {400, 401}
        assert json.loads(body)
        assert all(b"\n" not in name + value for name, value in headers)
