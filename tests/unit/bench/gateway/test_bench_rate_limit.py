from __future__ import annotations

import asyncio
from time import perf_counter

import pytest

from bench.gateway.patience import Event, NeverRefused, Record, judge, send_patiently
from bench.lab.connection import Answer


def record(*events):
    return Record(events=[Event(*event) for event in events])


def test_window_begins_with_the_first_request_that_was_refused():
    seen = record(
        (0.0, 0.1, 204, False),
        # Sent before the refused one and answered after it: it belongs to the burst.
        (0.5, 3.0, 204, False),
        (1.0, 0.0, 429, False),
        (2.0, 0.1, 204, True),
        (2.1, 0.1, 204, False),
        (2.2, 0.0, 429, False),
        (3.2, 0.0, 429, True),
        (11.0, 0.1, 204, True),  # behind the window
    )
    verdict = judge(seen, began=0.0, rate=100, points=100, window_s=10.0)
    assert verdict.burst == 2 * 100 - 1.0 * 100
    assert verdict.accepted == 200
    assert verdict.points_per_s == 20.0
    assert verdict.refusals == 3
    assert (verdict.retries, verdict.admitted) == (2, 1)


def test_a_limit_that_nobody_reached_is_not_judged():
    with pytest.raises(NeverRefused):
        judge(record((0.0, 0.1, 204, False)), began=0.0, rate=1, points=1, window_s=1.0)


class Scripted:
    """A connection that gives these answers, then fails."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.sent = []

    async def send(self, request):
        self.sent.append(request)
        if not self.answers:
            raise ConnectionError
        return self.answers.pop(0)


def run(connection, requests, seconds=30.0):
    seen = Record()
    with pytest.raises(ConnectionError):
        asyncio.run(send_patiently(connection, requests, perf_counter() + seconds, seen))
    return seen


def test_client_repeats_the_refused_body_and_marks_only_the_first_answer_after_the_wait():
    connection = Scripted(
        Answer(204, b""), Answer(429, b"0"), Answer(429, b"0"), Answer(204, b""), Answer(204, b"")
    )
    seen = run(connection, [b"a", b"b", b"c"])
    assert connection.sent == [b"a", b"b", b"b", b"b", b"c", b"a"]
    assert [(e.status, e.retry) for e in seen.events] == [
        (204, False),
        (429, False),
        (429, True),
        (204, True),
        (204, False),
    ]
    assert seen.waits == {0: 2}


def test_retry_after_that_is_no_whole_number_is_kept_as_a_finding():
    async def impatient():
        seen = Record()
        await send_patiently(Scripted(Answer(429, b"0.5")), [b"a"], perf_counter() + 0.02, seen)
        return seen

    assert asyncio.run(impatient()).unreadable == {b"0.5": 1}
