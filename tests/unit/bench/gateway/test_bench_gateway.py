from bench.gateway.gateway import ONE, OTHERS, Counted, Plan, _section
from bench.gateway.generator import Outcome


def outcome(points):
    cpu_s = {"gateway 0": 0.5, "gateway 1": 0.5, "broker": 0.1, "load": 0.1}
    return Outcome(points, {"204": 1}, 1.0, 1, 1.0, 1.0, cpu_s, 1.0)


def failures(in_kafka):
    outcomes = {(way, lines): [outcome(100)] for way in (ONE, *OTHERS) for lines in (1, 1000)}
    peaks = dict.fromkeys(outcomes, 100.0)
    return _section(Plan(), outcomes, [outcome(50)], peaks, Counted(in_kafka, 1)).failures


def test_kafka_must_hold_what_every_gateway_but_the_one_that_publishes_nothing_acknowledged():
    assert failures(650) == []
    assert failures(649)
    assert failures(651)
