import json
import resource
import shutil
from dataclasses import replace

import pytest
from gateways import ScriptedGateway, limited, refusing
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclock.identity import Identity
from stepclock.journal import journal
from stepclock.send.delivery import StreamDelivery
from stepclock.send.transport import Answer
from stepclock.spool.stream import Stream
from stepclock.spool.writer import SpoolWriter

WHO = Identity("resnet50", "r1", 0, 0)
STREAM = Stream.of("s", 1_795_277_400_000_000_000, WHO, "http://scripted")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Rig:
    """A spool, a scripted gateway, and a delivery that can be begun anew."""

    def __init__(self, folder):
        self.clock = Clock()
        self.writer = SpoolWriter(STREAM, folder / "s", max_bytes=1 << 30, max_memory=1 << 20)
        self.writer.publish()
        self.gateway = ScriptedGateway()
        self.delivery = None
        self.begin()

    def begin(self):
        if self.delivery is not None:
            self.delivery.journal.close()
        self.delivery = StreamDelivery(
            self.writer.folder, STREAM, self.gateway, now=self.clock, jitter=lambda: 0.0
        )

    def send_all(self):
        """Send until nothing is left; the waits in between."""
        waits = []
        while (wait_s := self.delivery.send_one()) is not None:
            if wait_s:
                waits.append(wait_s)
                self.clock.now += wait_s
        return waits

    @property
    def totals(self):
        return self.delivery.journal.totals

    @property
    def refused(self):
        path = self.writer.folder / "refused.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def close(self):
        self.delivery.journal.close()
        self.writer.close()


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path)
    yield made
    made.close()


def lines(*numbers):
    return [f"m,run=r1 f={number}" for number in numbers]


def encoded(*numbers):
    return [line.encode() for line in lines(*numbers)]


def test_requests_carry_the_headers_by_which_deliveries_are_counted(rig):
    rig.writer.write("raw", lines(1), 1)
    rig.writer.write("events", ["e f=1"], 0)
    rig.send_all()
    first, second = rig.gateway.requests
    assert first.path == "/api/v2/write?bucket=raw"
    assert second.path == "/api/v2/write?bucket=events"
    assert {key: first.headers[key] for key in first.headers if key.startswith("Stepclock")} == {
        "Stepclock-Stream": b"s",
        "Stepclock-Sequence": b"0",
        "Stepclock-Start": b"1795277400000000000",
        "Stepclock-Experiment": b"resnet50",
        "Stepclock-Run": b"r1",
    }
    assert second.sequence == 1


def test_what_came_in_the_meantime_is_one_request(rig):
    for number in range(10):
        rig.writer.write("raw", lines(number), 1)
    rig.send_all()
    assert rig.gateway.taken == [(0, "raw", encoded(*range(10)))]


def test_after_a_429_the_same_bytes_go_again_when_the_gateway_says(rig):
    rig.gateway.script = [limited(7), limited(3)]
    rig.writer.write("raw", lines(1, 2), 2)
    assert rig.delivery.send_one() == 7
    rig.writer.write("raw", lines(3), 1)
    assert rig.send_all() == [3]
    assert [r.sequence for r in rig.gateway.requests] == [0, 0, 0, 1]
    assert rig.gateway.taken == [(0, "raw", encoded(1, 2)), (1, "raw", encoded(3))]
    assert rig.delivery.limited == 2


@pytest.mark.parametrize("status", [0, 408, 500, 502, 503, 504])
def test_while_the_gateway_is_away_the_waits_grow_up_to_a_bound(rig, status):
    rig.gateway.script = [status] * 14
    rig.writer.write("raw", lines(1), 1)
    waits = rig.send_all()
    assert waits == sorted(waits)
    assert waits[0] < 1
    assert waits[-1] == 30  # half of a minute, to which up to as much is added by chance
    assert rig.gateway.taken == [(0, "raw", encoded(1))]


def test_a_503_is_not_repeated_before_its_retry_after(rig):
    rig.gateway.script = [Answer(503, {"retry-after": "5"})]
    rig.writer.write("raw", lines(1), 1)
    assert rig.send_all() == [5]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_is_told_once_a_minute_and_nothing_is_lost(rig, status, caplog):
    rig.gateway.script = [Answer(status, {}, b"no such key")] * 30
    rig.writer.write("raw", lines(1), 1)
    waits = rig.send_all()
    assert rig.gateway.taken == [(0, "raw", encoded(1))]
    told = [record for record in caplog.records if "no such key" in record.message]
    assert 2 <= len(told) <= sum(waits) / 60 + 1


def test_lines_that_are_refused_are_set_aside_with_their_reasons_and_the_others_are_taken(rig):
    rig.gateway.script = [refusing(2, 4)]
    rig.writer.write("raw", lines(1, 2, 3, 4, 5), 5)
    rig.send_all()
    assert len(rig.gateway.requests) == 1
    assert [(entry["line"], entry["reason"]) for entry in rig.refused] == [
        ("m,run=r1 f=2", "reason 2"),
        ("m,run=r1 f=4", "reason 4"),
    ]
    assert (rig.totals.acknowledged, rig.totals.refused) == (3, 2)
    assert list(rig.delivery.journal.unsettled.values()) == [("1.raw-0-9", 3)]


def test_a_request_that_is_refused_as_a_whole_is_set_aside_as_a_whole(rig):
    rig.gateway.script = [Answer(400, {}, b'{"code":"invalid","message":"bad header"}')]
    rig.writer.write("raw", lines(1, 2), 2)
    rig.writer.write("events", ["e f=1"], 0)
    rig.send_all()
    assert [entry["line"] for entry in rig.refused] == lines(1, 2)
    assert "bad header" in rig.refused[0]["reason"]
    assert (rig.totals.acknowledged, rig.totals.refused) == (1, 2)


def test_a_413_halves_the_request_until_it_fits_and_each_number_is_taken_once(rig):
    def small_only(request):
        return 413 if len(request.lines) > 3 else 204

    rig.gateway.script = [small_only] * 100
    rig.writer.write("raw", lines(*range(20)), 20)
    rig.send_all()
    rig.writer.write("raw", lines(*range(20, 40)), 20)
    rig.send_all()
    assert sorted(rig.gateway.lines) == sorted(encoded(*range(40)))
    numbers = [sequence for sequence, _, _ in rig.gateway.taken]
    assert sorted(numbers) == list(range(len(numbers)))
    assert all(len(taken) <= 3 for _, _, taken in rig.gateway.taken)
    assert rig.totals.acknowledged == 40


def test_a_line_that_is_too_large_by_itself_is_set_aside(rig):
    rig.gateway.script = [413]
    rig.writer.write("raw", lines(1), 1)
    rig.send_all()
    assert len(rig.refused) == 1
    assert rig.totals.refused == 1


def test_after_a_crash_between_request_and_answer_the_same_number_means_the_same_lines(rig):
    rig.gateway.script = [0]
    rig.writer.write("raw", lines(1, 2), 2)
    rig.delivery.send_one()
    rig.writer.write("raw", lines(3), 1)
    rig.begin()
    rig.send_all()
    assert rig.gateway.requests[0].lines == rig.gateway.requests[1].lines == encoded(1, 2)
    assert rig.gateway.taken == [(0, "raw", encoded(1, 2)), (1, "raw", encoded(3))]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["write", "wide", "send", "crash", "torn", 204, 503, 413, 429, 400]),
        max_size=60,
    )
)
def test_whatever_happens_each_line_is_taken_once_and_no_number_changes(tmp_path_factory, script):
    rig = Rig(tmp_path_factory.mktemp("rig"))
    written = 0
    for act in script:
        if act == "write":
            rig.writer.write("raw", lines(written), 1)
            written += 1
        elif act == "wide":
            rig.writer.write("events", lines(*range(written, written + 7)), 0)
            written += 7
        elif act == "send":
            rig.delivery.send_one()
        elif act == "crash":
            rig.begin()
        elif act == "torn":
            rig.delivery.journal.close()
            with (rig.writer.folder / "journal.jsonl").open("ab") as file:
                file.write(b'{"cut":[0,')
            rig.begin()
        elif act == 400:
            rig.gateway.script.append(refusing(1))
        else:
            rig.gateway.script.append(limited(1) if act == 429 else act)
    rig.send_all()
    meant = {}
    for request in rig.gateway.requests:
        known = meant.setdefault(request.sequence, request.lines)
        # Only a 413, by which nothing was taken, makes a number mean fewer lines.
        assert request.lines in (known, known[: len(request.lines)])
    refused = ((rig.writer.folder / "refused.jsonl").exists() and rig.refused) or []
    aside = [entry["line"].encode() for entry in refused]
    unrefused = [line for line in encoded(*range(written)) if line not in aside]
    answered = [line for line in rig.gateway.lines if line not in aside]
    by_400 = written - len(aside) - len(answered)
    assert by_400 >= 0
    assert len(set(answered)) == len(answered)
    assert set(answered) <= set(unrefused)
    assert rig.totals.acknowledged + rig.totals.refused == written
    assert rig.totals.refused == len(aside)
    rig.close()


def test_receipts_are_settled_many_at_a_time_and_the_lines_count_as_stored(rig):
    for number in range(50):
        rig.writer.write("raw", lines(number), 1)
        rig.delivery.send_one()
    assert not rig.delivery.settle(0) or rig.delivery.journal.unsettled
    while rig.delivery.journal.unsettled:
        rig.delivery.settle(0)
    assert rig.totals.stored == 50
    assert len(rig.gateway.receipts) == 2
    assert rig.gateway.receipts[0].startswith("/api/v1/receipts/1.raw-0-1.raw-0-2.")


def test_what_is_not_settled_yet_is_asked_for_again(rig):
    rig.writer.write("raw", lines(1), 1)
    rig.send_all()
    rig.gateway.verdict = {"settled": False, "stored": False, "rejected": []}
    assert not rig.delivery.settle(0)
    assert rig.totals.stored == 0
    rig.gateway.verdict = {"settled": True, "stored": True, "rejected": []}
    assert rig.delivery.settle(0)
    assert rig.totals.stored == 1


def test_dead_letters_are_counted_once_although_two_views_name_them(rig):
    rig.writer.write("raw", lines(1, 2, 3), 3)
    rig.send_all()
    rejected = [{"view": view, "lines": 2, "reason": "refused"} for view in ("wall", "steps")]
    rig.gateway.verdict = {"settled": True, "stored": False, "rejected": rejected}
    assert rig.delivery.settle(0)
    assert (rig.totals.stored, rig.totals.dead) == (1, 2)


def test_a_stream_is_sent_by_one_process_at_a_time(rig):
    with pytest.raises(OSError, match=r".*"):
        StreamDelivery(rig.writer.folder, STREAM, rig.gateway)


def test_a_segment_that_vanished_is_counted_as_lost(rig):
    rig.gateway.script = [0]
    rig.writer.write("raw", lines(1, 2), 2)
    rig.delivery.send_one()
    for path in rig.writer.folder.glob("*.seg"):
        path.unlink()
    assert rig.send_all() == [1.0], "it may come back"
    assert rig.totals.lost == 2


def test_a_job_with_too_many_open_files_loses_no_rows(rig):
    rig.writer.write("raw", lines(1), 1)
    rig.gateway.script = [503]
    rig.delivery.send_one()
    rig.writer._end_segment()
    rig.writer.write("raw", lines(2), 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        waits = [rig.delivery.send_one() for _ in range(3)]
        waiting = rig.delivery.journal.waiting
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert waits == [1.0] * 3
    assert waiting
    rig.send_all()
    assert rig.gateway.lines == encoded(1, 2)
    assert rig.totals.lost == 0


def test_a_journal_that_is_removed_under_the_job_is_written_anew_with_all_it_said(rig):
    rig.writer.before_publish = rig.delivery.journal.relock
    rig.writer.write("raw", lines(1, 2), 2)
    rig.delivery.send_one()
    rig.writer.write("raw", lines(3, 4), 2)
    rig.writer.write("events", lines(5), 1)
    rig.gateway.script = [503]
    rig.delivery.send_one()
    shutil.rmtree(rig.writer.folder)
    rig.writer.check()
    rig.gateway.script = [204, 503]
    rig.delivery.send_one()
    rig.delivery.send_one()
    rig.begin()  # killed, and begun anew from what the folder says
    rig.send_all()
    numbers = [(sequence, class_name) for sequence, class_name, _ in rig.gateway.taken]
    assert numbers == [(0, "raw"), (1, "raw"), (2, "events")]
    assert len(rig.gateway.lines) == 5
    assert rig.totals.acknowledged == 5


def test_a_long_journal_is_written_anew_and_means_the_same(rig, monkeypatch):
    monkeypatch.setattr(journal, "_LONG", 2000)
    path = rig.writer.folder / "journal.jsonl"
    for number in range(200):
        rig.writer.write("raw", lines(number), 1)
        rig.delivery.send_one()
        if number % 10 == 0:
            rig.delivery.settle(0)
        assert path.stat().st_size < 20_000
    before = replace(rig.totals, requests=0), dict(rig.delivery.journal.unsettled)
    rig.begin()
    assert (replace(rig.totals, requests=0), rig.delivery.journal.unsettled) == before
    rig.writer.write("raw", lines(200), 1)
    rig.send_all()
    assert rig.gateway.lines == encoded(*range(201))
    assert [sequence for sequence, _, _ in rig.gateway.taken] == list(range(201))


def test_what_nobody_can_tell_of_any_more_is_not_asked_for_again(rig):
    rig.writer.write("raw", lines(1), 1)
    rig.send_all()
    rig.gateway.verdict = {"settled": True, "stored": None, "rejected": []}
    assert rig.delivery.settle(0)
    assert not rig.delivery.journal.unsettled
    assert rig.totals.stored == 0


def test_behind_an_entry_that_can_not_be_read_what_was_answered_last_goes_again(rig, caplog):
    for number in (1, 2):
        rig.writer.write("raw", lines(number), 1)
        rig.send_all()
    rig.delivery.journal.close()
    with (rig.writer.folder / "journal.jsonl").open("ab") as file:
        file.write(b'nonsense\n{"ack":77,"refused":0,"receipt":null}\n[]\n')
    rig.writer.write("raw", lines(3), 1)
    for _ in range(2):  # the second time it is as trusted, and nothing goes again
        rig.begin()
        rig.send_all()
        assert not rig.delivery.journal.trusted
    assert "was damaged" in caplog.text
    assert [taken for _, _, taken in rig.gateway.taken] == [encoded(1), encoded(2), encoded(2, 3)]
    assert ["Stepclock-Start" in r.headers for r in rig.gateway.requests] == [True, True, False]
