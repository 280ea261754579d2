"""A replay: lines out of the dead letters, checked, and back to the view that refused them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from admin.__main__ import app
from admin.context import EmbeddedLog
from admin.dlq.letter_filter import LetterFilter
from admin.dlq.letters import FileLetters, FoundLetter, TopicLetters, Unreadable, from_row, to_row
from admin.dlq.replay import Replay
from admin.dlq.replay_block import examine
from consumers.views import WallView
from embedded.log.file import SqliteLog
from embedded.log.publisher import SqlitePublisher
from embedded.log.reader import SqliteReader
from embedded.serve import log_path
from schemas.line_protocol.precision import Precision
from schemas.log.block import MAX_BLOCK_BYTES, Block, decode, encode_headers
from schemas.log.dead_letter import DeadLetter, Reason
from schemas.log.dead_letter import encode_headers as letter_headers
from schemas.log.protocols import DEAD_LETTER_TOPIC, LogUnavailable, RecordRefused
from tests.fakes.memory_log import MemoryLog
from tests.fakes.worker_rig import EVENTS, RAW, SYSTEM, TOPICS, Rig, line, lines

VIEWS = ("wall", "steps")
WHEN = datetime(2026, 11, 1, 12, tzinfo=UTC)
LETTER = DeadLetter(
    b"m,run=a f=1,step=1i 7", Reason.REFUSED, "no", "vision", "lab", "wall", "ms", RAW, 3, 8
)

letters = st.builds(
    DeadLetter,
    lines=st.binary(max_size=200),
    reason=st.sampled_from(Reason),
    detail=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    tenant=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    namespace=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    view=st.sampled_from(VIEWS),
    precision=st.sampled_from([p.value for p in Precision]),
    topic=st.just(RAW),
    partition=st.integers(0, 1000),
    offset=st.integers(0, 2**62),
)


def found(letter: DeadLetter = LETTER, **changes: object) -> FoundLetter:
    return FoundLetter("stepclock.dlq/0/1", WHEN, replace(letter, **changes), "here")  # type: ignore[arg-type]  # keywords of a test


def examined(**changes: object):
    return examine(found(**changes), TOPICS, VIEWS, received_ns=99)


def replay_of(rig: Rig, source: TopicLetters | FileLetters, **only: object) -> Replay:
    return Replay(source, LetterFilter(**only), TOPICS, VIEWS)  # type: ignore[arg-type]  # keywords of a test


def send(rig: Rig, source: TopicLetters | FileLetters, **only: object) -> Counter:
    sent: Counter = Counter()
    replay_of(rig, source, **only).send(rig.publisher, sent, rig.clock.now_ns)
    return sent


def row(**changes: object) -> bytes:
    whole = json.loads(to_row(found())) | changes
    return json.dumps({k: v for k, v in whole.items() if v is not None}).encode()


# -- blocks for one view ----------------------------------------------------------------------


@given(view=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_a_block_says_which_view_it_is_for(view):
    block = Block("vision", "lab", Precision.MS, 1, 7, b"m f=1 1", view=view)
    assert decode(encode_headers(block), block.lines) == block


def block_for(view: str | None, *steps: int) -> Block:
    return Block("vision", "stepclock", Precision.NS, len(steps), 0, lines(*steps), view=view)


def put(rig: Rig, block: Block) -> None:
    rig.publisher.send(RAW, 0, block.lines, encode_headers(block)).result(0)


@pytest.mark.parametrize(("view", "written"), [("wall", ["raw"]), ("steps", ["steps"])])
def test_the_worker_writes_only_the_view_that_a_block_is_for(view, written):
    rig = Rig()
    put(rig, block_for(view, 1))
    rig.settle()
    assert [w.retention_class for w in rig.store.writes] == written


def test_blocks_for_one_view_share_no_batch_with_others():
    rig = Rig()
    put(rig, block_for(None, 1))
    put(rig, block_for("steps", 2))
    put(rig, block_for(None, 3))
    put(rig, block_for("steps", 4))
    rig.settle()
    wrote = {(w.retention_class, w.lines.count(b"\n") + 1) for w in rig.store.writes}
    assert wrote == {("raw", 2), ("steps", 2)}
    assert len(rig.store.writes) == 3
    assert rig.committed() == 4


def test_a_block_for_a_view_that_nobody_writes_is_dead_lettered_and_not_taken_as_stored():
    rig = Rig(views=[WallView()])
    put(rig, block_for("steps", 1))
    rig.settle()
    [letter] = rig.letters()
    assert (letter.reason, letter.view) == (Reason.UNKNOWN_BLOCK, "steps")
    assert letter.lines == lines(1)
    assert not rig.store.writes


# -- the whole way in memory ------------------------------------------------------------------


def conflicting(rig: Rig) -> bytes:
    """A line whose field has another type than before, refused by both views."""
    rig.send(line(1))
    rig.settle()
    bad = line(2).replace(b"loss=0.5", b'loss="0.25"')
    rig.send(b"\n".join([bad, line(3)]), partition=1)
    rig.settle()
    assert [letter.view for letter in rig.letters()] == ["wall", "steps"]
    return bad


def test_a_type_conflict_mended_and_replayed_is_stored_in_both_views(tmp_path):
    rig = Rig()
    bad = conflicting(rig)
    rows = [to_row(one) for one in TopicLetters(rig.log.reader()) if isinstance(one, FoundLetter)]
    path = tmp_path / "mended.jsonl"
    path.write_text("\n".join(rows).replace(r"loss=\"0.25\"", "loss=0.25"))
    rig.clock.advance(3600)
    sent = send(rig, FileLetters(path))
    assert sent == {("refused", "vision", "wall"): 1, ("refused", "vision", "steps"): 1}
    again = [decode(r.headers, r.value) for r in rig.log.records(RAW)][-2:]
    assert {block.view for block in again} == set(VIEWS)
    assert all(block.received_ns == rig.clock.now_ns() for block in again)
    assert [r.partition for r in rig.log.records(RAW)][-2:] == [1, 1]
    rig.settle()
    for retention_class in ("raw", "steps"):
        values = [f["loss"] for f in rig.store.content("stepclock", retention_class).values()]
        assert sorted(values) == [0.25, 0.5, 0.5], bad
    assert len(rig.letters()) == 2


def test_a_replay_can_be_repeated_and_changes_nothing():
    rig = Rig()
    rig.store.missing.add(("stepclock", "raw"))
    rig.send(lines(1, 2))
    rig.turn_until(lambda: len(rig.letters()) == 1)
    rig.store.missing.clear()
    rig.settle()
    for _ in range(2):
        assert send(rig, TopicLetters(rig.log.reader())) == {("misconfigured", "vision", "wall"): 2}
        rig.settle()
        assert len(rig.store.content("stepclock", "raw")) == 2
    assert len(rig.store.content("stepclock", "steps")) == 2


def test_what_is_refused_again_is_a_dead_letter_again_and_holds_up_nobody():
    rig = Rig()
    conflicting(rig)
    send(rig, TopicLetters(rig.log.reader()))
    rig.send(line(9))
    rig.settle()
    assert [letter.view for letter in rig.letters()].count("wall") == 2
    assert len(rig.store.content("stepclock", "raw")) == 3


def test_letters_that_come_during_a_replay_are_not_part_of_it():
    rig = Rig()
    conflicting(rig)
    source = TopicLetters(rig.log.reader())
    replay = replay_of(rig, source)
    assert sum(replay.plan().lines.values()) == 2
    headers = letter_headers(LETTER)
    rig.publisher.send(DEAD_LETTER_TOPIC, 0, LETTER.lines, headers).result(0)
    sent: Counter = Counter()
    replay.send(rig.publisher, sent)
    assert sum(sent.values()) == 2


def test_what_the_log_did_not_take_is_not_counted_as_sent():
    rig = Rig()
    conflicting(rig)
    source = TopicLetters(rig.log.reader())
    rig.log.send_error = LogUnavailable("away")
    sent: Counter = Counter()
    with pytest.raises(LogUnavailable):
        replay_of(rig, source).send(rig.publisher, sent)
    assert not sent
    with pytest.raises(RecordRefused):
        send(Rig(), TopicLetters(MemoryLog({}).reader()))


# -- what a letter becomes --------------------------------------------------------------------


def test_a_letter_keeps_tenant_namespace_precision_and_view():
    [block] = examined().blocks
    assert block == Block("vision", "lab", Precision.MS, 1, 99, LETTER.lines, view="wall")


@pytest.mark.parametrize("reason", [Reason.MALFORMED, Reason.UNKNOWN_BLOCK])
def test_lines_that_no_view_has_seen_go_to_every_view(reason):
    [block] = examined(reason=reason).blocks
    assert block.view is None
    [block] = examined(reason=reason, view="steps").blocks
    assert block.view == "steps"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"m f= 1", "line 2: column"),
        (b"m f=1", "no time"),
        (b"m f=1 9223372036854775807", "time out of range"),
        (b'm s="' + b"x" * MAX_BLOCK_BYTES + b'" 1', "too long"),
    ],
)
def test_bad_lines_are_named_and_their_neighbours_are_good(bad, says):
    result = examined(lines=b"m f=1 1\n" + bad + b"\nm f=2 2")
    [refused] = result.bad
    assert refused.where == "here line 2"
    assert says in f"{refused.where}: {refused.reason}".replace("here ", "")
    assert [block.lines for block in result.blocks] == [b"m f=1 1\nm f=2 2"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"topic": DEAD_LETTER_TOPIC}, "carries no class"),
        ({"topic": "elsewhere"}, "carries no class"),
        ({"view": "sideways"}, "not written"),
        ({"precision": "h"}, "none of"),
        ({"namespace": ""}, "empty"),
        ({"lines": b""}, "no line"),
        ({"lines": b"m f=1 1", "view": "steps"}, "does not show"),
        ({"lines": b"m f=1,step=1 1", "view": "steps"}, "step is not"),
        ({"view": "steps", "topic": SYSTEM}, "does not show"),
        ({"view": "steps", "topic": EVENTS}, "does not show"),
    ],
)
def test_a_letter_that_nobody_could_store_is_refused_whole(changes, says):
    result = examined(**changes)
    assert not result.blocks
    assert says in result.bad[0].reason


@pytest.mark.parametrize("mended", [b" m f=1 7 ", b"m f=1 7\r", b"m  f=1   7", b"m f=1 007"])
def test_a_line_mended_by_hand_ends_with_its_time_whatever_its_spaces(mended):
    [block] = examined(lines=mended).blocks
    rendered = WallView().render(block, "raw", Precision.NS)
    assert rendered.startswith(b"m")
    assert rendered.endswith(b"7000000")


def test_a_string_with_a_newline_stays_one_line_of_a_block_that_says_so():
    [block] = examined(lines=b'm s="a\nb" 1\nm f=1 2').blocks
    assert (block.points, block.multiline) == (2, True)


def test_more_lines_than_fit_become_several_blocks_in_order():
    many = [b"m,run=a f=1 %d" % n for n in range(60_000)]
    blocks = examined(lines=b"\n".join(many)).blocks
    assert len(blocks) > 1
    assert all(len(block.lines) <= MAX_BLOCK_BYTES for block in blocks)
    assert b"\n".join(block.lines for block in blocks).split(b"\n") == many


# -- rows of a file ---------------------------------------------------------------------------


@given(letter=letters)
def test_a_letter_comes_back_from_its_row_byte_for_byte(letter):
    one = found(letter)
    text = to_row(one)
    assert text.isascii()
    assert text.isprintable()
    assert from_row(text.encode(), "here") == one


def test_a_row_needs_no_more_than_what_a_replay_needs():
    shortest = row(id=None, written=None, detail=None, offset=None, line_count=None, bytes=None)
    one = from_row(shortest, "f:1")
    assert isinstance(one, FoundLetter)
    assert (one.letter.lines, one.where) == (LETTER.lines, "f:1")


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        row(lines=None),
        row(lines_base64="eA=="),
        row(lines=None, lines_base64="?"),
        row(lines=7),
        row(lines="\ud800"),
        row(reason="whim"),
        row(partition=-1),
        row(partition=True),
        row(tenant=None),
        row(written="yesterday"),
    ],
)
def test_a_row_that_is_no_letter_says_where_and_why(text):
    one = from_row(text, "f:1")
    assert isinstance(one, Unreadable)
    assert (one.where, bool(one.reason)) == ("f:1", True)


# -- the commands on the log of serve ---------------------------------------------------------


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.delenv("STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("STEPCLOCK_DATA_DIR", str(tmp_path))
    publisher = SqlitePublisher(SqliteLog(log_path(tmp_path), [*TOPICS, DEAD_LETTER_TOPIC]))
    for letter in (
        LETTER,
        replace(LETTER, lines=b"m f=1\x1b[2J", tenant="audio", reason=Reason.MALFORMED),
    ):
        sent = publisher.send(DEAD_LETTER_TOPIC, 0, letter.lines, letter_headers(letter))
        sent.result(5)
    publisher.close(5)
    return tmp_path


def dlq(*arguments: object):
    return CliRunner().invoke(app, ["dlq", *map(str, arguments)])


def replayed(data_dir) -> list[Block]:
    reader = SqliteReader(SqliteLog(log_path(data_dir), [RAW]))
    return [decode(record.headers, record.value) for record in reader.read(RAW)]


def test_a_dry_run_shows_the_plan_and_sends_nothing(data_dir):
    result = dlq("replay", "--dry-run", "--tenant", "vision")
    assert result.exit_code == 0, result.output
    assert "refused" in result.stdout
    assert "vision" in result.stdout
    assert replayed(data_dir) == []


def test_bad_lines_keep_everything_back_until_they_are_skipped(data_dir):
    result = dlq("replay", "--yes")
    assert result.exit_code == 1
    assert "stepclock.dlq/0/1 line 1: column" in result.stderr
    assert "\x1b" not in result.output
    assert replayed(data_dir) == []
    result = dlq("replay", "--yes", "--skip-bad")
    assert result.exit_code == 0, result.output
    assert [(block.tenant, block.lines) for block in replayed(data_dir)] == [
        ("vision", LETTER.lines)
    ]
    assert "sent 1 lines of vision" in result.stderr


def test_a_replay_that_nobody_can_be_asked_about_needs_a_word(data_dir):
    result = dlq("replay", "--tenant", "vision")
    assert (result.exit_code, replayed(data_dir)) == (2, [])
    assert "--yes" in result.stderr


def test_letters_of_the_steps_view_are_refused_where_no_worker_writes_it(data_dir, tmp_path):
    path = tmp_path / "letters.jsonl"
    path.write_bytes(row(view="steps"))
    result = dlq("replay", "--from", path, "--yes")
    assert result.exit_code == 1
    assert "letters.jsonl:1: view 'steps' is not written" in result.stderr
    assert EmbeddedLog(data_dir).views == ("wall",)


def test_export_and_replay_from_the_file_give_the_same_lines(data_dir, tmp_path):
    path = tmp_path / "letters.jsonl"
    result = dlq("export", "--to", path, "--reason", "refused")
    assert result.exit_code == 0, result.output
    assert dlq("export", "--to", path).exit_code == 2
    assert [p.name for p in tmp_path.glob("*letters*")] == ["letters.jsonl"]
    assert json.loads(path.read_text())["lines"] == LETTER.lines.decode()
    assert dlq("replay", "--from", path, "--yes").exit_code == 0
    assert [block.lines for block in replayed(data_dir)] == [LETTER.lines]


def test_what_brings_the_store_down_is_replayed_only_if_asked_for(data_dir, tmp_path):
    publisher = SqlitePublisher(SqliteLog(log_path(data_dir), [*TOPICS, DEAD_LETTER_TOPIC]))
    poison = replace(LETTER, lines=b"m,run=deadly f=1 7", reason=Reason.POISON)
    publisher.send(DEAD_LETTER_TOPIC, 0, poison.lines, letter_headers(poison)).result(5)
    publisher.close(5)
    assert dlq("replay", "--yes", "--tenant", "vision").exit_code == 0
    assert [block.lines for block in replayed(data_dir)] == [LETTER.lines]
    assert dlq("replay", "--yes", "--reason", "poison").exit_code == 0
    path = tmp_path / "mended.jsonl"
    assert dlq("export", "--to", path, "--reason", "poison").exit_code == 0
    assert dlq("replay", "--yes", "--from", path).exit_code == 0
    assert [block.lines for block in replayed(data_dir)][1:] == [poison.lines] * 2


@pytest.mark.usefixtures("data_dir")
def test_export_filters_by_time_and_prints_without_a_file():
    for options, count in (
        ((), 2),
        (("--since", "2h"), 2),
        (("--until", "2h"), 0),
        (("--since", "2001-01-01"), 2),
        (("--until", "2001-01-01T00:00Z"), 0),
        (("--tenant", "audio"), 1),
        (("--namespace", "elsewhere"), 0),
    ):
        result = dlq("export", *options)
        assert result.exit_code == 0, result.output
        assert len(result.stdout.splitlines()) == count, options
    assert dlq("export", "--since", "soon").exit_code == 2


def test_a_file_that_is_not_there_is_said(data_dir, tmp_path):
    result = dlq("replay", "--from", tmp_path / "none.jsonl", "--yes")
    assert result.exit_code == 1
    assert "none.jsonl" in result.stderr


def test_a_broken_row_is_named_with_its_place(data_dir, tmp_path):
    path = tmp_path / "letters.jsonl"
    path.write_bytes(row() + b"\n\n{\n")
    result = dlq("replay", "--from", path, "--yes")
    assert result.exit_code == 1
    assert "letters.jsonl:3:" in result.stderr
    assert replayed(data_dir) == []
