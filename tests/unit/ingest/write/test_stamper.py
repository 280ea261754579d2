from ingest.write.ingest_classes import Stamper


def test_times_given_by_the_gateway_increase_though_its_clock_steps_back_and_forth():
    clock = [100, 101, 50, 51, 10_000, 9_999, 101]
    readings = iter(clock)
    stamp = Stamper(lambda: next(readings))
    times = [stamp() for _ in clock]
    assert times == [100, 101, 102, 103, 10_000, 10_001, 10_002]
