"""Topics, brokers and committed offsets of a Kafka cluster, as `provision` and receipts need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from adapters.kafka.client import (
    ConfigResource,
    OffsetSpec,
    connect_admin,
    errors,
    from_library,
    to_library,
    unavailable_if_any,
)
from adapters.kafka.connection import KafkaConnection
from schemas.log.protocols import LogUnavailable, RecordRefused, TopicPartition
from schemas.log.ranges import LogRange

#: Halvings of a span of time: enough for a thousandth of it.
_BISECTIONS = 10


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as it stands. retention_ms None means for ever.

    leaderless: how many partitions can't take or give records now.
    """

    partitions: int
    replication: int
    retention_ms: int | None
    leaderless: int = 0


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic to make. retention_ms None means for ever."""

    name: str
    partitions: int
    replication: int
    retention_ms: int | None
    min_insync_replicas: int = 1


class KafkaAdmin:
    """Reads and changes topics. Connects at the first call. Used by one thread at a time.

    Every method raises LogUnavailable when the cluster did not answer within timeout_s, or
    refused for a reason that is not ours (its words are in the message).
    """

    def __init__(self, servers: KafkaConnection | str, *, timeout_s: float = 10.0) -> None:
        self._servers = servers
        self._timeout_s = timeout_s
        self._client: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def partition_counts(self, topics: Iterable[str] | None = None) -> dict[str, int]:
        """Partitions by topic, of all topics or of those named; unknown ones are left out.

        Raises LogUnavailable too where a partition of a named topic has no leader.
        """
        wanted = None if topics is None else set(topics)
        counts = {}
        for row in self._topic_rows():
            if wanted is not None and row["name"] not in wanted:
                continue
            if wanted is not None and _leaderless(row):
                raise LogUnavailable(f"topic {row['name']}: a partition has no leader")
            counts[row["name"]] = len(row["partitions"])
        return counts

    def describe_topics(self) -> dict[str, TopicDescription]:
        """Every topic that is not Kafka's own."""
        rows = [row for row in self._topic_rows() if not row["is_internal"]]
        resources = [ConfigResource("topic", row["name"], ["retention.ms"]) for row in rows]
        with unavailable_if_any("describing topics"):
            answer = self._connected().describe_configs(resources, config_filter="all")
        retention = answer.get("topic", {})
        return {
            row["name"]: TopicDescription(
                partitions=len(row["partitions"]),
                replication=min(len(p["replica_nodes"]) for p in row["partitions"]),
                retention_ms=_retention(retention[row["name"]]["retention.ms"]["value"]),
                leaderless=_leaderless(row),
            )
            for row in rows
        }

    def create_topics(self, topics: Iterable[TopicSpec]) -> list[str]:
        """Make the topics that don't exist; say which were made. Others are left as they are."""
        wanted = {
            topic.name: {
                "num_partitions": topic.partitions,
                "replication_factor": topic.replication,
                "configs": {
                    "retention.ms": _retention_text(topic.retention_ms),
                    "min.insync.replicas": str(topic.min_insync_replicas),
                },
            }
            for topic in topics
        }
        if not wanted:
            return []
        made = []
        with unavailable_if_any("creating topics"):
            admin = self._connected()
            answer = admin.create_topics(wanted, raise_errors=False)
            for row in answer["topics"]:
                error = errors.for_code(row["error_code"])
                if error is errors.NoError:
                    made.append(row["name"])
                elif error is not errors.TopicAlreadyExistsError:
                    raise LogUnavailable(
                        f"creating topic {row['name']}: {error.__name__} {row['error_message']}"
                    )
            admin.wait_for_topics(list(wanted), timeout_ms=int(self._timeout_s * 1000))
        return sorted(made)

    def set_retention(self, topic: str, retention_ms: int | None) -> None:
        """Keep the topic's records for retention_ms; None keeps them for ever."""
        change = ConfigResource("topic", topic, {"retention.ms": _retention_text(retention_ms)})
        with unavailable_if_any(f"setting retention of {topic}"):
            answer = self._connected().alter_configs([change], raise_on_unknown=False)
        outcome = answer["topic"][topic]
        if outcome != "OK":
            raise LogUnavailable(f"setting retention of {topic}: {outcome}")

    def broker_count(self) -> int:
        """How many brokers are there now."""
        with unavailable_if_any("counting brokers"):
            brokers = self._connected().describe_cluster()["brokers"]
        return sum(not broker.get("is_fenced", False) for broker in brokers)

    def committed(self, group_id: str) -> dict[TopicPartition, int]:
        """Every offset that a consumer group has committed; {} for an unknown group."""
        with unavailable_if_any(f"reading offsets of group {group_id}"):
            answer = self._connected().list_group_offsets({group_id: None})
        return {
            from_library(partition): found.offset
            for partition, found in answer[group_id].items()
            if found.offset >= 0
        }

    def offset_bounds(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, int]]:
        """The first offset that each partition holds, and the one its next record will get."""
        named = [to_library(partition) for partition in partitions]
        if not named:
            return {}
        with unavailable_if_any("reading offsets"):
            admin = self._connected()
            starts = admin.list_partition_offsets(dict.fromkeys(named, OffsetSpec.EARLIEST))
            ends = admin.list_partition_offsets(dict.fromkeys(named, OffsetSpec.LATEST))
        return {from_library(p): (starts[p].offset, ends[p].offset) for p in named}

    def ranges_since(
        self, topics: Iterable[str], since_ms: int | None
    ) -> dict[TopicPartition, LogRange]:
        """What each partition of these topics holds now of what was written since then.

        A range begins at the first record whose time, which its writer gave it, is since_ms
        (Unix time) or later; None means the first that is there. Raises RecordRefused for a
        topic that does not exist.
        """
        wanted = list(topics)
        counts = self.partition_counts(wanted)
        for topic in wanted:
            if topic not in counts:
                raise RecordRefused(f"no topic {topic!r}")
        named = [to_library(TopicPartition(t, p)) for t in wanted for p in range(counts[t])]
        if not named:
            return {}
        with unavailable_if_any("looking up times"):
            admin = self._connected()
            starts = admin.list_partition_offsets(dict.fromkeys(named, OffsetSpec.EARLIEST))
            found = admin.list_partition_offsets(dict.fromkeys(named, since_ms or 0))
            # Last: what comes meanwhile lies within the range, not before it.
            ends = admin.list_partition_offsets(dict.fromkeys(named, OffsetSpec.LATEST))
        ranges = {}
        for partition in named:
            start, end = starts[partition].offset, ends[partition].offset
            first = found[partition]  # its offset is -1 where nothing was written since
            cut = since_ms is not None and 0 < first.offset == start and first.timestamp > since_ms
            if since_ms is not None:
                start = first.offset if first.offset >= 0 else end
            ranges[from_library(partition)] = LogRange(
                start, max(start, end), max(0, first.timestamp), cut
            )
        return ranges

    def written_ms(
        self, offsets: Mapping[TopicPartition, int], *, since_ms: int, until_ms: int
    ) -> dict[TopicPartition, int]:
        """When the records at these offsets were written (Unix time), or somewhat before.

        Searched by bisection between since_ms and until_ms, to 1/1000 of that span: brokers
        look a time up in an index, and no record is transferred. Times outside the span come
        out as its ends.
        """
        low = {to_library(partition): since_ms for partition in offsets}
        high = dict.fromkeys(low, until_ms)
        for _ in range(_BISECTIONS if low else 0):
            middle = {p: (low[p] + high[p]) // 2 for p in low}
            with unavailable_if_any("looking up times"):
                first_since = self._connected().list_partition_offsets(middle)
            for partition, time_ms in middle.items():
                found = first_since[partition].offset  # -1: nothing was written since
                if 0 <= found <= offsets[from_library(partition)]:
                    low[partition] = time_ms
                else:
                    high[partition] = time_ms
        return {from_library(partition): time_ms for partition, time_ms in low.items()}

    def member_count(self, group_id: str) -> int:
        """How many consumers the group has now; 0 for an unknown group."""
        with unavailable_if_any(f"describing group {group_id}"):
            group = self._connected().describe_groups([group_id])[group_id]
        return len(group["members"])

    def close(self) -> None:
        """Disconnect. Idempotent; a later call connects again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> Any:
        if self._client is None:
            self._client = connect_admin(self._servers, timeout_s=self._timeout_s)
        return self._client

    def _topic_rows(self) -> list[dict[str, Any]]:
        with unavailable_if_any("listing topics"):
            rows: list[dict[str, Any]] = self._connected().describe_topics()
        return rows


def _leaderless(row: dict[str, Any]) -> int:
    return sum(partition["leader_id"] < 0 for partition in row["partitions"])


def _retention(text: str) -> int | None:
    return None if text == "-1" else int(text)


def _retention_text(retention_ms: int | None) -> str:
    return "-1" if retention_ms is None else str(retention_ms)
