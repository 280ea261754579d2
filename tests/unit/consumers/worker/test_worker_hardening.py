"""Records that once stopped a worker for ever, or made it remember too much."""

import time

import pytest

from consumers.views import StepsView
from consumers.writing.bucket_errors import BucketErrors
from schemas.admission.body import admit
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.precision import Precision
from schemas.log.dead_letter import encode_headers
from schemas.retention import RESERVED
from tests.fakes.worker_rig import RAW, Rig, line

NOW_NS = time.time_ns()


@pytest.mark.parametrize("step", [b"0" * 5000 + b"5i", b"-0i", b"-1i"])
def test_a_step_that_nobody_writes_is_refused_at_the_gateway(step):
    rules = Rules(NOW_NS - 10**15, NOW_NS + 10**12, "90d", RESERVED)
    admission = admit(b"e f=1,step=%b %d" % (step, NOW_NS), Precision.NS, rules, lambda: NOW_NS)
    assert admission.refusals[0].reason.startswith("step out of range")


def test_a_step_of_thousands_of_digits_in_the_log_does_not_stop_the_worker():
    rig = Rig()
    rig.send(b"e,run=r loss=1,step=" + b"0" * 5000 + b"5i %d" % NOW_NS)
    rig.send(line(7))
    rig.settle()
    assert rig.letters() == []


def test_a_foreign_record_with_a_huge_header_does_not_stop_the_worker():
    rig = Rig()
    huge = (("v", b"9"), ("tenant", b"t" * 900_000))
    rig.publisher.send(RAW, 0, b"x", huge).result(0)
    rig.settle()
    [letter] = rig.letters()
    assert sum(len(value) for _, value in encode_headers(letter)) < 300_000


def test_a_block_whose_deliveries_nest_without_end_is_dead_lettered():
    rig = Rig()
    headers = {
        "v": b"1",
        "tenant": b"t",
        "namespace": b"n",
        "precision": b"ns",
        "points": b"1",
        "received_ns": b"1",
        "deliveries": b"[" * 100_000,
    }
    rig.publisher.send(RAW, 0, line(1), tuple(headers.items())).result(0)
    rig.settle()
    assert len(rig.letters()) == 1


def test_a_bucket_that_was_refused_a_week_ago_does_not_park_another_at_once():
    now = [0.0]
    errors = BucketErrors(lambda: now[0], park_after_s=60)
    errors.mark_failed("ns", "events")
    now[0] = 61
    assert errors.mark_failed("ns", "events")
    errors.clear("ns", "raw")
    now[0] = 7 * 86_400
    assert not errors.mark_failed("ns", "raw")


def test_remembered_series_are_bounded_in_bytes():
    view = StepsView(())
    for number in range(50):
        view._remember(b"e,run=r,x=" + b"y" * 60_000 + b"%d" % number)
    assert sum(len(key) + len(value) for key, value in view._series.items()) < 10**6


def test_bytes_that_are_not_utf_8_cost_the_same_however_long_the_body():
    bad = b"m,t=\xff f=1 %d\n" % NOW_NS
    rules = Rules(NOW_NS - 10**15, NOW_NS + 10**12, "90d", RESERVED)

    def seconds(filler):
        body = bad * 200 + filler
        began = time.thread_time()
        admission = admit(body, Precision.NS, rules, lambda: NOW_NS)
        assert admission.refused_total == 200
        return time.thread_time() - began

    good = b"m,t=a f=1 %d\n" % NOW_NS
    small, large = seconds(good), seconds(good * 200_000)
    assert large < small + 3.0, "once it took 8 ms for each bad line of 10 MiB"
