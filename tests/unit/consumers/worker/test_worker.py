import threading
from itertools import pairwise

import pytest

from consumers.errors import DeadLettersUnwritable, LossAccepted, RecordsLost
from consumers.views import WallView
from schemas.line_protocol.codec import split
from schemas.line_protocol.precision import Precision
from schemas.log.block import MAX_BLOCK_BYTES
from schemas.log.dead_letter import Reason
from schemas.log.protocols import DEAD_LETTER_TOPIC, LogUnavailable, TopicPartition
from schemas.store.protocols import (
    LinesRefused,
    StoreMisconfigured,
    StoreUnavailable,
    WriteTooLarge,
)
from telemetry.metrics import (
    BATCH_SIZE,
    CONSUMED_POINTS,
    DEAD_LETTERS,
    END_TO_END_SECONDS,
    LAG,
    LOST_OFFSETS,
    WRITES,
)
from tests.fakes.memory_store import Fault
from tests.fakes.worker_rig import EVENTS, RAW, SYSTEM, Rig, line, lines

P0, P1 = TopicPartition(RAW, 0), TopicPartition(RAW, 1)


def value(metric):
    return metric._value.get()


def points(rig, retention_class="raw", namespace="stepclock"):
    return rig.store.content(namespace, retention_class)


# -- the loop -----------------------------------------------------------------------------


def test_points_are_stored_by_wall_time_and_by_step_and_then_committed():
    rig = Rig()
    rig.send(lines(1, 2, 3))
    rig.send(lines(4), partition=1)
    rig.settle()
    assert len(points(rig)) == 4
    assert sorted(time_ns for _series, time_ns in points(rig, "steps")) == [
        1_000_000,
        2_000_000,
        3_000_000,
        4_000_000,
    ]
    assert rig.committed() == rig.committed(partition=1) == 1


def test_blocks_travel_together_and_wall_is_written_before_steps():
    rig = Rig()
    for n in range(10):
        rig.send(lines(n))
    rig.settle()
    assert [(w.retention_class, w.lines.count(b"\n") + 1) for w in rig.store.writes] == [
        ("raw", 10),
        ("steps", 10),
    ]


def test_a_batch_waits_for_its_age_and_not_for_longer():
    rig = Rig(batch_age_s=0.25)
    rig.turn(5)
    rig.send(lines(1))
    sent_at = rig.clock.s
    rig.turn_until(lambda: bool(rig.store.writes))
    assert 0.25 <= rig.clock.s - sent_at <= 0.3


def test_a_full_batch_does_not_wait():
    rig = Rig(batch_points=3)
    rig.turn()
    rig.send(lines(1, 2, 3))
    rig.turn()
    assert rig.committed() == 1


def test_nothing_is_committed_while_a_view_is_missing():
    rig = Rig()
    rig.store.faults.extend([Fault(), Fault(StoreUnavailable("steps"))])
    rig.send(lines(1))
    rig.turn_until(lambda: len(rig.store.writes) == 2)
    assert len(points(rig)) == 1
    assert rig.committed() is None
    rig.settle()
    assert [w.retention_class for w in rig.store.writes] == ["raw", "steps", "steps"]


def test_the_embedded_store_needs_only_the_wall_view():
    rig = Rig(views=[WallView()])
    rig.send(lines(1))
    rig.settle()
    assert [w.retention_class for w in rig.store.writes] == ["raw"]


def test_each_class_goes_to_its_own_bucket_and_nonfinite_to_steps_too():
    rig = Rig()
    rig.send(b"gpu,host=n1 util=0.5 5", topic=SYSTEM)
    rig.send(b"nonfinite,run=a,host=n1 count=1,step=9i 5\nrun_state f=1 5", topic=EVENTS)
    rig.settle()
    assert len(points(rig, "system")) == 1
    assert len(points(rig, "events")) == 2
    assert list(points(rig, "steps")) == [(("nonfinite", (("run", "a"),)), 9_000_000)]


def test_mixed_precisions_share_a_batch_in_their_order():
    rig = Rig()
    rig.send(b"m,run=a f=1,step=1i 1700000000", precision=Precision.S)
    rig.send(b"m,run=a f=2,step=1i 1700000000000", precision=Precision.MS)
    rig.send(b"m,run=a f=3,step=1i 1700000000000000001")
    rig.settle()
    assert [w.precision for w in rig.store.writes] == [Precision.NS, Precision.MS]
    assert [f["f"] for f in points(rig).values()] == [2, 3]
    assert [f["f"] for f in points(rig, "steps").values()] == [3]


def test_a_string_with_a_newline_is_stored_whole():
    rig = Rig()
    rig.send(b'm s="a\nb,step=1i 5",step=3i 7\nm f=1 8', multiline=True, points=2)
    rig.settle()
    assert [f.get("s") for f in points(rig).values()] == ["a\nb,step=1i 5", None]
    assert len(points(rig, "steps")) == 1


def test_an_unknown_error_crashes_the_worker_and_commits_nothing():
    rig = Rig()
    rig.store.faults.append(Fault(RuntimeError("boom")))
    rig.send(lines(1))
    with pytest.raises(RuntimeError, match="boom"):
        rig.worker.run(threading.Event())
    assert rig.committed() is None
    rig.worker, rig.source = rig.start()
    rig.settle()
    assert len(points(rig)) == 1


def test_a_commit_that_fails_is_repeated_and_harms_nothing():
    rig = Rig()
    rig.log.commit_error = LogUnavailable("away")
    rig.send(lines(1))
    rig.turn_until(lambda: len(points(rig, "steps")) == 1)
    rig.turn(3)
    assert rig.committed() is None
    rig.log.commit_error = None
    rig.turn()
    assert rig.committed() == 1


def test_blocks_of_one_partition_settle_in_any_order_and_are_committed_in_theirs():
    rig = Rig()
    rig.store.missing = {("slow", "raw")}
    rig.send(lines(1), namespace="slow")
    rig.send(lines(2), namespace="fast")
    rig.turn_until(lambda: len(points(rig, "steps", "fast")) == 1)
    rig.turn(3)
    assert rig.committed() is None
    rig.store.missing.clear()
    rig.settle()
    assert rig.committed() == 2


# -- the store is away --------------------------------------------------------------------


def test_worker_rewrites_the_same_bytes_after_the_store_returns():
    rig = Rig()
    rig.store.away = True
    rig.send(lines(1, 2))
    rig.turn_until(lambda: len(rig.store.writes) == 3)
    assert rig.source.paused == {P0}
    assert rig.worker.store_error == "the memory store is away"
    assert rig.committed() is None
    rig.store.away = False
    rig.settle()
    first, *others = [w.lines for w in rig.store.writes if w.retention_class == "raw"]
    assert set(others) == {first}
    assert rig.source.paused == set()
    assert rig.worker.store_error is None


class Slow:
    """Writes in time what is small enough; of the rest it says nothing in time, and stores it."""

    def __init__(self, store, most_lines):
        self.store = store
        self.most_lines = most_lines

    def write(self, namespace, retention_class, text, precision):
        self.store.write(namespace, retention_class, text, precision)
        if text.count(b"\n") >= self.most_lines:
            raise StoreUnavailable("no answer in time", late=True)


def test_a_batch_for_which_the_store_takes_too_long_is_written_in_parts_and_in_order():
    rig = Rig(views=[WallView()], batch_points=16)
    rig.source.close()
    worker, _ = rig.start(writer=Slow(rig.store, 3))
    worker.turn()
    for n in range(16):
        rig.send(lines(n))
    for _ in range(200):
        worker.turn()
    assert rig.committed() == 16
    held = [write.lines.count(b"\n") + 1 for write in rig.store.writes]
    assert held[:3] == [16, 8, 4]
    in_time = [write.lines for write in rig.store.writes if write.lines.count(b"\n") < 3]
    assert b"\n".join(in_time) == lines(*range(16))
    assert rig.letters() == []


def test_the_log_says_why_a_batch_was_split(caplog):
    rig = Rig(views=[WallView()], batch_points=16)
    rig.source.close()
    worker, _ = rig.start(writer=Slow(rig.store, 3))
    worker.turn()
    for n in range(16):
        rig.send(lines(n))
    for _ in range(200):
        worker.turn()
    late = (
        "the store took too long for %d points of stepclock/raw: the next write holds half of them"
    )
    assert [late % points for points in (16, 8, 4)] == [
        each for each in caplog.messages if "took too long" in each
    ]
    assert "a batch of 16 points was too large, or may have been" in caplog.text


def test_a_bad_line_is_found_although_the_store_takes_too_long_for_its_neighbours():
    rig = Rig(batch_points=16)
    rig.source.close()
    rig.store.refuse = lambda text: "no" if b"step=5i" in text else None
    worker, _ = rig.start(writer=Slow(rig.store, 3))
    worker.turn()
    for n in range(16):
        rig.send(lines(n))
    for _ in range(400):
        worker.turn()
    assert rig.committed() == 16
    assert {letter.lines for letter in rig.letters()} == {line(5)}
    assert len(points(rig)) == 15


def test_polling_goes_on_while_the_store_is_away():
    rig = Rig()
    rig.store.faults.append(Fault(StoreUnavailable("busy", retry_after_s=30)))
    rig.send(lines(1))
    rig.turn_until(lambda: rig.source.paused == {P0})
    rig.send(b"gpu f=1 5", topic=SYSTEM)
    rig.turn_until(lambda: len(points(rig, "system")) == 1)
    rested_from = rig.clock.s
    rig.settle()
    assert rig.clock.s - rested_from >= 29


def test_an_answer_that_got_lost_doubles_nothing():
    rig = Rig()
    rig.store.faults.append(Fault(StoreUnavailable("timeout"), stored=True))
    rig.send(lines(1, 2))
    rig.settle()
    assert len(points(rig)) == len(points(rig, "steps")) == 2


def test_rests_grow_with_failures_and_shrink_with_success():
    rig = Rig(retry_base_s=1.0, retry_cap_s=8.0)
    times = []
    rig.store.faults.extend(
        Fault(StoreUnavailable("no"), before=lambda: times.append(rig.clock.s)) for _ in range(8)
    )
    rig.send(lines(1))
    rig.settle()
    rests = [later - earlier for earlier, later in pairwise(times)]
    assert 0.5 <= rests[0] <= 1.3
    assert max(rests) <= 8.3
    assert min(rests[3:]) >= 4.0


def test_one_success_makes_the_next_rest_short_again():
    rig = Rig(views=[WallView()], batch_points=1, retry_base_s=1.0, retry_cap_s=60.0)
    away = [Fault(StoreUnavailable("no"))]
    rig.store.faults.extend([*away * 6, Fault(), *away])
    rig.send(lines(1))
    rig.send(lines(2))
    rig.turn_until(lambda: len(rig.store.writes) == 8)
    began = rig.clock.s
    rig.settle()
    assert rig.clock.s - began < 2


# -- bad lines ----------------------------------------------------------------------------


def test_one_bad_line_among_5000_is_dead_lettered_and_the_others_are_stored():
    rig = Rig()
    good = [line(n) for n in range(5000)]
    bad = good[1234].replace(b"loss=0.5", b'loss="high"')
    rig.send(line(9999))  # fixes the type of the field
    rig.settle()
    dead_before = value(DEAD_LETTERS.labels("refused", "vision"))
    offset = rig.send(b"\n".join([*good[:1234], bad, *good[1235:]]))
    rig.settle()
    assert len(points(rig)) == len(points(rig, "steps")) == 5000
    wall, steps = rig.letters()
    assert (wall.lines, wall.view, wall.reason) == (bad, "wall", Reason.REFUSED)
    assert (steps.lines, steps.view) == (bad, "steps")
    assert "field type conflict" in wall.detail
    assert (wall.topic, wall.partition, wall.offset) == (RAW, 0, offset)
    assert (wall.tenant, wall.namespace, wall.precision) == ("vision", "stepclock", "ns")
    assert value(DEAD_LETTERS.labels("refused", "vision")) == dead_before + 2


def test_a_malformed_line_in_a_trusted_block_does_not_take_the_others_with_it():
    rig = Rig()
    rig.send(lines(1) + b"\nm,run=a loss=,step=2i 5\n" + lines(3))
    rig.settle()
    assert len(points(rig)) == len(points(rig, "steps")) == 2
    assert {(one.view, one.reason, one.lines) for one in rig.letters()} == {
        ("wall", Reason.MALFORMED, b"m,run=a loss=,step=2i 5"),
        ("steps", Reason.MALFORMED, b"m,run=a loss=,step=2i 5"),
    }


def test_a_line_that_only_steps_refuses_is_stored_by_wall_and_dead_lettered_for_steps():
    rig = Rig()
    rig.store.refuse = lambda text: "no" if text.endswith(b" 2") else None
    rig.send(lines(1, 2, 3))
    rig.settle()
    assert len(points(rig)) == 3
    assert len(points(rig, "steps")) == 2
    (letter,) = rig.letters()
    assert (letter.view, letter.lines) == ("steps", line(2))


def test_a_step_that_is_no_step_is_dead_lettered_for_steps_only():
    rig = Rig()
    rig.send(lines(1) + b"\nm,run=a step=1.5 5")
    rig.settle()
    assert len(points(rig)) == 2
    (letter,) = rig.letters()
    assert (letter.view, letter.reason) == ("steps", Reason.MALFORMED)
    assert "step is not an integer" in letter.detail


def test_lines_of_one_record_refused_alike_share_a_letter():
    rig = Rig(views=[WallView()])
    rig.store.refuse = lambda text: "no" if b"run=bad" in text else None
    rig.send(lines(1, 2, run="bad"))
    rig.send(lines(3, run="good"))
    rig.send(lines(4, run="bad"))
    rig.settle()
    assert sorted((one.offset, one.lines) for one in rig.letters()) == [
        (0, lines(1, 2, run="bad")),
        (2, lines(4, run="bad")),
    ]


def test_at_most_64_probes_are_spent_on_a_batch_and_the_rest_is_unresolved():
    rig = Rig(views=[WallView()])

    class Stubborn:
        writes = 0

        def write(self, *_args):
            self.writes += 1
            raise LinesRefused("no reason given", stored_others=False)

        def ping(self): ...
        def close(self): ...

    stubborn = Stubborn()
    rig.source.close()
    rig.worker, rig.source = rig.start(writer=stubborn)
    rig.send(lines(*range(5000)))
    rig.settle()
    assert stubborn.writes == 1 + 64
    found = [one for letter in rig.letters() for one in letter.lines.split(b"\n")]
    assert sorted(found) == sorted(lines(*range(5000)).split(b"\n"))
    assert Reason.UNRESOLVED in {letter.reason for letter in rig.letters()}


def test_a_batch_that_is_too_large_is_halved():
    rig = Rig()
    rig.store.max_bytes = 2000
    rig.send(lines(*range(500)))
    rig.settle()
    assert len(points(rig)) == len(points(rig, "steps")) == 500
    assert rig.letters() == []


def test_one_line_that_is_too_large_is_dead_lettered_as_such():
    rig = Rig()
    rig.store.max_bytes = 100
    long = b'm s="%b" 5' % (b"x" * 200)
    rig.send(lines(1) + b"\n" + long)
    rig.settle()
    (letter,) = rig.letters()
    assert (letter.reason, letter.lines) == (Reason.TOO_LARGE, long)
    assert len(points(rig)) == 1


def test_the_search_goes_on_where_it_stood_when_the_store_returns():
    rig = Rig(views=[WallView()])
    bad = line(40).replace(b"loss=0.5", b"loss=t")
    rig.send(line(0))
    rig.settle()
    rig.store.faults.extend([Fault()] * 4 + [Fault(StoreUnavailable("no"))] * 2)
    rig.send(lines(*range(1, 40)) + b"\n" + bad + b"\n" + lines(*range(41, 100)))
    rig.settle()
    assert len(points(rig)) == 99
    assert [letter.lines for letter in rig.letters()] == [bad]


def test_dead_letters_are_acknowledged_before_their_offset_is_committed():
    rig = Rig()
    rig.send(lines(1) + b"\nbroken")
    rig.log.hold()
    with pytest.raises(DeadLettersUnwritable, match="no answer in time"):
        rig.worker.run(threading.Event())
    assert rig.committed() is None
    rig.log.release()
    rig.worker, rig.source = rig.start()
    rig.settle()
    assert rig.committed() == 1
    assert b"broken" in [letter.lines for letter in rig.letters()]


def test_a_dead_letter_topic_that_can_not_be_written_stops_the_worker():
    rig = Rig()
    rig.send(lines(1) + b"\nbroken")
    rig.log.send_error = LogUnavailable("min ISR")
    with pytest.raises(DeadLettersUnwritable, match=r"min ISR.*check that the topic exists"):
        rig.worker.run(threading.Event())
    assert rig.committed() is None


def test_a_long_search_is_interrupted_so_that_the_log_is_polled():
    rig = Rig(views=[WallView()], batch_points=100)
    rig.store.refuse = lambda text: "no" if b"loss=0.7" in text else None
    rig.store.faults.extend(Fault(before=lambda: rig.clock.advance(4)) for _ in range(100))
    bad = [line(n, loss=0.7) for n in (11, 47)]
    rig.send(lines(*range(10)) + b"\n" + b"\n".join(bad) + b"\n" + lines(*range(50, 100)))
    polls = []
    poll = rig.source.poll
    rig.source.poll = lambda timeout_s: (polls.append(rig.clock.s), poll(timeout_s))[1]
    rig.settle()
    assert len(rig.store.writes) >= 8
    assert max(later - earlier for earlier, later in pairwise(polls)) <= 10
    assert sorted(b"\n".join(one.lines for one in rig.letters()).split(b"\n")) == bad
    assert len(points(rig)) == 60


# -- misconfiguration ---------------------------------------------------------------------


def test_a_missing_bucket_is_waited_for():
    rig = Rig(park_after_s=60)
    rig.store.missing = {("stepclock", "raw")}
    rig.send(lines(1))
    rig.turn_until(lambda: len(rig.store.writes) == 3)
    assert rig.source.paused == {P0}
    rig.store.missing.clear()
    rig.settle()
    assert rig.letters() == []
    assert len(points(rig)) == 1


def test_after_a_minute_a_namespace_without_buckets_is_parked_and_others_go_on():
    rig = Rig(park_after_s=60)
    rig.store.missing = {("ghost", "raw"), ("ghost", "steps")}
    began = rig.clock.s
    first = rig.send(lines(1, 2), namespace="ghost", tenant="haunted")
    rig.send(lines(3))
    rig.settle()
    assert 60 <= rig.clock.s - began <= 100
    assert len(points(rig)) == 1
    assert {(one.view, one.reason, one.lines, one.offset) for one in rig.letters()} == {
        ("wall", Reason.MISCONFIGURED, lines(1, 2), first),
        ("steps", Reason.MISCONFIGURED, lines(1, 2), first),
    }
    assert rig.letters()[0].tenant == "haunted"


def test_behind_a_parked_batch_the_next_one_is_tried_once_and_not_for_a_minute():
    rig = Rig(park_after_s=60)
    rig.store.missing = {("ghost", "raw"), ("ghost", "steps")}
    rig.send(lines(1), namespace="ghost")
    rig.settle()
    before, writes = rig.clock.s, len(rig.store.writes)
    rig.send(lines(2), namespace="ghost")
    rig.settle()
    assert rig.clock.s - before < 5
    assert len(rig.store.writes) == writes + 2


def test_a_bucket_that_came_back_is_waited_for_anew():
    rig = Rig(park_after_s=60)
    rig.store.missing = {("stepclock", "raw")}
    rig.send(lines(1))
    rig.settle()
    rig.store.missing.clear()
    rig.send(lines(2))
    rig.settle()
    rig.store.missing = {("stepclock", "raw")}
    letters = len(rig.letters())
    rig.send(lines(3))
    rig.turn(20)
    assert len(rig.letters()) == letters
    assert len(points(rig)) == 1


# -- records that no gateway of this release wrote ----------------------------------------


def foreign(rig, body, **headers):
    found = tuple((name, text.encode()) for name, text in headers.items())
    return rig.publisher.send(RAW, 0, body, found).result(0)


def test_foreign_records_are_validated_line_by_line():
    rig = Rig()
    offset = foreign(rig, b"# from elsewhere\nm,run=a f=1,step=4i 7\n\nbroken\nm f=2 8\n")
    rig.settle()
    assert [f.get("f") for f in points(rig).values()] == [1.0, 2]
    assert len(points(rig, "steps")) == 1
    (letter,) = rig.letters()
    assert (letter.lines, letter.reason, letter.tenant) == (b"broken", Reason.MALFORMED, "foreign")
    assert letter.offset == offset


def test_refused_lines_that_joined_would_make_a_good_one_are_kept_apart():
    rig = Rig()
    foreign(rig, b'm s="\n\xff\nm s="\nbroken\nbroken too')
    rig.settle()
    letters = [letter.lines for letter in rig.letters()]
    assert letters == [b'm s="', b"\xff", b'm s="', b"broken", b"broken too"]
    assert all(len(list(split(lines))) == 1 for lines in letters)


def test_foreign_lines_without_a_time_get_the_records_and_none_overwrites_another():
    rig = Rig()
    foreign(rig, b"m f=1\nm f=2\nm f=3 7")
    rig.settle()
    record_ns = rig.log.records(RAW)[0].timestamp_ms * 10**6
    assert [time_ns for _series, time_ns in points(rig)] == [record_ns + 1, record_ns + 2, 7]


def test_foreign_records_may_name_their_namespace_and_precision():
    rig = Rig()
    foreign(rig, b"m f=1 7", namespace="lab", precision="s")
    rig.settle()
    assert [time_ns for _series, time_ns in points(rig, namespace="lab")] == [7 * 10**9]


@pytest.mark.parametrize("precision", ["m", "weeks", ""])
def test_a_foreign_record_of_unknown_precision_is_dead_lettered_whole(precision):
    rig = Rig()
    foreign(rig, b"m f=1 7\nm f=2 8", precision=precision)
    rig.settle()
    (letter,) = rig.letters()
    assert letter.lines == b"m f=1 7\nm f=2 8"
    assert points(rig) == {}


def test_a_foreign_time_out_of_range_takes_no_other_line_with_it():
    rig = Rig()
    foreign(rig, b"m f=1 9223372036854775807\nm f=2 1")
    foreign(rig, b"m f=3 9223372036855\nm f=4 2", precision="s")
    rig.settle()
    assert [f["f"] for f in points(rig).values()] == [2, 4]
    assert len(rig.letters()) == 2


def test_a_foreign_record_without_lines_settles():
    rig = Rig()
    foreign(rig, b"\n# nothing\n")
    foreign(rig, b"\xff\xfe not text")
    rig.settle()
    assert rig.committed() == 2
    assert rig.store.writes == []


def test_a_block_of_an_unknown_version_is_dead_lettered_whole():
    rig = Rig()
    rig.publisher.send(RAW, 0, b"\x00zip", (("v", b"9"), ("tenant", b"later"))).result(0)
    rig.send(lines(1))
    rig.settle()
    (letter,) = rig.letters()
    assert (letter.reason, letter.lines, letter.tenant) == (
        Reason.UNKNOWN_BLOCK,
        b"\x00zip",
        "later",
    )
    assert len(points(rig)) == 1


def test_a_record_larger_than_a_block_is_kept_in_several_letters():
    rig = Rig()
    value = b"".join(b"broken line %d\n" % n for n in range(40_000))
    assert len(value) > MAX_BLOCK_BYTES
    rig.publisher.send(RAW, 0, value, (("v", b"9"),)).result(0)
    rig.settle()
    parts = [letter.lines for letter in rig.letters()]
    assert len(parts) == 2
    assert b"".join(parts) == value


# -- rebalances ---------------------------------------------------------------------------


def test_a_revoked_partition_is_written_and_committed_before_it_goes():
    rig = Rig(batch_age_s=100)
    rig.send(lines(1, 2))
    rig.turn(2)
    assert rig.store.writes == []
    rig.log.rebalance()
    rig.turn()
    assert len(points(rig)) == len(points(rig, "steps")) == 2
    assert rig.committed() == 1


def test_what_can_not_be_written_before_it_goes_is_left_to_the_next_owner():
    rig = Rig()
    rig.store.away = True
    rig.send(lines(1, 2))
    rig.turn_until(lambda: rig.source.paused == {P0})
    rig.log.rebalance()
    rig.turn()
    assert rig.committed() is None
    rig.store.away = False
    rig.settle()
    assert len(points(rig)) == 2


def backlog(rig, *, late_s=0.0, seconds_a_point=0.0):
    """Write a backlog of single points; how many each batch held."""
    rig.turn()
    for n in range(400):
        rig.send(lines(n))

    def answer():
        held = rig.store.writes[-1].lines.count(b"\n") + 1
        rig.clock.advance(late_s + seconds_a_point * held)

    rig.store.faults.extend([Fault(before=answer)] * 400)
    rig.settle()
    return [write.lines.count(b"\n") + 1 for write in rig.store.writes]


def test_batches_of_a_backlog_grow_while_the_store_answers_late_and_keep_their_order():
    rig = Rig(views=[WallView()], batch_points=10, batch_points_max=30)
    sizes = backlog(rig, late_s=0.3)
    assert sizes[:3] == [10, 5, 10]
    assert max(sizes) == value(BATCH_SIZE) == 30
    assert b"\n".join(write.lines for write in rig.store.writes) == lines(*range(400))


def test_batches_of_a_backlog_shrink_while_their_points_take_the_store_too_long():
    rig = Rig(views=[WallView()], batch_points=10, batch_points_max=40)
    sizes = backlog(rig, seconds_a_point=0.15)
    assert set(sizes[2:-1]) == {2, 5}  # 2: probes
    assert value(BATCH_SIZE) == 5


@pytest.mark.parametrize("error", [StoreUnavailable("late"), WriteTooLarge("large")])
def test_batches_behind_one_that_was_not_answered_or_too_large_hold_half_of_it(error):
    rig = Rig(views=[WallView()], batch_points=10)
    rig.turn()
    for n in range(10):
        rig.send(lines(n))
    rig.store.faults.append(Fault(error=error))
    rig.turn()
    assert value(BATCH_SIZE) == 5
    rig.settle()
    assert len(points(rig)) == 10


def test_the_batches_of_an_idle_worker_change_nothing():
    rig = Rig(views=[WallView()], batch_points=10)
    rig.store.faults.extend([Fault(before=lambda: rig.clock.advance(5))] * 5)
    for n in range(5):
        rig.send(lines(n))
        rig.settle()
    for n in range(20):
        rig.send(lines(n))
    rig.settle()
    assert rig.store.writes[5].lines.count(b"\n") + 1 == 10


def test_the_drain_of_a_revoked_partition_ends_at_the_deadline():
    rig = Rig(batch_age_s=100, batch_points=1, drain_s=10)
    rig.turn()
    for n in range(30):
        rig.send(lines(n), namespace=f"team{n}")
    slow = Fault(before=lambda: rig.clock.advance(2))
    rig.store.faults.extend([slow] * 60)
    rig.turn()
    began = rig.clock.s
    rig.worker.on_revoked({P0})
    assert 10 <= rig.clock.s - began <= 14
    rig.log.lose()
    rig.settle()
    assert all(len(points(rig, "steps", f"team{n}")) == 1 for n in range(30))


def test_what_is_written_of_a_revoked_partition_is_committed_while_the_rest_is_written():
    rig = Rig(batch_age_s=100, batch_points=1, drain_s=10)
    rig.turn()
    for n in range(30):
        rig.send(lines(n))
    committed = []

    def slow():
        committed.append(rig.committed() or 0)
        rig.clock.advance(2)

    rig.store.faults.extend([Fault(before=slow)] * 60)
    rig.turn()
    committed.clear()
    rig.worker.on_revoked({P0})
    assert len(set(committed)) > 2
    assert committed == sorted(committed)


def test_no_write_of_a_lost_partition_starts_after_the_loss():
    rig = Rig(batch_age_s=100)
    rig.send(lines(1))
    rig.send(lines(2), partition=1)
    rig.turn(2)
    rig.worker.on_lost({P0})
    rig.clock.advance(200)
    rig.turn()
    assert [time_ns for _series, time_ns in points(rig, "steps")] == [2_000_000]
    assert rig.committed() is None
    assert rig.committed(partition=1) == 1


def test_a_batch_at_rest_is_rebuilt_without_a_lost_partition():
    rig = Rig()
    rig.store.away = True
    rig.send(lines(1))
    rig.send(lines(2), partition=1)
    rig.turn_until(lambda: rig.source.paused == {P0, P1})
    rig.worker.on_lost({P0})
    rig.store.away = False
    rig.turn_until(lambda: rig.committed(partition=1) == 1)
    assert [time_ns for _series, time_ns in points(rig, "steps")] == [2_000_000]


def test_a_search_under_way_is_rebuilt_without_a_lost_partition():
    rig = Rig(views=[WallView()])
    rig.store.refuse = lambda text: "no" if b"run=bad" in text else None
    rig.send(lines(1, 2) + b"\n" + line(3, run="bad"))
    rig.send(lines(4, 5), partition=1)
    rig.store.faults.extend([Fault(), Fault(), Fault(StoreUnavailable("amid the search"))])
    rig.turn_until(lambda: rig.source.paused == {P0, P1})
    written = len(rig.store.writes)
    rig.worker.on_lost({P0})
    rig.turn_until(lambda: rig.committed(partition=1) == 1)
    assert [w.lines for w in rig.store.writes[written:]] == [lines(4, 5)]
    assert rig.letters() == []


def test_records_of_a_partition_that_is_not_ours_are_left_to_its_owner():
    rig = Rig()
    rig.turn()
    stray = rig.send(lines(1))
    rig.worker.on_lost({P0})
    rig.turn(20)
    assert stray == 0
    assert rig.store.writes == []
    assert rig.committed() is None


def test_a_partition_assigned_anew_begins_at_what_is_committed_with_nothing_left_over():
    rig = Rig(batch_age_s=100)
    rig.send(lines(1, 2))
    rig.turn(2)
    rig.source._owned[P0] = 0
    rig.worker.on_assigned({P0})
    rig.clock.advance(200)
    rig.settle()
    assert [w.lines for w in rig.store.writes if w.retention_class == "raw"] == [lines(1, 2)]


def test_dead_letters_of_a_lost_partition_are_left_to_its_next_owner():
    rig = Rig()
    rig.store.refuse = lambda text: "no" if b"run=bad" in text else None
    rig.send(lines(1, run="bad"))
    rig.send(lines(2, run="bad"), partition=1)
    rig.store.faults.extend([Fault(), Fault(StoreUnavailable("at steps"))])
    rig.turn_until(lambda: len(rig.source.paused) == 2)
    rig.worker.on_lost({P0})
    rig.turn_until(lambda: rig.committed(partition=1) == 1)
    assert {letter.partition for letter in rig.letters()} == {1}


def test_everything_lost_is_read_again_and_stored():
    rig = Rig(batch_age_s=100)
    rig.send(lines(1, 2))
    rig.turn(2)
    rig.log.lose()
    rig.turn()
    assert rig.store.writes == []
    rig.clock.advance(200)
    rig.settle()
    assert len(points(rig)) == 2


def test_two_workers_share_the_partitions_and_lose_nothing():
    rig = Rig()
    other, _source = rig.start()
    for n in range(20):
        rig.send(lines(n), partition=n % 2)
    for _ in range(200):
        rig.worker.turn()
        other.turn()
    assert rig.uncommitted() == {}
    assert len(points(rig)) == len(points(rig, "steps")) == 20


def test_an_error_in_a_listener_stops_the_worker_even_if_the_log_swallows_it():
    rig = Rig(batch_age_s=100)
    rig.send(lines(1))
    rig.turn(2)
    rig.store.faults.append(Fault(RuntimeError("boom")))
    with pytest.raises(RuntimeError, match="boom"):
        rig.worker.on_revoked({P0})
    with pytest.raises(RuntimeError, match="boom"):
        rig.turn()


# -- bounds -------------------------------------------------------------------------------


def test_fetching_stops_at_the_bound_of_memory_and_goes_on_below_it():
    block = lines(*range(100))
    rig = Rig(max_buffered_bytes=10 * len(block))
    rig.source.close()
    rig.worker, rig.source = rig.start(max_poll_records=1)
    rig.store.away = True
    for n in range(100):
        rig.send(block, namespace=f"team{n % 3}", partition=n % 2)
    rig.turn(200)
    held = rig.worker._destinations.size_bytes
    assert held <= 11 * len(block)
    assert rig.source.paused >= {P0, P1}
    rig.store.away = False
    rig.settle()
    assert rig.source.paused == set()


# -- the end ------------------------------------------------------------------------------


def test_a_stopped_worker_writes_and_commits_what_it_has():
    rig = Rig(batch_age_s=100)
    rig.send(lines(1, 2))
    rig.turn(2)
    rig.worker.drain()
    assert len(points(rig, "steps")) == 2
    assert rig.committed() == 1


def test_a_drain_ends_at_its_deadline_while_the_store_is_away():
    rig = Rig(drain_s=10)
    rig.store.away = True
    rig.send(lines(1))
    rig.turn_until(lambda: bool(rig.store.writes))
    began = rig.clock.s
    rig.worker.drain()
    assert rig.clock.s - began <= 10
    assert rig.committed() is None


def test_a_draining_worker_fetches_nothing_more():
    rig = Rig(batch_age_s=100)
    rig.send(lines(1))
    rig.turn(2)
    rig.store.faults.append(Fault(before=lambda: rig.send(lines(2))))
    rig.worker.drain()
    assert rig.worker.draining
    assert rig.committed() == 1


def test_run_drains_on_stop_and_leaves_the_group():
    rig = Rig()
    rig.source.close()
    rig.worker, rig.source = rig.start()
    stop = threading.Event()
    rig.store.faults.append(Fault(before=stop.set))
    rig.send(lines(1))
    rig.worker.run(stop)
    assert rig.committed() == 1
    assert rig.source._closed


def test_records_deleted_unread_stop_the_worker_with_advice():
    rig = Rig()
    lose_two_of_three(rig)
    before = value(LOST_OFFSETS)
    with pytest.raises(RecordsLost, match=r"2 records can't be read.*STEPCLOCK_ACCEPT_LOSS"):
        rig.worker.run(threading.Event())
    assert value(LOST_OFFSETS) == before + 2
    assert rig.committed() == 1


def test_an_accepted_loss_goes_on_from_the_logs_start():
    rig = Rig(accept_loss=True)
    lose_two_of_three(rig)
    with pytest.raises(LossAccepted):
        rig.worker.run(threading.Event())
    rig.worker, rig.source = rig.start()
    rig.settle()
    assert rig.committed() == 4
    assert len(points(rig)) == 2


def lose_two_of_three(rig):
    rig.send(lines(0))
    rig.settle()
    rig.source.close()
    for n in (1, 2, 3):
        rig.send(lines(n))
    rig.log.delete_before(P0, 3)
    rig.worker, rig.source = rig.start()


# -- what it tells ------------------------------------------------------------------------


def test_points_writes_and_latency_are_counted():
    rig = Rig()
    rig.store.refuse = lambda text: "no" if b"run=bad" in text else None
    stored = value(CONSUMED_POINTS.labels("counted", "stored"))
    dead = value(CONSUMED_POINTS.labels("counted", "dead"))
    refused = value(WRITES.labels("steps", "refused"))
    observed = END_TO_END_SECONDS._sum.get()
    received_ns = rig.clock.now_ns()
    rig.send(lines(1, 2), tenant="counted")
    rig.send(lines(3, run="bad"), tenant="counted")
    rig.clock.advance(3)
    rig.settle()
    assert value(CONSUMED_POINTS.labels("counted", "stored")) == stored + 2
    assert value(CONSUMED_POINTS.labels("counted", "dead")) == dead + 1
    assert value(WRITES.labels("steps", "refused")) > refused
    assert END_TO_END_SECONDS._sum.get() - observed >= 3
    assert rig.stored == [(received_ns, 2)]


def test_lag_counts_what_is_not_settled_and_goes_with_the_partition():
    rig = Rig()
    rig.store.away = True
    for n in range(5):
        rig.send(lines(n))
    rig.turn(20)
    assert value(LAG.labels(RAW, "0")) == 5
    rig.store.away = False
    rig.settle()
    rig.clock.advance(2)
    rig.turn(2)
    assert value(LAG.labels(RAW, "0")) == 0
    rig.log.away = True
    rig.clock.advance(2)
    rig.turn()
    assert rig.worker.log_error is not None


def test_every_error_of_the_store_has_a_reaction():
    rig = Rig()
    rig.store.faults.extend(
        Fault(error)
        for error in (
            StoreUnavailable("500"),
            WriteTooLarge("413"),
            LinesRefused("400", stored_others=False),
            StoreMisconfigured("404"),
            LinesRefused("422", stored_others=True, dropped=1),
        )
    )
    rig.send(lines(1, 2, 3, 4))
    rig.settle()
    assert [letter.lines for letter in rig.letters()] == [line(1)]
    assert (len(points(rig)), len(points(rig, "steps"))) == (3, 4)


def test_dead_letters_lie_in_their_topic():
    rig = Rig()
    rig.send(b"broken")
    rig.settle()
    assert len(rig.log.records(DEAD_LETTER_TOPIC)) == 1
