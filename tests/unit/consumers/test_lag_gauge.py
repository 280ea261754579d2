import pytest

from consumers.observe import LagGauge
from schemas.log.protocols import TopicPartition
from telemetry.metrics import LAG, OLDEST_UNSETTLED

PARTITION = TopicPartition("lag-gauge", 0)


class Source:
    """A log that ends at 10, and what the group has committed."""

    offset = 0

    def end_offsets(self, partitions):
        return dict.fromkeys(partitions, 10)

    def committed(self, partitions):
        return dict.fromkeys(partitions, self.offset)


def test_a_partition_that_came_back_does_not_show_the_lag_of_its_first_time():
    source, now = Source(), [0.0]
    gauge = LagGauge(source, lambda: now[0], lambda: 0)
    gauge.update([PARTITION], {}, {})
    assert LAG.labels("lag-gauge", "0")._value.get() == 10
    source.offset = 10
    gauge.forget([PARTITION])
    now[0] = 5.0
    gauge.update([PARTITION], {}, {})
    assert LAG.labels("lag-gauge", "0")._value.get() == 0


@pytest.mark.parametrize(
    ("mark", "written_ms", "age_s"),
    [
        (4, {PARTITION: 1_000}, 9.0),
        (10, {PARTITION: 1_000}, 0.0),  # nothing waits
        (4, {}, 0.0),  # nothing polled yet
        (4, {PARTITION: 11_000}, 0.0),  # written by a clock ahead of ours
    ],
)
def test_the_age_is_that_of_the_oldest_record_that_waits(mark, written_ms, age_s):
    gauge = LagGauge(Source(), lambda: 0.0, lambda: 10 * 10**9)
    gauge.update([PARTITION], {PARTITION: mark}, written_ms)
    assert OLDEST_UNSETTLED.labels("lag-gauge", "0")._value.get() == age_s
    gauge.forget([PARTITION])
