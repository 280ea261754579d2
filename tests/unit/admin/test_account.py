"""The account of a run finds whatever is missing, and nothing else."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from admin.ledger.account import StoredRow, account
from schemas.store.delivery import DeliveryRecord

START_NS = 1_795_000_000 * 10**9
RANK_0 = frozenset({("run", "r1"), ("rank", "0")})


def time_of(step, rank=0):
    return START_NS + step * 10**9 + rank * 1000


def rows_of(steps, *, rank=0, attempt=None):
    series = {("run", "r1"), ("rank", str(rank))}
    if attempt is not None:
        series.add(("attempt", str(attempt)))
    return [StoredRow(time_of(step, rank), step, frozenset(series)) for step in steps]


def delivered(sequence, steps, *, stream="s0", rank=0, part=0, parts=1, dead=0):
    """One request with these steps."""
    return DeliveryRecord(
        experiment="resnet",
        run="r1",
        stream=stream,
        topic="stepclock.raw",
        start_ns=START_NS,
        sequence=sequence,
        part=part,
        parts=parts,
        lines=len(steps),
        dead=dead,
        first_ns=time_of(steps[0], rank),
        last_ns=time_of(steps[-1], rank),
    )


REQUESTS = [delivered(n, range(10 * n, 10 * n + 10)) for n in range(10)]
ROWS = rows_of(range(100))


def findings(deliveries=REQUESTS, raw=ROWS, steps=ROWS, oldest_ns=()):
    found = account(list(deliveries), {"raw": raw}, steps, dict(oldest_ns))
    return [(finding.stream, finding.what) for finding in found.findings]


def test_a_run_of_which_everything_is_stored_has_no_findings():
    found = account(REQUESTS, {"raw": ROWS}, ROWS, {})
    assert found.findings == ()
    assert (found.streams, found.delivered, found.dead, found.stored) == (1, 100, 0, 100)


def test_a_request_that_never_arrived_is_named_by_stream_and_number():
    [(stream, what)] = findings(deliveries=REQUESTS[:3] + REQUESTS[5:])
    assert stream == "s0"
    assert what.startswith("requests 3 to 4 never reached the store")


def test_the_first_request_of_a_stream_is_missed_too():
    [(_, what)] = findings(deliveries=REQUESTS[1:])
    assert what.startswith("request 0 never reached the store")


def test_a_block_of_a_request_that_was_split_is_missed():
    split = [delivered(0, range(5), parts=3), delivered(0, range(5, 10), part=2, parts=3)]
    assert findings(split + REQUESTS[1:]) == [
        ("s0", "request 0: 1 of its 3 blocks never reached the store")
    ]


def test_rows_deleted_by_wall_time_are_named_by_step_where_the_step_clock_has_them():
    [(stream, what)] = findings(raw=ROWS[:42] + ROWS[44:])
    assert stream == "s0"
    assert what.startswith("2 of 10 lines are not in class raw, between 2026-")
    assert what.endswith("class steps still has steps 42 to 43")


def test_rows_deleted_from_both_views_are_named_by_time():
    rest = ROWS[:42] + ROWS[44:]
    [(_, what)] = findings(raw=rest, steps=rest)
    assert what.startswith("2 of 10 lines are not in class raw")
    assert what.endswith("where steps 40 to 49 stand")


def test_rows_deleted_by_step_are_named():
    assert findings(steps=ROWS[:7] + ROWS[9:]) == [
        ("", "2 lines of class raw are not in class steps, in steps 7 to 8")
    ]


def test_lines_that_became_dead_letters_are_not_missed():
    requests = [dataclasses.replace(REQUESTS[0], dead=3), *REQUESTS[1:]]
    rest = ROWS[3:]
    assert findings(requests, raw=rest, steps=rest) == []


def test_ranks_that_write_at_the_same_times_are_compared_together():
    both = REQUESTS + [
        delivered(n, range(10 * n, 10 * n + 10), stream="s1", rank=1) for n in range(10)
    ]
    rows = ROWS + rows_of(range(100), rank=1)
    assert findings(both, rows, rows) == []
    [(stream, _)] = findings(both, rows[:150] + rows[151:], rows)
    assert stream == "s0, s1"


def test_what_has_expired_is_not_missed():
    expired = {"raw": time_of(50)}
    assert findings(raw=ROWS[50:], steps=ROWS, oldest_ns=expired) == []


def test_an_attempt_that_is_no_number_is_compared_like_the_first_one():
    for attempt in ("a", "9" * 5000):
        named = rows_of(range(100), attempt=attempt)
        assert findings(raw=named, steps=named) == []
        assert len(findings(raw=named, steps=named[1:])) == 1


def test_of_a_resumed_run_only_the_last_attempt_is_compared_with_the_step_clock():
    first, second = rows_of(range(60), attempt=0), rows_of(range(40, 100), attempt=1)
    shown = [row for row in first if row.step < 40] + second
    assert findings(raw=first + second, steps=shown) == []
    assert len(findings(raw=first + second, steps=shown[:-1])) == 1


@given(st.sets(st.integers(0, 99), min_size=1))
def test_whatever_rows_are_deleted_from_both_views_is_found(deleted):
    rest = [row for row in ROWS if row.step not in deleted]
    found = findings(raw=rest, steps=rest)
    missed = sum(int(what.split()[0]) for _, what in found)
    assert missed == len(deleted)


@given(st.sets(st.integers(0, 8), min_size=1))
def test_whatever_requests_are_lost_below_the_last_is_found(lost):
    requests = [request for request in REQUESTS if request.sequence not in lost]
    rest = [row for row in ROWS if row.step // 10 not in lost]
    named = set()
    for _, what in findings(requests, rest, rest):
        numbers = [int(word) for word in what.split(" never")[0].split() if word.isdigit()]
        named |= set(range(numbers[0], numbers[-1] + 1))
    assert named == lost
