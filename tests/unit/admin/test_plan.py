"""The plan of provisioning: pure comparison, against clusters that are described here."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from adapters.influx.admin import Bucket, Task, default_shard_s
from adapters.kafka.admin import TopicDescription, TopicSpec
from admin.provision.command import NeedsConsent, provision
from admin.provision.plan import Action, plan_buckets, plan_mappings, plan_topics
from schemas import retention

CLASSES = retention.parse(retention.default_text())
DAY_MS = 86_400_000
DAY_S = 86_400


class FakeKafka:
    def __init__(self, brokers: int = 1) -> None:
        self.brokers = brokers
        self.topics: dict[str, TopicDescription] = {}
        self.specs: dict[str, TopicSpec] = {}

    def broker_count(self) -> int:
        return self.brokers

    def describe_topics(self) -> dict[str, TopicDescription]:
        return dict(self.topics)

    def create_topics(self, topics: list[TopicSpec]) -> list[str]:
        for spec in topics:
            self.specs[spec.name] = spec
            self.topics[spec.name] = TopicDescription(
                spec.partitions, spec.replication, spec.retention_ms
            )
        return [spec.name for spec in topics]

    def set_retention(self, topic: str, retention_ms: int | None) -> None:
        self.topics[topic] = replace(self.topics[topic], retention_ms=retention_ms)


class FakeInflux:
    def __init__(self) -> None:
        self.found: dict[str, Bucket] = {}
        self.mappings: dict[str, str] = {}
        self.found_tasks: list[Task] = []

    def tasks(self) -> list[Task]:
        return list(self.found_tasks)

    def create_task(self, flux: str) -> None:
        name = re.search(r'name: "(.*?)"', flux)[1]
        self.found_tasks.append(Task(str(len(self.found_tasks)), name, flux, True))

    def update_task(self, task_id: str, flux: str, *, is_active: bool) -> None:
        at = int(task_id)
        self.found_tasks[at] = replace(self.found_tasks[at], flux=flux, is_active=is_active)

    def buckets(self) -> dict[str, Bucket]:
        return dict(self.found)

    def create_bucket(self, name: str, keep_s: int | None, shard_s: int | None) -> None:
        assert name not in self.found
        self.found[name] = Bucket(name, keep_s, shard_s or default_shard_s(keep_s))

    def update_bucket(self, name: str, keep_s: int | None, shard_s: int) -> None:
        assert name in self.found
        self.found[name] = Bucket(name, keep_s, shard_s)

    def default_mapping(self, database: str) -> str | None:
        return self.mappings.get(database)

    def map_default(self, database: str, retention_policy: str, bucket: str) -> None:
        assert bucket in self.found
        self.mappings[database] = retention_policy


class Cluster:
    """Kafka and InfluxDB, and what provisioning them printed."""

    def __init__(self, brokers: int = 1) -> None:
        self.kafka = FakeKafka(brokers)
        self.influx = FakeInflux()
        self.classes = dict(CLASSES)
        self.printed = ""
        self.tasks: dict[str, tuple[Action, str]] = {}

    def provision(self, *namespaces: str, **options: bool) -> dict[str, tuple[Action, str]]:
        output = io.StringIO()
        try:
            plan = provision(
                self.kafka,
                self.influx,
                self.classes,
                namespaces or ["stepclock"],
                console=Console(file=output, width=200),
                **options,
            )
        finally:
            self.printed = output.getvalue()
        self.tasks = {c.name: (c.action, c.detail) for c in plan if c.what == "task"}
        return {c.name: (c.action, c.detail) for c in plan if c.what != "task"}

    def roll_up(self, **changes: object) -> None:
        rollup = self.classes["rollup_5m"].rollup
        wanted = replace(rollup, **changes) if changes else None
        self.classes["rollup_5m"] = replace(self.classes["rollup_5m"], rollup=wanted)

    def keep(self, retention_class: str, keep_s: int | None) -> None:
        self.classes[retention_class] = replace(self.classes[retention_class], keep_s=keep_s)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_an_empty_cluster_gets_topics_buckets_and_the_mapping(cluster: Cluster) -> None:
    plan = cluster.provision()
    assert {action for action, _detail in plan.values()} == {Action.CREATE}
    assert set(cluster.kafka.topics) == {
        "stepclock.raw",
        "stepclock.system",
        "stepclock.events",
        "stepclock.dlq",
    }
    assert cluster.kafka.topics["stepclock.raw"] == TopicDescription(12, 1, 7 * DAY_MS)
    assert cluster.influx.found["stepclock/raw"] == Bucket("stepclock/raw", 90 * DAY_S, DAY_S)
    assert cluster.influx.found["stepclock/steps"].keep_s is None
    assert cluster.influx.found["stepclock/steps"].shard_s == 100 * 365 * DAY_S
    assert cluster.influx.mappings == {"stepclock": "raw"}
    assert "done" in cluster.printed


def test_a_second_run_has_nothing_to_do(cluster: Cluster) -> None:
    cluster.provision("stepclock", "vision")
    plan = cluster.provision("stepclock", "vision", "stepclock")
    assert {action for action, _detail in plan.values()} == {Action.KEEP}
    assert "nothing to do" in cluster.printed


def test_every_namespace_gets_buckets_and_a_mapping(cluster: Cluster) -> None:
    cluster.provision("stepclock", "vision")
    assert len(cluster.influx.found) == 2 * len(CLASSES)
    assert cluster.influx.mappings == {"stepclock": "raw", "vision": "raw"}


def test_a_dry_run_changes_nothing(cluster: Cluster) -> None:
    cluster.provision(dry_run=True)
    assert not cluster.kafka.topics
    assert not cluster.influx.found
    assert "nothing was changed" in cluster.printed


def test_a_dry_run_shows_a_shorter_retention_without_consent(cluster: Cluster) -> None:
    cluster.provision()
    cluster.keep("raw", 30 * DAY_S)
    plan = cluster.provision(dry_run=True)
    assert plan["stepclock/raw"] == (
        Action.CHANGE,
        "keeps 90d, shards of 1d → keeps 30d, shards of 1d",
    )


def test_a_longer_retention_needs_no_consent(cluster: Cluster) -> None:
    cluster.provision()
    cluster.keep("system", None)
    cluster.provision()
    assert cluster.influx.found["stepclock/system"] == Bucket("stepclock/system", None, 7 * DAY_S)


def test_a_shorter_retention_is_shown_and_refused_without_consent(cluster: Cluster) -> None:
    cluster.provision()
    cluster.keep("raw", 30 * DAY_S)
    cluster.keep("events", 500 * DAY_S)
    before = cluster.influx.buckets()
    with pytest.raises(NeedsConsent, match="stepclock/raw"):
        cluster.provision()
    assert cluster.influx.buckets() == before
    assert "90d, shards of 1d → keeps 30d" in cluster.printed
    cluster.provision(yes=True)
    assert cluster.influx.found["stepclock/raw"].keep_s == 30 * DAY_S
    assert cluster.influx.found["stepclock/events"].keep_s == 500 * DAY_S


def test_from_for_ever_to_anything_is_shorter(cluster: Cluster) -> None:
    cluster.provision()
    cluster.influx.found["stepclock/raw"] = Bucket("stepclock/raw", None, 7 * DAY_S)
    with pytest.raises(NeedsConsent):
        cluster.provision()


def test_a_shard_duration_that_the_class_leaves_open_is_left_alone(cluster: Cluster) -> None:
    cluster.provision()
    cluster.influx.found["stepclock/raw"] = Bucket("stepclock/raw", 90 * DAY_S, 3 * DAY_S)
    assert cluster.provision()["stepclock/raw"][0] is Action.KEEP


def test_a_shard_duration_follows_a_retention_that_it_would_not_fit(cluster: Cluster) -> None:
    cluster.provision()
    cluster.keep("raw", 3600)
    cluster.provision(yes=True)
    assert cluster.influx.found["stepclock/raw"] == Bucket("stepclock/raw", 3600, 3600)


def test_a_shard_duration_of_the_class_is_enforced(cluster: Cluster) -> None:
    cluster.provision()
    cluster.influx.found["stepclock/steps"] = Bucket("stepclock/steps", None, 7 * DAY_S)
    assert cluster.provision()["stepclock/steps"][0] is Action.CHANGE
    assert cluster.influx.found["stepclock/steps"].shard_s == 100 * 365 * DAY_S


def test_partitions_and_replicas_of_a_topic_stay_and_the_plan_says_so() -> None:
    cluster = Cluster(brokers=3)
    cluster.kafka.topics["stepclock.raw"] = TopicDescription(4, 1, 7 * DAY_MS)
    action, detail = cluster.provision()["stepclock.raw"]
    assert action is Action.KEEP
    assert "has 4 partitions, not 12: left as it is" in detail
    assert "has 1 replicas, not 3: left as it is" in detail
    assert cluster.kafka.topics["stepclock.raw"].partitions == 4


def test_a_topic_that_keeps_too_little_is_changed(cluster: Cluster) -> None:
    cluster.kafka.topics["stepclock.raw"] = TopicDescription(12, 1, DAY_MS)
    assert cluster.provision()["stepclock.raw"] == (Action.CHANGE, "keeps 1d → 7d")
    assert cluster.kafka.topics["stepclock.raw"].retention_ms == 7 * DAY_MS


def test_a_topic_that_keeps_longer_is_shortened_with_consent_only(cluster: Cluster) -> None:
    cluster.kafka.topics["stepclock.raw"] = TopicDescription(12, 1, None)
    with pytest.raises(NeedsConsent, match=r"stepclock\.raw"):
        cluster.provision()
    assert set(cluster.kafka.topics) == {"stepclock.raw"}
    cluster.provision(yes=True)
    assert cluster.kafka.topics["stepclock.raw"].retention_ms == 7 * DAY_MS


@pytest.mark.parametrize(
    ("brokers", "replicas", "in_sync"), [(1, 1, 1), (2, 2, 1), (3, 3, 2), (5, 3, 2)]
)
def test_replicas_follow_the_brokers(brokers: int, replicas: int, in_sync: int) -> None:
    cluster = Cluster(brokers)
    cluster.provision()
    spec = cluster.kafka.specs["stepclock.raw"]
    assert (spec.replication, spec.min_insync_replicas) == (replicas, in_sync)


def test_a_foreign_default_mapping_is_changed(cluster: Cluster) -> None:
    cluster.provision()
    cluster.influx.mappings["stepclock"] = "steps"
    assert cluster.provision()["stepclock"] == (Action.CHANGE, "default is raw, was steps")
    assert cluster.influx.mappings["stepclock"] == "raw"


def test_planning_alone_changes_nothing(cluster: Cluster) -> None:
    plan = [
        *plan_topics(cluster.kafka, CLASSES),
        *plan_buckets(cluster.influx, CLASSES, ["a"]),
        *plan_mappings(cluster.influx, ["a"]),
    ]
    assert len(plan) == 4 + len(CLASSES) + 1
    assert not cluster.kafka.topics
    assert not cluster.influx.found


# -- rollups ----------------------------------------------------------------------------------

ROLLED = "stepclock/rollup_5m"


def test_a_class_with_a_rollup_gets_a_task_that_is_left_alone_afterwards(cluster: Cluster) -> None:
    cluster.provision("stepclock", "vision")
    made = cluster.influx.tasks()
    assert [task.name for task in made] == [
        "stepclock rollup stepclock/rollup_5m",
        "stepclock rollup vision/rollup_5m",
    ]
    assert cluster.tasks[ROLLED][0] is Action.CREATE
    cluster.provision("stepclock", "vision")
    assert cluster.tasks[ROLLED] == (Action.KEEP, "5m of stepclock/raw, every 30m, 3h back")
    assert cluster.influx.tasks() == made


def test_a_changed_rollup_changes_its_task(cluster: Cluster) -> None:
    cluster.provision()
    cluster.roll_up(every_s=3600)
    cluster.provision(dry_run=True)
    assert cluster.tasks[ROLLED] == (
        Action.CHANGE,
        "5m of stepclock/raw, every 1h, 3h back; text differs",
    )
    assert "every: 30m" in cluster.influx.tasks()[0].flux
    cluster.provision()
    (task,) = cluster.influx.tasks()
    assert "every: 60m" in task.flux


def test_a_task_rests_when_its_class_has_no_rollup_and_goes_on_when_it_has(
    cluster: Cluster,
) -> None:
    cluster.provision()
    cluster.roll_up()
    cluster.provision()
    assert cluster.tasks[ROLLED][0] is Action.CHANGE
    assert not cluster.influx.tasks()[0].is_active
    cluster.provision()
    assert cluster.tasks[ROLLED] == (Action.KEEP, "inactive: the class has no rollup")
    cluster.classes = dict(CLASSES)
    cluster.provision()
    assert cluster.influx.tasks()[0].is_active


def test_tasks_that_nothing_asks_for_are_told_and_left(cluster: Cluster) -> None:
    cluster.provision("stepclock", "vision")
    cluster.influx.create_task('name: "stepclock rollup stepclock/gone"')
    cluster.influx.create_task('name: "stepclock rollup stepclock/rollup_5m"')
    cluster.influx.create_task('name: "somebody else\'s"')
    before = cluster.influx.tasks()
    cluster.provision("stepclock")
    assert "nothing to do" in cluster.printed
    assert cluster.influx.tasks() == before
    left = "left as it is, still runs"
    assert cluster.tasks["vision/rollup_5m"] == (
        Action.KEEP,
        f"no class and namespace of this call: {left} (id 1)",
    )
    assert left in cluster.tasks["stepclock/gone"][1]
    assert cluster.tasks[ROLLED] == (Action.KEEP, f"one more of this name: {left} (id 3)")
    assert len(cluster.tasks) == 3


def test_a_failed_run_is_told_by_the_plan(cluster: Cluster) -> None:
    cluster.provision()
    cluster.influx.found_tasks[0] = replace(cluster.influx.found_tasks[0], failure="no bucket")
    cluster.provision(dry_run=True)
    assert cluster.tasks[ROLLED][1].endswith("; its last run failed: no bucket")
