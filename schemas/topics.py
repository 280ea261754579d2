"""Names of the topics in the log."""

from __future__ import annotations

PREFIX = "stepclock."

#: Where lines go that the store refused, with the reason in the record's headers.
DEAD_LETTER_TOPIC = PREFIX + "dlq"


def topic_of(retention_class: str) -> str:
    """The topic that carries an ingest class: ``raw`` -> ``stepclock.raw``."""
    return PREFIX + retention_class


def class_of(topic: str) -> str:
    """The retention class that a topic carries: ``stepclock.raw`` -> ``raw``."""
    if not topic.startswith(PREFIX):
        raise ValueError(f"topic {topic!r} does not begin with {PREFIX!r}")
    return topic[len(PREFIX) :]
