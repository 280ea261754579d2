import json

import pytest
from typer.testing import CliRunner

from admin.dlq.command import app, find, newest
from embedded.log.file import SqliteLog
from embedded.log.publisher import SqlitePublisher
from embedded.serve import log_path
from schemas.log.dead_letter import DeadLetter, Reason, encode_headers
from schemas.log.protocols import DEAD_LETTER_TOPIC, LogUnavailable, RecordRefused
from tests.fakes.memory_log import MemoryLog

RUNNER = CliRunner()


def letter(number, *, reason=Reason.REFUSED, tenant="vision", lines=b"m f=1 1"):
    return DeadLetter(
        lines,
        reason,
        "[bold]why[/bold]\x1b[2J",
        tenant,
        "lab",
        "wall",
        "ns",
        "stepclock.raw",
        3,
        number,
    )


class Letters:
    """Dead letters in a log in memory, one second apart."""

    def __init__(self):
        self.s = 1_700_000_000.0
        self.log = MemoryLog({DEAD_LETTER_TOPIC: 2}, clock=lambda: self.s)
        self.publisher = self.log.publisher()
        self.reader = self.log.reader()

    def add(self, found, partition=0):
        self.s += 1
        headers = encode_headers(found)
        self.publisher.send(DEAD_LETTER_TOPIC, partition, found.lines, headers).result(0)


def test_the_newest_letters_come_first_across_partitions():
    letters = Letters()
    for number in range(6):
        letters.add(letter(number), partition=number % 2)
    listing = newest(letters.reader, lambda _letter: True, limit=3)
    assert [one.letter.offset for one in listing.letters] == [5, 4, 3]
    assert [one.id for one in listing.letters] == [
        "stepclock.dlq/1/2",
        "stepclock.dlq/0/2",
        "stepclock.dlq/1/1",
    ]
    assert listing.matching == 6


def test_filters_choose_before_the_limit_does():
    letters = Letters()
    letters.add(letter(0, tenant="audio"))
    for number in range(1, 5):
        letters.add(letter(number))
    listing = newest(letters.reader, lambda one: one.letter.tenant == "audio", limit=1)
    assert [one.letter.offset for one in listing.letters] == [0]
    assert listing.matching == 1


def test_a_record_that_is_no_dead_letter_is_counted_and_not_hidden():
    letters = Letters()
    letters.publisher.send(DEAD_LETTER_TOPIC, 0, b"?", ()).result(0)
    letters.add(letter(1))
    listing = newest(letters.reader, lambda _letter: True, limit=10)
    assert (len(listing.letters), listing.unreadable) == (1, 1)


def test_a_letter_is_found_by_the_id_that_the_list_prints():
    letters = Letters()
    for number in range(3):
        letters.add(letter(number, lines=b"m f=%d 1" % number))
    (first, *_) = newest(letters.reader, lambda _letter: True, limit=1).letters
    assert find(letters.reader, first.id) == first
    assert first.letter.lines == b"m f=2 1"
    assert find(letters.reader, "stepclock.dlq/0/99") is None


def test_a_log_that_is_away_or_without_the_topic_says_so():
    letters = Letters()
    letters.log.away = True
    with pytest.raises(LogUnavailable):
        newest(letters.reader, lambda _letter: True, limit=1)
    with pytest.raises(RecordRefused):
        newest(MemoryLog({}).reader(), lambda _letter: True, limit=1)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.delenv("STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("STEPCLOCK_DATA_DIR", str(tmp_path))
    publisher = SqlitePublisher(SqliteLog(log_path(tmp_path), [DEAD_LETTER_TOPIC]))
    for found in (
        letter(0, lines=b"m f=1 1\nm f=2 2"),
        letter(1, reason=Reason.MALFORMED, tenant="audio", lines=b"\xff\x1b[2J"),
    ):
        publisher.send(DEAD_LETTER_TOPIC, 0, found.lines, encode_headers(found)).result(5)
    publisher.close(5)
    return tmp_path


def test_list_reads_the_log_of_serve(data_dir):
    result = RUNNER.invoke(app, ["list", "--data-dir", str(data_dir), "--json"])
    assert result.exit_code == 0, result.output
    newest_first = [json.loads(row) for row in result.stdout.splitlines()]
    assert {row["id"] for row in newest_first} == {"stepclock.dlq/0/0", "stepclock.dlq/0/1"}
    row = next(row for row in newest_first if row["id"].endswith("/0"))
    assert (row["line_count"], row["bytes"], row["reason"]) == (2, 15, "refused")
    assert (row["topic"], row["partition"], row["offset"]) == ("stepclock.raw", 3, 0)


@pytest.mark.usefixtures("data_dir")
def test_list_filters_by_reason_tenant_and_namespace():
    for options, count in (
        (["--reason", "malformed"], 1),
        (["--tenant", "vision"], 1),
        (["--namespace", "lab"], 2),
        (["--namespace", "elsewhere"], 0),
        (["--limit", "1"], 1),
    ):
        result = RUNNER.invoke(app, ["list", "--json", *options])
        assert len(result.stdout.splitlines()) == count, options


@pytest.mark.usefixtures("data_dir")
def test_list_prints_what_clients_sent_as_plain_text(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = RUNNER.invoke(app, ["list"])
    assert "[bold]why[/bold]" in result.stdout
    assert "\x1b[2J" not in result.stdout


@pytest.mark.usefixtures("data_dir")
def test_show_gives_the_lines_byte_for_byte():
    result = RUNNER.invoke(app, ["show", "stepclock.dlq/0/1"])
    assert result.exit_code == 0, result.output
    assert result.stdout_bytes == b"\xff\x1b[2J\n"
    assert "malformed" in result.stderr
    as_json = RUNNER.invoke(app, ["show", "stepclock.dlq/0/0", "--json"])
    assert json.loads(as_json.stdout)["lines"] == "m f=1 1\nm f=2 2"


@pytest.mark.usefixtures("data_dir")
def test_show_fails_for_an_unknown_letter():
    result = RUNNER.invoke(app, ["show", "stepclock.dlq/0/7"])
    assert result.exit_code == 1
    assert "dlq list" in result.stderr


def test_without_any_log_the_command_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.delenv("STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("STEPCLOCK_DATA_DIR", str(tmp_path))
    result = RUNNER.invoke(app, ["list"])
    assert result.exit_code == 2
    assert "--kafka" in result.stderr
    assert not log_path(tmp_path).exists()
    both = RUNNER.invoke(app, ["list", "--kafka", "x:1", "--data-dir", str(tmp_path)])
    assert both.exit_code == 2
