"""A block: the record that travels in the log, lines of one tenant joined by newline.

The gateway encodes it once; nobody parses the lines again on the way. What a reader must
know without parsing stands in the record's headers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from typing import Any

from schemas.line_protocol.precision import BLOCK_PRECISIONS, Precision
from schemas.log.protocols import Headers

VERSION = b"1"

#: Largest value of one record. Kafka's default limit for a topic is 1 MiB.
MAX_BLOCK_BYTES = 512 * 1024

#: A block of many small requests names at most this many of their deliveries.
MAX_DELIVERIES = 256

_INT64_MAX = 2**63 - 1
_MAX_DIGITS = len(str(_INT64_MAX))


class ForeignRecord(Exception):
    """A record without `v`: something other than the gateway wrote it; validate its lines."""


class UnknownBlock(Exception):
    """A block of a version or with headers that this release can't read: dead-letter it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one request put into a block, as its client names it (headers ``Stepclock-…``).

    start: when the stream began, Unix time in ns; 0 where the client did not say. part: which
    piece of the request this is, from 0 to parts - 1. first: its first line in the block,
    from 0; points: how many lines.
    """

    stream: str
    sequence: int
    start: int
    experiment: str
    run: str
    part: int
    parts: int
    first: int
    points: int


_DELIVERY_TYPES = [str if field.type == "str" else int for field in fields(Delivery)]


@dataclass(frozen=True, slots=True)
class Block:
    """Validated lines, every one timed, of one tenant, namespace and precision.

    multiline: a string field holds a newline, so only the exact parser may split `lines`.
    received_ns: when the gateway received the oldest request in it (Unix time).
    view: the one view that lacks the lines, as a replay says; None means every view. A
    release that does not know the header writes every view, which overwrites equal points.
    """

    tenant: str
    namespace: str
    precision: Precision
    points: int
    received_ns: int
    lines: bytes
    multiline: bool = False
    deliveries: tuple[Delivery, ...] = ()
    traceparent: str | None = None
    view: str | None = None


def encode_headers(block: Block) -> Headers:
    """The record headers of a block; its value is `block.lines` as it is."""
    headers = [
        ("v", VERSION),
        ("tenant", block.tenant.encode()),
        ("namespace", block.namespace.encode()),
        ("precision", block.precision.value.encode()),
        ("points", b"%d" % block.points),
        ("received_ns", b"%d" % block.received_ns),
    ]
    if block.multiline:
        headers.append(("multiline", b"1"))
    if block.deliveries:
        headers.append(("deliveries", _encode_deliveries(block.deliveries)))
    if block.traceparent is not None:
        headers.append(("traceparent", block.traceparent.encode()))
    if block.view is not None:
        headers.append(("view", block.view.encode()))
    return tuple(headers)


def decode(headers: Headers, value: bytes) -> Block:
    """The block that a record holds.

    Raises ForeignRecord for a record without `v`, UnknownBlock for one that says `v` but
    can't be read by this release.
    """
    found = dict(headers)
    version = found.get("v")
    if version is None:
        raise ForeignRecord
    if version != VERSION:
        raise UnknownBlock(f"block version {version!r} is not known to this release")
    try:
        precision = Precision(found["precision"].decode())
        if precision not in BLOCK_PRECISIONS:
            raise ValueError(f"precision {precision.value!r} can't stand in a block")
        traceparent = found.get("traceparent")
        view = found.get("view")
        return Block(
            tenant=found["tenant"].decode(),
            namespace=found["namespace"].decode(),
            precision=precision,
            points=number(found["points"]),
            received_ns=number(found["received_ns"]),
            lines=value,
            multiline=found.get("multiline") == b"1",
            deliveries=_decode_deliveries(found.get("deliveries", b"[]")),
            traceparent=None if traceparent is None else traceparent.decode(),
            view=None if view is None else view.decode(),
        )
    except (KeyError, ValueError, TypeError, RecursionError) as exc:
        raise UnknownBlock(f"block headers can't be read: {exc!r}") from exc


def _encode_deliveries(deliveries: Iterable[Delivery]) -> bytes:
    rows = [astuple(delivery) for delivery in deliveries]
    return json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()


def _decode_deliveries(data: bytes) -> tuple[Delivery, ...]:
    rows = json.loads(data)
    if not isinstance(rows, list):
        raise ValueError("deliveries is not a list")
    return tuple(Delivery(*_checked(row)) for row in rows)


def _checked(row: list[Any]) -> list[Any]:
    """The members of a delivery, if they are such as a gateway writes."""
    if [type(member) for member in row] != _DELIVERY_TYPES:
        raise ValueError("a delivery has members of other types")
    for member in row:
        if isinstance(member, str):
            member.encode()  # a lone surrogate is a ValueError
        elif not 0 <= member <= _INT64_MAX:
            raise ValueError("a number of a delivery is out of range")
    return row


def number(digits: bytes) -> int:
    """A count or a time of a block: digits alone, which int() is not content with.

    Raises ValueError.
    """
    if not digits.isdigit() or len(digits) > _MAX_DIGITS or int(digits) > _INT64_MAX:
        raise ValueError(f"{digits[:20]!r} is no number of 0 to 2^63-1")
    return int(digits)
