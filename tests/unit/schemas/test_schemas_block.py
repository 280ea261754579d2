"""Blocks and dead letters survive the way through the log."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.line_protocol.precision import BLOCK_PRECISIONS, Precision
from schemas.log import block, dead_letter
from schemas.log.block import Block, Delivery, ForeignRecord, UnknownBlock
from schemas.log.dead_letter import DeadLetter, Reason
from schemas.log.protocols import Headers, Record

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
counts = st.integers(0, 2**63 - 1)
deliveries = st.builds(
    Delivery,
    stream=texts,
    sequence=counts,
    start=counts,
    experiment=texts,
    run=texts,
    part=counts,
    parts=counts,
    first=counts,
    points=counts,
)
blocks = st.builds(
    Block,
    tenant=texts,
    namespace=texts,
    precision=st.sampled_from(sorted(BLOCK_PRECISIONS)),
    points=counts,
    received_ns=counts,
    lines=st.binary(max_size=200),
    multiline=st.booleans(),
    deliveries=st.lists(deliveries, max_size=4).map(tuple),
    traceparent=st.none() | texts,
)
letters = st.builds(
    DeadLetter,
    lines=st.binary(max_size=200),
    reason=st.sampled_from(Reason),
    detail=texts,
    tenant=texts,
    namespace=texts,
    view=st.sampled_from(["wall", "steps"]),
    precision=st.sampled_from([p.value for p in Precision]),
    topic=texts,
    partition=st.integers(0, 1000),
    offset=counts,
)

BLOCK = Block("tenant", "stepclock", Precision.MS, 2, 7, b"e a=1 1\ne a=2 2")
LETTER = DeadLetter(
    b"e a=1 1", Reason.REFUSED, "no", "tenant", "stepclock", "wall", "ms", "stepclock.raw", 3, 8
)


def without(headers: Headers, name: str) -> Headers:
    return tuple(header for header in headers if header[0] != name)


def with_value(headers: Headers, name: str, value: bytes) -> Headers:
    return (*without(headers, name), (name, value))


def record_of(letter: DeadLetter, headers: Headers | None = None) -> Record:
    sent = dead_letter.encode_headers(letter) if headers is None else headers
    return Record("stepclock.dlq", 0, 0, letter.lines, sent, 0)


# -- blocks -----------------------------------------------------------------------------------


@given(original=blocks)
def test_a_block_comes_back_as_it_was(original: Block) -> None:
    assert block.decode(block.encode_headers(original), original.lines) == original


@given(original=blocks)
def test_header_names_are_unique_and_lines_stay_out_of_them(original: Block) -> None:
    names = [name for name, _value in block.encode_headers(original)]
    assert len(names) == len(set(names))
    marked = replace(original, lines=b"in the value only")
    assert block.encode_headers(marked) == block.encode_headers(original)


def test_headers_that_say_nothing_are_left_out() -> None:
    names = {name for name, _value in block.encode_headers(BLOCK)}
    assert names == {"v", "tenant", "namespace", "precision", "points", "received_ns"}


def test_a_record_without_a_version_is_foreign() -> None:
    with pytest.raises(ForeignRecord):
        block.decode((), b"e a=1")
    with pytest.raises(ForeignRecord):
        block.decode(without(block.encode_headers(BLOCK), "v"), BLOCK.lines)


def test_headers_of_others_are_left_alone() -> None:
    headers = (*block.encode_headers(BLOCK), ("x-trace", b"1"))
    assert block.decode(headers, BLOCK.lines) == BLOCK


@pytest.mark.parametrize("name", ["tenant", "namespace", "precision", "points", "received_ns"])
def test_a_block_that_lacks_a_header_is_unknown(name: str) -> None:
    with pytest.raises(UnknownBlock):
        block.decode(without(block.encode_headers(BLOCK), name), BLOCK.lines)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", b"2"),
        ("v", b""),
        ("tenant", b"\xff"),
        ("precision", b"fortnight"),
        ("precision", b"m"),
        ("precision", b"h"),
        ("points", b"many"),
        ("points", b"-1"),
        ("points", b"1_0"),
        ("points", b" 1"),
        ("points", "٢".encode()),
        ("points", b"9" * 19),
        ("points", b"9" * 5000),
        ("received_ns", b"-1"),
        ("received_ns", b""),
        ("deliveries", b"{"),
        ("deliveries", b"{}"),
        ("deliveries", b"[1]"),
        ("deliveries", b"[[1]]"),
        ("deliveries", b"\xff"),
        ("deliveries", b'[[1,1,2,"e","r",0,1,0,3]]'),
        ("deliveries", b'["seven77"]'),
        ("deliveries", b'[["s",1.5,2,"e","r",0,1,0,3]]'),
        ("deliveries", b'[["s",true,2,"e","r",0,1,0,3]]'),
        ("deliveries", b'[["s",NaN,2,"e","r",0,1,0,3]]'),
        ("deliveries", b'[["s",-1,2,"e","r",0,1,0,3]]'),
        ("deliveries", b'[["s",9223372036854775808,2,"e","r",0,1,0,3]]'),
        ("deliveries", b'[["\\ud800",1,2,"e","r",0,1,0,3]]'),
        ("traceparent", b"\xff"),
    ],
)
def test_a_block_that_cannot_be_read_is_unknown(name: str, value: bytes) -> None:
    with pytest.raises(UnknownBlock):
        block.decode(with_value(block.encode_headers(BLOCK), name, value), BLOCK.lines)


@given(headers=st.dictionaries(st.sampled_from(["v", "points", "deliveries"]), st.binary()))
def test_whatever_headers_hold_a_block_is_read_foreign_or_unknown(
    headers: dict[str, bytes],
) -> None:
    mixed = dict(block.encode_headers(BLOCK)) | headers
    for found in (headers, mixed):
        try:
            decoded = block.decode(tuple(found.items()), BLOCK.lines)
        except (ForeignRecord, UnknownBlock):
            continue
        assert decoded.lines == BLOCK.lines


# -- dead letters -----------------------------------------------------------------------------


@given(original=letters)
def test_a_dead_letter_comes_back_as_it_was(original: DeadLetter) -> None:
    assert dead_letter.decode(record_of(original)) == original


def test_a_long_detail_is_cut() -> None:
    decoded = dead_letter.decode(record_of(replace(LETTER, detail="é" * 5000)))
    assert decoded.detail == "é" * 1000


@pytest.mark.parametrize("name", [name for name, _value in dead_letter.encode_headers(LETTER)])
def test_a_dead_letter_that_lacks_a_header_is_refused_by_name(name: str) -> None:
    headers = without(dead_letter.encode_headers(LETTER), name)
    with pytest.raises(ValueError, match="version" if name == "v" else name):
        dead_letter.decode(record_of(LETTER, headers))


@pytest.mark.parametrize(
    ("name", "value"),
    [("v", b"9"), ("reason", b"whim"), ("partition", b"x"), ("offset", b""), ("tenant", b"\xff")],
)
def test_a_dead_letter_that_cannot_be_read_is_refused(name: str, value: bytes) -> None:
    headers = with_value(dead_letter.encode_headers(LETTER), name, value)
    with pytest.raises(ValueError):  # noqa: PT011 - the words are those of several parsers
        dead_letter.decode(record_of(LETTER, headers))
