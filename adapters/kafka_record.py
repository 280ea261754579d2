"""A record of kafka-python as ours."""

from __future__ import annotations

from typing import Any

from schemas.log import Record


def to_record(found: Any) -> Record:
    """Our record. Kafka knows absent values; to us, who never send one, they are empty."""
    return Record(
        topic=found.topic,
        partition=found.partition,
        offset=found.offset,
        value=b"" if found.value is None else bytes(found.value),
        headers=tuple((n, b"" if v is None else bytes(v)) for n, v in found.headers),
        timestamp_ms=found.timestamp,
    )
