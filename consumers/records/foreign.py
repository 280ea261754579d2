"""Records that no gateway wrote, such as Telegraf's: validated here, line by line."""

from __future__ import annotations

from dataclasses import dataclass, replace

from consumers.views import describe
from schemas.line_protocol.bounds import MAX_TIME_NS
from schemas.line_protocol.codec import Refused, encode, parse, split
from schemas.line_protocol.precision import BLOCK_PRECISIONS, Precision
from schemas.log.block import Block
from schemas.log.dead_letter import DeadLetter, Reason
from schemas.log.protocols import Record

#: What points from such records are counted under.
TENANT = "foreign"

DEFAULT_NAMESPACE = "stepclock"


@dataclass(frozen=True, slots=True)
class ForeignLines:
    """The good lines of a foreign record as a block, and the others as dead letters."""

    block: Block
    refused: tuple[DeadLetter, ...]


def admit(record: Record) -> ForeignLines:
    """Validate a record without `v` by the exact parser.

    Header `namespace` says where its points belong, else it is "stepclock"; header
    `precision` the unit of its times, else ns. Lines without a time get the record's, one
    more ns for each line so that none overwrites another; reading again gives the same.
    The block is always in ns; a line that already is stays as it is, byte for byte.
    """
    headers = dict(record.headers)
    received_ns = record.timestamp_ms * Precision.MS.ns
    try:
        namespace = headers.get("namespace", DEFAULT_NAMESPACE.encode()).decode()
        precision = Precision(headers.get("precision", b"ns").decode())
        if precision not in BLOCK_PRECISIONS or not 0 < len(namespace) < 64:
            raise ValueError("header namespace is empty or too long, or precision none of ns to s")
    except ValueError as exc:
        everything = _letter(record, record.value, str(exc), DEFAULT_NAMESPACE, Precision.NS)
        return ForeignLines(_block(DEFAULT_NAMESPACE, received_ns, []), (everything,))
    good: list[bytes] = []
    bad: dict[tuple[str, int], list[bytes]] = {}
    for number, line in split(record.value):
        try:
            good.append(_timed(line, precision, received_ns + number))
        except Refused as exc:
            # Behind one with an open quote, the next line would be read as the rest of its string.
            alone = number if b'"' in line else 0
            bad.setdefault((describe(exc), alone), []).append(line)
    letters = tuple(
        _letter(record, b"\n".join(lines), detail, namespace, precision)
        for (detail, _), lines in bad.items()
    )
    return ForeignLines(_block(namespace, received_ns, good), letters)


def _timed(line: bytes, precision: Precision, stamp_ns: int) -> bytes:
    parsed = parse(line)
    if parsed.time is None:
        return encode(replace(parsed, time=stamp_ns))
    time_ns = parsed.time * precision.ns
    if abs(time_ns) > MAX_TIME_NS:
        raise Refused(len(line), "time is outside the years 1677 to 2262")
    return line if precision is Precision.NS else encode(replace(parsed, time=time_ns))


def _block(namespace: str, received_ns: int, lines: list[bytes]) -> Block:
    return Block(
        tenant=TENANT,
        namespace=namespace,
        precision=Precision.NS,
        points=len(lines),
        received_ns=received_ns,
        lines=b"\n".join(lines),
        multiline=any(b"\n" in line for line in lines),
    )


def _letter(
    record: Record, lines: bytes, detail: str, namespace: str, precision: Precision
) -> DeadLetter:
    return DeadLetter(
        lines=lines,
        reason=Reason.MALFORMED,
        detail=detail,
        tenant=TENANT,
        namespace=namespace,
        view="wall",
        precision=precision.value,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
    )
