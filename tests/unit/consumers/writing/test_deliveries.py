"""Delivery lines: what each request of a stream came to, in the store beside its points."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import BadRequest
from ingest.publish.origin import Origin, Piece
from schemas.line_protocol.codec import field_value, parse
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block, Delivery, encode_headers
from schemas.log.protocols import TopicPartition
from schemas.store import delivery
from schemas.store.protocols import LinesRefused, StoredPoint, StoreUnavailable, WriteTooLarge
from telemetry import metrics
from tests.fakes.memory_store import Fault
from tests.fakes.worker_rig import RAW, Rig, line

START_NS = 1_700_000_000 * 10**9


@dataclass
class Request:
    steps: range
    sequence: int
    bad: int = 0

    @property
    def lines(self):
        return [line(step, run="bad" if step < self.bad else "a") for step in self.steps]


def send(rig, *requests, start=START_NS, **changes):
    """One block with these requests of one stream."""
    lines, deliveries = [], []
    for request in requests:
        deliveries.append(
            Delivery(
                "s1", request.sequence, start, "resnet", "a", 0, 1, len(lines), len(request.steps)
            )
        )
        lines += request.lines
    fields = {
        "tenant": "vision",
        "namespace": "stepclock",
        "precision": Precision.NS,
        "points": len(lines),
        "received_ns": rig.clock.now_ns(),
        "lines": b"\n".join(lines),
        "deliveries": tuple(deliveries),
    } | changes
    block = Block(**fields)
    return rig.publisher.send(RAW, 0, block.lines, encode_headers(block)).result(0)


def recorded(rig, namespace="stepclock"):
    return [
        delivery.decode(point)
        for point in rig.store.points(namespace, "events", delivery.MEASUREMENT)
    ]


def refusing_bad_lines(rig):
    rig.store.refuse = lambda text: "no" if b"run=bad" in text else None


def test_each_request_of_a_stream_is_recorded_once_its_points_are_stored():
    rig = Rig()
    send(rig, Request(range(3), 0), Request(range(3, 8), 1))
    rig.settle()
    first, second = recorded(rig)
    assert (first.experiment, first.run, first.stream, first.topic) == ("resnet", "a", "s1", RAW)
    assert (first.start_ns, first.sequence, first.lines, first.dead) == (START_NS, 0, 3, 0)
    assert (second.sequence, second.lines) == (1, 5)
    times = [int(text.rpartition(b" ")[2]) for text in Request(range(3, 8), 1).lines]
    assert (second.first_ns, second.last_ns) == (times[0], times[-1])


def test_a_delivery_that_is_written_again_is_one():
    rig = Rig()
    for _ in range(2):
        send(rig, Request(range(3), 0))
    rig.settle()
    assert [record.lines for record in recorded(rig)] == [3]


def test_dead_lines_are_counted_for_the_request_that_they_came_with():
    rig = Rig()
    refusing_bad_lines(rig)
    send(rig, Request(range(4), 0, bad=2), Request(range(4, 8), 1), Request(range(8, 12), 2, 10))
    rig.settle()
    assert [(record.lines, record.dead) for record in recorded(rig)] == [(4, 2), (4, 0), (4, 2)]


def test_lines_with_newlines_in_strings_are_counted_as_lines():
    rig = Rig()
    refusing_bad_lines(rig)
    texts = [b'm,run=a text="a\nb",step=1i 5', b'm,run=bad text="c\nd" 6', b'm,run=a text="e" 7']
    deliveries = (
        Delivery("s1", 0, START_NS, "m", "a", 0, 1, 0, 1),
        Delivery("s1", 1, START_NS, "m", "a", 0, 1, 1, 2),
    )
    send(rig, lines=b"\n".join(texts), points=3, multiline=True, deliveries=deliveries)
    rig.settle()
    found = [(r.lines, r.dead, r.first_ns, r.last_ns) for r in recorded(rig)]
    assert found == [(1, 0, 5, 5), (2, 1, 6, 7)]


def test_a_block_parked_for_a_missing_bucket_is_recorded_as_dead():
    rig = Rig(park_after_s=5)
    rig.store.missing = {("stepclock", "raw"), ("stepclock", "steps")}
    send(rig, Request(range(3), 0))
    rig.settle()
    assert [(record.lines, record.dead) for record in recorded(rig)] == [(3, 3)]


def test_times_are_in_ns_whatever_the_precision_of_the_block_is():
    rig = Rig()
    only = (Delivery("s1", 0, START_NS, "m", "a", 0, 1, 0, 1),)
    text = b"m,run=a v=1 1700000000"
    send(rig, lines=text, points=1, precision=Precision.S, deliveries=only)
    rig.settle()
    assert recorded(rig)[0].first_ns == 1_700_000_000 * 10**9


def test_a_stream_that_does_not_say_when_it_began_leaves_no_record():
    rig = Rig()
    send(rig, Request(range(3), 0), start=0)
    rig.settle()
    assert recorded(rig) == []


def test_nothing_is_committed_before_its_deliveries_are_stored():
    rig = Rig()
    send(rig, Request(range(3), 0))
    rig.store.faults.extend([Fault(), Fault(), Fault(StoreUnavailable("500"))])
    rig.turn_until(lambda: len(rig.store.writes) == 3)
    assert [write.retention_class for write in rig.store.writes] == ["raw", "steps", "events"]
    assert rig.committed() is None
    rig.settle()
    assert [write.retention_class for write in rig.store.writes[3:]] == ["events"]
    assert len(recorded(rig)) == 1


@pytest.mark.parametrize(
    "error", [LinesRefused("no", stored_others=False), WriteTooLarge("413")], ids=["400", "413"]
)
def test_deliveries_that_the_store_refuses_hold_nothing_up(error):
    rig = Rig()
    send(rig, *[Request(range(n, n + 1), n) for n in range(4)])
    refused = [Fault(error)] * 3  # four lines, then two, then one
    rig.store.faults.extend([Fault(), Fault(), *refused])
    rig.settle()
    assert [record.sequence for record in recorded(rig)] == [1, 2, 3]
    assert rig.letters() == []


def test_what_a_request_came_to_is_recorded_after_the_verdict_on_its_last_line():
    rig = Rig(poison_apart_s=60.0)
    rig.store.dies_of = lambda text: b"run=bad" in text and b"resnet" in text
    send(rig, Request(range(4), 0, bad=1))
    send(rig, Request(range(10, 13), 1))
    rig.turn_until(lambda: len(rig.store.content("stepclock", "events")) == 1)
    [other] = recorded(rig)
    assert (other.sequence, other.lines, other.dead) == (1, 3, 0)
    rig.settle()
    [found] = [one for one in recorded(rig) if one.sequence == 0]
    assert (found.lines, found.dead) == (4, 1)


def test_deliveries_on_which_the_store_fails_hold_nothing_up():
    rig = Rig()
    rig.store.dies_of = lambda text: text.startswith(b"delivery")
    before = metrics.DELIVERIES.labels("refused")._value.get()
    send(rig, Request(range(3), 0))
    rig.settle()
    assert len(rig.store.content("stepclock", "raw")) == 3
    assert rig.store.deaths == 3
    assert metrics.DELIVERIES.labels("refused")._value.get() == before + 1


def test_a_missing_bucket_for_deliveries_parks_no_points():
    rig = Rig(park_after_s=5)
    rig.store.missing = {("stepclock", "events")}
    send(rig, Request(range(3), 0))
    rig.settle()
    assert rig.letters() == []
    assert len(rig.store.content("stepclock", "raw")) == 3


def test_what_is_recorded_after_a_partition_was_lost_is_only_what_stays():
    rig = Rig()
    send(rig, Request(range(3), 0))
    rig.store.faults.extend([Fault(), Fault(), Fault(StoreUnavailable("500"))])
    rig.turn_until(lambda: len(rig.store.writes) == 3)
    rig.worker.on_lost([TopicPartition(RAW, 0)])
    rig.turn(20)
    assert len(rig.store.writes) == 3


def test_a_block_whose_lines_have_no_times_does_not_stop_the_worker():
    rig = Rig()
    only = (Delivery("s1", 0, START_NS, "m", "a", 0, 1, 0, 1),)
    send(rig, lines=b"m,run=a v=1", points=1, deliveries=only)
    rig.settle()
    assert recorded(rig) == []


@given(
    st.lists(st.binary(max_size=300), min_size=3, max_size=3),
    st.integers(0, 10**6),
)
def test_whatever_names_a_client_sends_their_delivery_is_a_line_that_is_taken(names, sequence):
    headers = {
        b"stepclock-stream": names[0],
        b"stepclock-experiment": names[1],
        b"stepclock-run": names[2],
        b"stepclock-sequence": b"%d" % sequence,
        b"stepclock-start": b"%d" % START_NS,
    }
    origin = Origin.from_headers(headers, START_NS + 10**9, START_NS - 1)
    if origin.stream is None:
        return
    said = origin.delivery(Piece(b"x", 7, 1, 2), 0)
    record = delivery.DeliveryRecord(
        said.experiment,
        said.run,
        said.stream,
        RAW,
        said.start,
        said.sequence,
        said.part,
        said.parts,
        said.points,
        3,
        START_NS,
        START_NS + 5,
    )
    parsed = parse(record.line())
    point = StoredPoint(
        parsed.measurement.decode(),
        {key.decode(): value.decode() for key, value in parsed.tags},
        parsed.time,
        {key.decode(): field_value(value) for key, value in parsed.fields},
    )
    assert delivery.decode(point) == record


@pytest.mark.parametrize(
    ("start", "sequence"),
    [(1, 0), (START_NS - 10**12, 0), (START_NS + 4000 * 10**9, 0), (START_NS, 10**18)],
)
def test_a_start_that_class_events_would_not_keep_is_refused_by_name(start, sequence):
    headers = {
        b"stepclock-stream": b"s",
        b"stepclock-start": b"%d" % start,
        b"stepclock-sequence": b"%d" % sequence,
    }
    with pytest.raises(BadRequest, match="Stepclock-Start must be the time"):
        Origin.from_headers(headers, START_NS, START_NS - 10**11)
