"""retention.toml: classes that log and store can have, or InvalidRetention."""

from __future__ import annotations

from schemas.log.protocols import DEAD_LETTER_TOPIC, class_of, topic_of
from schemas.retention import (
    InvalidRetention,
    Kind,
    format_duration,
    parse,
    parse_duration,
)

TOKENS = (
    *(b"[classes.raw]\n", b"[classes.steps]\n", b"[classes.events]\n", b'kind = "ingest"\n'),
    *(b'kind = "derived"\n', b'keep = "90d"\n', b'keep = "forever"\n', b'shard = "7d"\n'),
    *(b'"24h"', b'"2y"', b"[" * 9, b"{a=" * 9, b"9" * 50, b'"""', b"[classes.dlq]\n"),
)


def check(data: bytes) -> None:
    try:
        classes = parse(data.decode("utf-8", "replace"))
    except InvalidRetention as exc:
        assert str(exc)
        return
    assert {"raw", "events", "steps"} <= classes.keys()
    for name, found in classes.items():
        assert found.name == name
        if found.kind is Kind.INGEST:
            assert class_of(topic_of(name)) == name
            assert topic_of(name) != DEAD_LETTER_TOPIC
        for seconds in (found.keep_s, found.shard_s):
            assert parse_duration(format_duration(seconds)) == seconds
            # Databases and Kafka count in signed 64-bit nanoseconds and milliseconds.
            assert seconds is None or 0 < seconds * 10**9 < 2**63
