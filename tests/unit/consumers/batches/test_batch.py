import random

import pytest

from consumers.batches.batch import Batch, PlacedBlock
from consumers.batches.batch_size import BatchSize
from consumers.batches.pauses import Pauses
from consumers.batches.waiting import Waiting
from consumers.settings import WorkerSettings
from consumers.writing.destinations import Destinations
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block
from schemas.log.protocols import TopicPartition
from tests.fakes.memory_log import MemoryLog

P0, P1 = TopicPartition("stepclock.raw", 0), TopicPartition("stepclock.raw", 1)


def placed(points=1, size_bytes=10, partition=P0, offset=0, namespace="stepclock"):
    block = Block("vision", namespace, Precision.NS, points, 0, b"m f=1 1")
    return PlacedBlock(block, partition, offset, size_bytes)


def destinations(**settings):
    now = Now()
    settings = WorkerSettings(**settings)
    size = BatchSize(settings.batch_points, settings.batch_points_max, target_s=0.5)
    found = Destinations(settings, size, now, random.Random(1))
    found.size = size
    return found, now


class Now:
    s = 100.0

    def __call__(self):
        return self.s


def cut(waiting, max_points, max_bytes=100):
    batch = Batch("stepclock", "raw")
    waiting.cut(batch, max_points=max_points, max_bytes=max_bytes)
    return batch


@pytest.mark.parametrize(
    ("second", "points", "full"),
    [
        (placed(points=40, size_bytes=90), 100, True),
        (placed(points=39, size_bytes=90), 99, False),
        (placed(points=41, size_bytes=90), 60, True),
        (placed(points=40, size_bytes=91), 60, False),
    ],
)
def test_a_batch_takes_blocks_until_one_would_exceed_its_bounds(second, points, full):
    waiting = Waiting()
    waiting.add(placed(points=60, size_bytes=10), 0.0)
    waiting.add(second, 1.0)
    batch = cut(waiting, 100)
    assert (batch.points, batch.full) == (points, full)
    assert waiting.points == 60 + second.block.points - points
    assert not waiting or waiting.since == 1.0


def test_an_empty_batch_takes_a_block_of_any_size():
    waiting = Waiting()
    waiting.add(placed(points=10**6, size_bytes=10**9), 0.0)
    assert cut(waiting, 1, 1).points == 10**6
    assert (bool(waiting), waiting.points, waiting.size_bytes) == (False, 0, 0)


def test_the_size_that_counts_is_that_of_the_moment_at_which_a_batch_is_written():
    found, now = destinations(batch_points=10)
    for offset in range(9):
        found.add(placed(points=5, offset=offset), "raw", now())
    sizes = []
    for wanted in (10, 20, 5):
        found.size.size = wanted
        destination = found.due(now())
        under_way = found.begin(destination, [])
        sizes.append(under_way.batch.points)
        destination.finish()
    assert sizes == [10, 20, 5]
    assert found.size_bytes == 2 * 10


def test_dropping_a_partition_leaves_the_others_with_their_counts():
    batch = Batch("stepclock", "raw")
    batch.add(placed(points=1, size_bytes=10, partition=P0))
    batch.add(placed(points=2, size_bytes=20, partition=P1))
    assert batch.drop({P0})
    assert not batch.drop({P0})
    assert (batch.points, batch.size_bytes, batch.partitions()) == (2, 20, {P1})


def test_a_batch_is_due_when_it_is_old_or_full():
    for points, due_at in ((1, 100.25), (5000, 100.0)):
        found, now = destinations()
        found.add(placed(points=points), "raw", now())
        assert found.next_due_at() == due_at
        assert found.due(due_at - 0.01) is None
        assert found.due(due_at) is not None


def test_a_batch_is_due_when_another_stands_behind_it():
    found, now = destinations(batch_points=10)
    found.add(placed(points=6), "raw", now())
    found.add(placed(points=6), "raw", now())
    assert found.next_due_at() == now()


def test_namespaces_and_classes_have_batches_of_their_own():
    found, now = destinations()
    found.add(placed(namespace="a"), "raw", now())
    found.add(placed(namespace="b"), "raw", now())
    found.add(placed(namespace="a"), "events", now())
    assert sorted((d.namespace, d.retention_class) for d in found) == [
        ("a", "events"),
        ("a", "raw"),
        ("b", "raw"),
    ]


def test_busy_destinations_take_turns():
    found, now = destinations(batch_points=1)
    for _ in range(2):
        found.add(placed(namespace="a"), "raw", now())
        found.add(placed(namespace="b"), "raw", now())
    order = []
    for _ in range(4):
        destination = found.due(now())
        found.begin(destination, [])
        destination.finish()
        found.forget_empty()
        order.append(destination.namespace)
    assert order == ["a", "b", "a", "b"]


def test_a_batch_under_way_takes_no_more_blocks():
    found, now = destinations()
    found.add(placed(), "raw", now())
    destination = found.due(now() + 1)
    under_way = found.begin(destination, [])
    found.add(placed(offset=1), "raw", now())
    assert len(under_way.batch.blocks) == 1
    assert destination.partitions() == {P0}
    assert destination.size_bytes == 20
    destination.finish()
    assert len(found.begin(destination, []).batch.blocks) == 1


def test_a_resting_destination_is_not_due_and_names_its_partitions():
    found, now = destinations()
    found.add(placed(partition=P1), "raw", now())
    destination = found.due(now() + 1)
    rest_s = destination.backoff.fail()
    assert found.due(now() + rest_s / 2) is None
    assert found.resting() == {P1}
    now.s += rest_s
    assert found.due(now()) is destination or found.due(now() + 1) is destination
    assert found.resting() == set()


def test_destinations_without_blocks_are_forgotten():
    found, now = destinations()
    found.add(placed(partition=P0, size_bytes=7), "raw", now())
    assert found.size_bytes == 7
    found.drop({P0})
    assert len(found) == 0
    assert found.size_bytes == 0
    assert found.next_due_at() == float("inf")


def test_fetching_goes_on_only_when_half_of_the_bound_is_free():
    log = MemoryLog({"stepclock.raw": 2})
    source = log.source(waits=False)
    source.subscribe(["stepclock.raw"], Nobody())
    source.poll(0)
    pauses = Pauses(source, max_bytes=100)
    for size_bytes, paused in ((99, set()), (100, {P0, P1}), (51, {P0, P1}), (50, set())):
        pauses.update({P0, P1}, set(), size_bytes, all_of_them=False)
        assert source.paused == paused
    pauses.update({P0, P1}, {P1}, 0, all_of_them=False)
    assert source.paused == {P1}
    pauses.update({P0, P1}, set(), 0, all_of_them=True)
    assert source.paused == {P0, P1}


class Nobody:
    def on_assigned(self, partitions): ...
    def on_revoked(self, partitions): ...
    def on_lost(self, partitions): ...


@pytest.mark.parametrize("tag", ["run", "rank", "attempt"])
def test_tags_that_name_a_run_can_not_be_volatile(tag):
    with pytest.raises(ValueError, match="would merge"):
        WorkerSettings(volatile_tags=frozenset({tag}))
