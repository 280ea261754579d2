"""A dead letter: lines that the store or the worker refused, kept whole with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from schemas.log.protocols import Headers, Record

VERSION = b"1"


class Reason(StrEnum):
    """Why lines went to the dead letters; one word for counters and filters."""

    MALFORMED = "malformed"  # the exact parser refuses the line
    REFUSED = "refused"  # the store refuses this line alone (type conflict, retention, …)
    UNRESOLVED = "unresolved"  # the probe budget ran out before the culprit was found
    MISCONFIGURED = "misconfigured"  # token, organisation or bucket wrong for over a minute
    UNKNOWN_BLOCK = "unknown_block"  # a block version this release can't read
    POISON = "poison"  # each write of this line fails, or brings the store down
    TOO_LARGE = "too_large"  # one line that the store won't take for its size


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Original bytes and where they came from.

    view: "wall" or "steps", the view that refused; lines are as they stood in the log,
    not as the view transformed them. detail: the refusing party's own words.
    """

    lines: bytes
    reason: Reason
    detail: str
    tenant: str
    namespace: str
    view: str
    precision: str
    topic: str
    partition: int
    offset: int


def encode_headers(letter: DeadLetter) -> Headers:
    """Record headers; the record's value is `letter.lines`."""
    return (
        ("v", VERSION),
        ("reason", letter.reason.value.encode()),
        ("detail", letter.detail[:1000].encode()),
        ("tenant", letter.tenant.encode()),
        ("namespace", letter.namespace.encode()),
        ("view", letter.view.encode()),
        ("precision", letter.precision.encode()),
        ("topic", letter.topic.encode()),
        ("partition", b"%d" % letter.partition),
        ("offset", b"%d" % letter.offset),
    )


def decode(record: Record) -> DeadLetter:
    """The dead letter in a record. Raises ValueError for one that can't be read."""
    found = dict(record.headers)
    if found.get("v") != VERSION:
        raise ValueError(f"dead letter version {found.get('v')!r} is not known to this release")
    try:
        return DeadLetter(
            lines=record.value,
            reason=Reason(found["reason"].decode()),
            detail=found["detail"].decode(errors="replace"),
            tenant=found["tenant"].decode(),
            namespace=found["namespace"].decode(),
            view=found["view"].decode(),
            precision=found["precision"].decode(),
            topic=found["topic"].decode(),
            partition=int(found["partition"]),
            offset=int(found["offset"]),
        )
    except KeyError as exc:
        raise ValueError(f"dead letter lacks header {exc.args[0]!r}") from exc
