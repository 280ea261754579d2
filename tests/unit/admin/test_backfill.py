"""A backfill between a log and a store in memory: what it fills, how it ends, what it says."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from rich.console import Console
from typer.testing import CliRunner

from admin.__main__ import app
from admin.backfill.choice import Choice, ViewName
from admin.backfill.command import poisoned
from admin.backfill.progress import Pace, shown
from admin.backfill.run import Backfill, CountingWriter
from admin.dlq.letter_filter import moment
from admin.dlq.letters import FileLetters, TopicLetters, from_row
from admin.dlq.refusals import BucketRefused, Refusals
from consumers.records.selection import Selection
from consumers.settings import WorkerSettings
from janitor.decide import Patience
from janitor.janitor import Janitor
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block, Delivery, encode_headers
from schemas.log.dead_letter import DeadLetter, Reason
from schemas.log.dead_letter import encode_headers as letter_headers
from schemas.log.protocols import DEAD_LETTER_TOPIC, LogUnavailable, TopicPartition
from schemas.store.protocols import LineWriter, StoreUnavailable
from tests.fakes.memory_store import Fault, MemoryStore
from tests.fakes.worker_rig import EVENTS, RAW, SYSTEM, TOPICS, Rig, line, lines

QUICK = WorkerSettings(batch_age_s=0, retry_base_s=0.01, retry_cap_s=0.01, park_after_s=0)
BUCKETS = ("raw", "steps", "events", "system")


def choice(**changes: object) -> Choice:
    whole = {"view": None, "since": None} | dict.fromkeys(
        ("classes", "namespaces", "experiments", "runs"), ()
    )
    return Choice(**(whole | changes))  # type: ignore[arg-type]  # keywords of a test


def backfill(
    rig: Rig,
    chosen: Choice | None = None,
    *,
    writer: LineWriter | None = None,
    refusals: Refusals | None = None,
    stop: threading.Event | None = None,
    max_poll_records: int = 500,
) -> Backfill:
    chosen = chosen or choice()
    views = chosen.views(QUICK.volatile_tags)
    topics = chosen.topics(TOPICS, views)
    ranges = rig.log.ranges_since(topics, chosen.since_ms)
    return Backfill(
        lambda on_end: rig.log.range(ranges, on_end, max_poll_records=max_poll_records),
        writer or rig.store,
        refusals or Refusals(),
        selection=chosen.selection(views, poisoned(rig.log.reader(), topics)),
        views=views,
        settings=QUICK,
        stop=stop or threading.Event(),
    )


def content(store: MemoryStore, namespace: str = "stepclock") -> dict[str, object]:
    return {bucket: store.content(namespace, bucket) for bucket in BUCKETS}


def emptied(rig: Rig) -> MemoryStore:
    """A store that has lost everything."""
    rig.store = MemoryStore()
    return rig.store


def filled() -> Rig:
    """Points of two runs in three classes, all stored, with what one client says it delivered."""
    rig = Rig()
    block = Block(
        tenant="vision",
        namespace="stepclock",
        precision=Precision.NS,
        points=2,
        received_ns=rig.clock.now_ns(),
        lines=lines(1, 2),
        deliveries=(Delivery("s", 0, 1_700_000_000 * 10**9, "resnet", "a", 0, 1, 0, 2),),
    )
    rig.publisher.send(RAW, 0, block.lines, encode_headers(block)).result(0)
    rig.send(lines(1, 2, run="b"), partition=1)
    rig.send(b"nonfinite,experiment=resnet,run=a count=1,step=2i 7", topic=EVENTS)
    rig.send(b"cpu,host=n1 usage=1 7", topic=SYSTEM)
    rig.settle()
    return rig


def test_everything_is_as_it_was_before_the_store_lost_it():
    rig = filled()
    before = content(rig.store)
    assert all(before.values())
    emptied(rig)
    work = backfill(rig)
    work.run()
    assert content(rig.store) == before
    assert work.progress.finished
    assert (work.progress.settled, work.points) == (4, 6)


def test_it_can_be_repeated():
    rig = filled()
    before = content(rig.store)
    for _ in range(2):
        backfill(rig).run()
    assert content(rig.store) == before


def test_the_group_of_the_workers_is_left_alone():
    rig = filled()
    rig.send(line(9))
    committed = rig.log.committed()
    backfill(rig).run()
    assert rig.log.committed() == committed
    rig.settle()


@pytest.mark.parametrize(
    ("view", "written"), [("wall", {"raw", "events", "system"}), ("steps", {"steps"})]
)
def test_one_view_is_filled_alone_and_says_nothing_of_deliveries(view, written):
    rig = filled()
    before = content(rig.store)
    emptied(rig)
    backfill(rig, choice(view=ViewName(view))).run()
    after = content(rig.store)
    assert {bucket for bucket, points in after.items() if points} == written
    delivered = {key for key in before["events"] if key[0][0] == "delivery"}
    assert delivered
    for bucket in written:
        assert after[bucket].keys() == before[bucket].keys() - delivered


def test_what_is_dead_in_one_view_is_not_undone_by_filling_the_other():
    """A delivery line that only knows of one view would say that nothing is dead."""
    rig = Rig()
    rig.store.refuse = lambda text: "too old" if b" 17000000" in text else None
    deliveries = (Delivery("s", 0, 5, "resnet", "a", 0, 1, 0, 1),)
    block = Block("vision", "stepclock", Precision.NS, 1, 7, line(1), deliveries=deliveries)
    rig.publisher.send(RAW, 0, block.lines, encode_headers(block)).result(0)
    rig.settle()
    before = rig.store.content("stepclock", "events")
    assert [fields["dead"] for fields in before.values()] == [1]
    backfill(rig, choice(view=ViewName.STEPS)).run()
    assert rig.store.content("stepclock", "events") == before
    backfill(rig).run()
    assert rig.store.content("stepclock", "events") == before


def test_only_the_chosen_class_namespace_and_run_are_filled():
    rig = filled()
    rig.send(lines(5), namespace="other")
    rig.settle()
    emptied(rig)
    backfill(rig, choice(classes=("raw",), runs=("b",), namespaces=("stepclock",))).run()
    assert not rig.store.content("other", "raw")
    assert not rig.store.content("stepclock", "events")
    runs = {dict(tags)["run"] for (_name, tags), _time in rig.store.content("stepclock", "raw")}
    assert runs == {"b"}
    assert len(rig.store.content("stepclock", "steps")) == 2


def test_from_a_time_on_only_what_was_written_to_the_log_then_or_later_is_filled():
    rig = Rig()
    rig.send(line(1))
    rig.clock.advance(60)
    since = datetime.fromtimestamp(rig.clock.s, UTC)
    rig.send(line(2))
    rig.clock.advance(60)
    rig.send(line(3), partition=1)
    rig.settle()
    emptied(rig)
    work = backfill(rig, choice(since=since))
    work.run()
    steps = {time_ns // 10**6 for _series, time_ns in rig.store.content("stepclock", "steps")}
    assert steps == {2, 3}
    assert work.progress.total == 2


def test_it_ends_where_the_log_ended_when_it_began():
    rig = filled()
    store = emptied(rig)
    sent = 0

    def send_more() -> None:
        nonlocal sent
        sent += 1
        rig.send(line(100 + sent))

    store.faults.extend(Fault(before=send_more) for _ in range(50))
    work = backfill(rig, max_poll_records=1)
    work.run()
    assert sent
    steps = {time_ns // 10**6 for _series, time_ns in store.content("stepclock", "steps")}
    assert steps == {1, 2}
    assert work.progress.settled == work.progress.total == 4


def test_it_waits_while_the_store_is_away_and_sends_the_same_again():
    rig = filled()
    before = content(rig.store)
    store = emptied(rig)
    store.faults.extend(
        [Fault(StoreUnavailable("away")), Fault(StoreUnavailable("away"), stored=True)] * 3
    )
    backfill(rig).run()
    assert content(store) == before


def test_no_more_is_held_in_memory_than_workers_may_hold():
    rig = Rig()
    for step in range(200):
        rig.send(lines(*range(100 * step, 100 * step + 100)))
    rig.settle()
    emptied(rig)
    polled: list[int] = []

    class Watching(MemoryStore):
        def write(self, *arguments: object) -> None:
            polled.append(work.progress.position(TopicPartition(RAW, 0)) - work.progress.settled)
            super().write(*arguments)  # type: ignore[arg-type]  # as they came

    chosen = choice()
    views = chosen.views(())
    ranges = rig.log.ranges_since(TOPICS, None)
    store = Watching()
    work = Backfill(
        lambda on_end: rig.log.range(ranges, on_end, max_poll_records=10),
        store,
        Refusals(),
        selection=Selection(),
        views=views,
        settings=QUICK.model_copy(
            update={"max_buffered_bytes": 50_000, "batch_points": 500, "batch_points_max": 500}
        ),
        stop=threading.Event(),
    )
    work.run()
    assert len(store.content("stepclock", "steps")) == 20_000
    assert max(polled) < 30


def test_told_to_stop_it_writes_what_it_holds_and_what_is_left_follows_from_its_time():
    rig = Rig()
    for step in range(40):
        rig.clock.advance(1)
        rig.send(line(step), partition=step % 2)
    rig.settle()
    before = content(rig.store)
    store = emptied(rig)
    stop = threading.Event()
    store.faults.extend([Fault(), Fault(), Fault(), Fault(before=stop.set)])
    work = backfill(rig, stop=stop, max_poll_records=5)
    work.run()
    assert not work.progress.finished
    assert 0 < work.progress.settled < work.progress.total
    again = choice().again(work.progress.resume_ms())
    assert again.startswith("stepclock-server backfill --from 2023-")
    since = moment(again.rpartition(" ")[2])
    rest = backfill(rig, choice(since=since))
    assert rest.progress.total < 40
    rest.run()
    assert content(store) == before


def test_what_retention_deletes_meanwhile_is_passed_over_and_counted():
    rig = Rig()
    for step in range(10):
        rig.send(line(step))
    rig.settle()
    store = emptied(rig)
    gone = Fault(before=lambda: rig.log.delete_before(TopicPartition(RAW, 0), 7))
    store.faults.append(gone)
    work = backfill(rig, max_poll_records=2)
    work.run()
    assert work.progress.finished
    assert work.progress.deleted == 5
    assert len(store.content("stepclock", "steps")) == 5


# -- what is refused --------------------------------------------------------------------------


def refusing(rig: Rig) -> None:
    rig.store.refuse = lambda text: "no" if b"run=bad" in text else None


def test_what_is_refused_again_makes_no_new_dead_letter_and_is_known():
    rig = Rig()
    refusing(rig)
    rig.send(b"\n".join([line(1), line(2, run="bad")]))
    rig.settle()
    letters = rig.letters()
    assert len(letters) == 2
    work = backfill(rig)
    work.run()
    assert rig.letters() == letters
    assert work.refusals.total == 2
    assert work.refusals.new(TopicLetters(rig.log.reader())) == 0
    assert work.points == 1


def test_what_was_stored_before_and_is_refused_now_is_new_and_kept_in_the_file(tmp_path):
    rig = Rig()
    rig.send(b"\n".join([line(1), line(2, run="bad"), line(3, run="bad")]))
    rig.settle()
    refusing(rig)
    file = io.StringIO()
    work = backfill(rig, refusals=Refusals(file))
    work.run()
    assert not rig.letters()
    assert work.refusals.new(TopicLetters(rig.log.reader())) == work.refusals.total == 4
    path = tmp_path / "refused.jsonl"
    path.write_text(file.getvalue())
    for row in path.read_bytes().splitlines():
        assert from_row(row, "here").letter.lines == lines(2, 3, run="bad")
    assert {one.letter.view for one in FileLetters(path)} == {"wall", "steps"}
    assert {json.loads(row)["reason"] for row in file.getvalue().splitlines()} == {"refused"}


def test_lines_that_brought_the_store_down_are_left_out():
    rig = Rig()
    rig.send(lines(1, 2, 3))
    rig.settle()
    store = emptied(rig)
    letter = DeadLetter(
        line(2), Reason.POISON, "died", "vision", "stepclock", "wall", "ns", RAW, 0, 0
    )
    rig.publisher.send(DEAD_LETTER_TOPIC, 0, letter.lines, letter_headers(letter)).result(0)
    store.dies_of = lambda text: b"step=2i" in text
    work = backfill(rig)
    work.run()
    assert store.deaths == 0
    assert work.selection.left_out == 1
    assert len(store.content("stepclock", "raw")) == 2


def test_a_bucket_that_is_not_there_ends_it_with_what_to_do():
    rig = filled()
    store = emptied(rig)
    store.missing = {("stepclock", "raw")}
    work = backfill(rig, choice(classes=("raw",)))
    with pytest.raises(BucketRefused, match=r"namespace stepclock.*provision"):
        work.run()
    assert not work.progress.finished
    store.missing = set()
    backfill(rig).run()
    assert store.content("stepclock", "raw")


def test_more_refused_lines_than_are_compared_count_as_new(monkeypatch):
    monkeypatch.setattr("admin.dlq.refusals._MAX_COMPARED", 2)
    refusals = Refusals()
    letters = [
        DeadLetter(line(n), Reason.REFUSED, "no", "vision", "lab", "wall", "ns", RAW, 0, n)
        for n in range(5)
    ]
    refusals.write(letters)
    known = [from_row(json.dumps(row_of(letter)).encode(), "here") for letter in letters]
    assert refusals.new(known) == 3


def row_of(letter: DeadLetter) -> dict[str, object]:
    names = ("tenant", "namespace", "view", "precision", "topic", "partition", "offset", "detail")
    row = {name: getattr(letter, name) for name in names}
    return row | {"reason": letter.reason.value, "lines": letter.lines.decode()}


# -- the janitor ------------------------------------------------------------------------------


def test_the_janitor_clears_again_what_comes_back_of_an_attempt():
    rig = Rig()

    def attempt(number: int, *steps: int) -> None:
        rig.send(
            b"\n".join(
                f"resnet,attempt={number},run=a f={number},step={s}i {number}{s:03}".encode()
                for s in steps
            )
        )

    attempt(1, 1, 2, 3, 4)
    attempt(2, 3, 4, 5)
    rig.settle()
    janitor = Janitor(rig.store, rig.store, lambda: ["stepclock"], Patience(120, 1800), "system")
    janitor.round()
    one_curve = content(rig.store)
    assert len(one_curve["steps"]) == 5
    backfill(rig, choice(view=ViewName.STEPS)).run()
    assert len(rig.store.content("stepclock", "steps")) == 7
    janitor.round()
    assert content(rig.store) == one_curve


# -- dry run and words ------------------------------------------------------------------------


def test_a_dry_run_counts_the_lines_of_each_bucket_and_writes_nothing():
    rig = filled()
    rig.send(b'resnet,run=a text="two\nlines" 9', multiline=True, points=1)
    rig.settle()
    writes = len(rig.store.writes)
    counting = CountingWriter()
    work = backfill(rig, writer=counting)
    work.run()
    assert counting.lines == {
        ("stepclock", "raw"): 5,
        ("stepclock", "steps"): 5,
        ("stepclock", "events"): 2,  # one of them says what was delivered
        ("stepclock", "system"): 1,
    }
    assert len(rig.store.writes) == writes
    assert work.progress.finished


def test_the_pace_is_that_of_the_last_half_minute():
    clock, seen = [0.0], [(0, 0)]
    pace = Pace(lambda: seen[0], 1000, lambda: clock[0])
    assert pace.described() == (0, "0 of 1,000 records, 0 points")
    clock[0], seen[0] = 10.0, (100, 5000)
    assert pace.described()[1] == "100 of 1,000 records, 5,000 points, 500 points/s, 90 s left"
    clock[0] = 40.0
    pace.described()
    clock[0] = 70.0
    assert pace.described()[1].endswith("0 points/s, stands still")
    clock[0], seen[0] = 80.0, (1000, 50_000)
    assert pace.described()[1] == "1,000 of 1,000 records, 50,000 points, 1,125 points/s"


def test_on_a_terminal_a_bar_stands_at_the_end_and_elsewhere_there_is_none():
    said = []
    for terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=120)
        with shown(console, Pace(lambda: (5, 50), 5), 5):
            pass
        said.append(file.getvalue())
    assert "100% 5 of 5 records, 50 points" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said[0])
    assert said[1] == ""


def test_the_command_that_goes_on_repeats_the_choice():
    since = datetime(2026, 11, 1, tzinfo=UTC)
    chosen = choice(view=ViewName.STEPS, since=since, classes=("raw",), runs=("a b", "c"))
    assert chosen.again(0) == (
        "stepclock-server backfill --from 2026-11-01T00:00:00.000Z --view steps --class raw "
        "--run 'a b' --run c"
    )
    assert " --from 2026-11-02T00:00:00.123Z " in chosen.again(1_793_577_600_123)
    assert choice(since=datetime(1066, 1, 1, tzinfo=UTC)).since_ms == 0


# -- the command line -------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    monkeypatch.setenv("STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    return lambda *arguments: CliRunner().invoke(app, ["backfill", *arguments])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--view", "sideways"], "sideways"),
        (["--from", "yesterday"], "is no time"),
        (["--class", "rollup_5m"], "raw, system, events"),
    ],
)
def test_wrong_usage_is_exit_code_2(run, arguments, said):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())


def test_a_kafka_that_is_away_is_exit_code_1(run, monkeypatch):
    def away(*_arguments: object) -> None:
        raise LogUnavailable("no broker answers")

    monkeypatch.setattr("adapters.kafka.admin.KafkaAdmin.ranges_since", away)
    result = run("--yes")
    assert result.exit_code == 1
    assert "no broker answers" in result.stderr


def test_help_has_an_example(run):
    result = run("--help")
    assert result.exit_code == 0
    assert "Example: stepclock-server backfill" in result.stdout
