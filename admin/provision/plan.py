"""What provisioning has to do: topics, buckets and mappings as they are and as they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from adapters.influx.admin import Bucket, InfluxAdmin, default_shard_s
from adapters.kafka.admin import KafkaAdmin, TopicDescription, TopicSpec
from schemas.log.protocols import DEAD_LETTER_TOPIC, topic_of
from schemas.retention import DEFAULT_CLASS, Kind, RetentionClass, format_duration

_DAY_MS = 86_400_000

#: Long enough to read again what a long weekend of a broken store left behind.
LOG_KEEP_MS = 7 * _DAY_MS

#: Dead letters wait for a person.
DEAD_LETTER_KEEP_MS = 30 * _DAY_MS

#: Fixed once data flows: the partition of a stream depends on their number.
PARTITIONS = 12


class Action(StrEnum):
    """What becomes of one thing."""

    CREATE = "create"
    CHANGE = "change"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the plan. shortens: data that is there now would go sooner."""

    what: str
    name: str
    action: Action
    detail: str
    apply: Callable[[], object] | None = None
    shortens: bool = False


def plan_topics(
    kafka: KafkaAdmin, classes: Mapping[str, RetentionClass], partitions: int = PARTITIONS
) -> Iterator[Change]:
    """A topic for each ingest class, and the dead letters'. Raises LogUnavailable.

    Partitions and replicas of a topic that is there stay as they are; the detail says so
    where they differ.
    """
    brokers = kafka.broker_count()
    existing = kafka.describe_topics()
    keep_ms = {topic_of(c.name): LOG_KEEP_MS for c in classes.values() if c.kind is Kind.INGEST}
    for name, retention_ms in (keep_ms | {DEAD_LETTER_TOPIC: DEAD_LETTER_KEEP_MS}).items():
        wanted = TopicSpec(
            name,
            partitions,
            replication=min(3, brokers),
            retention_ms=retention_ms,
            min_insync_replicas=2 if brokers >= 3 else 1,
        )
        found = existing.get(name)
        if found is None:
            yield Change(
                "topic",
                name,
                Action.CREATE,
                _of_topic(wanted),
                _bound(kafka.create_topics, [wanted]),
            )
        else:
            yield _topic_change(kafka, wanted, found)


def plan_buckets(
    influx: InfluxAdmin, classes: Mapping[str, RetentionClass], namespaces: Iterable[str]
) -> Iterator[Change]:
    """A bucket for each class of each namespace. Raises a StoreError."""
    existing = influx.buckets()
    for namespace in namespaces:
        for wanted in classes.values():
            name = wanted.bucket(namespace)
            found = existing.get(name)
            if found is None:
                yield Change(
                    "bucket",
                    name,
                    Action.CREATE,
                    _of_bucket(wanted.keep_s, wanted.shard_s),
                    _bound(influx.create_bucket, name, wanted.keep_s, wanted.shard_s),
                )
            else:
                yield _bucket_change(influx, wanted, found)


def plan_mappings(influx: InfluxAdmin, namespaces: Iterable[str]) -> Iterator[Change]:
    """Class raw as what InfluxQL means by a namespace alone. Raises a StoreError."""
    for namespace in namespaces:
        found = influx.default_mapping(namespace)
        detail = f"default is {DEFAULT_CLASS}"
        if found == DEFAULT_CLASS:
            yield Change("mapping", namespace, Action.KEEP, detail)
            continue
        bucket = f"{namespace}/{DEFAULT_CLASS}"
        apply = _bound(influx.map_default, namespace, DEFAULT_CLASS, bucket)
        if found is None:
            yield Change("mapping", namespace, Action.CREATE, detail, apply)
        else:
            yield Change("mapping", namespace, Action.CHANGE, f"{detail}, was {found}", apply)


def _topic_change(kafka: KafkaAdmin, wanted: TopicSpec, found: TopicDescription) -> Change:
    stays = [
        f"has {has} {what}, not {wants}: left as it is"
        for what, has, wants in (
            ("partitions", found.partitions, wanted.partitions),
            ("replicas", found.replication, wanted.replication),
        )
        if has != wants
    ]
    if found.retention_ms == wanted.retention_ms:
        detail = "; ".join(stays) or _of_topic(wanted)
        return Change("topic", wanted.name, Action.KEEP, detail)
    keeps = f"keeps {_keep_ms(found.retention_ms)} → {_keep_ms(wanted.retention_ms)}"
    return Change(
        "topic",
        wanted.name,
        Action.CHANGE,
        "; ".join([keeps, *stays]),
        _bound(kafka.set_retention, wanted.name, wanted.retention_ms),
        shortens=_is_shorter(wanted.retention_ms, found.retention_ms),
    )


def _bucket_change(influx: InfluxAdmin, wanted: RetentionClass, found: Bucket) -> Change:
    """Where the class leaves the shard duration open, it changes with the retention only."""
    shard_s = wanted.shard_s
    if shard_s is None:
        unchanged = wanted.keep_s == found.keep_s
        shard_s = found.shard_s if unchanged else default_shard_s(wanted.keep_s)
    before, after = _of_bucket(found.keep_s, found.shard_s), _of_bucket(wanted.keep_s, shard_s)
    if before == after:
        return Change("bucket", found.name, Action.KEEP, after)
    return Change(
        "bucket",
        found.name,
        Action.CHANGE,
        f"{before} → {after}",
        _bound(influx.update_bucket, found.name, wanted.keep_s, shard_s),
        shortens=_is_shorter(wanted.keep_s, found.keep_s),
    )


def _bound(function: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: function(*arguments)


def _is_shorter(new: int | None, old: int | None) -> bool:
    """Whether a retention keeps less than another; None keeps for ever."""
    return new is not None and (old is None or new < old)


def _of_topic(topic: TopicSpec) -> str:
    return (
        f"{topic.partitions} partitions, {topic.replication} replicas, "
        f"keeps {_keep_ms(topic.retention_ms)}"
    )


def _of_bucket(keep_s: int | None, shard_s: int | None) -> str:
    shards = "" if shard_s is None else f", shards of {format_duration(shard_s)}"
    return f"keeps {format_duration(keep_s)}{shards}"


def _keep_ms(retention_ms: int | None) -> str:
    return format_duration(None if retention_ms is None else retention_ms // 1000)
