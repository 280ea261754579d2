from consumers.lag import LagGauge
from schemas.log import TopicPartition
from telemetry.metrics import LAG

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
    gauge = LagGauge(source, lambda: now[0])
    gauge.update([PARTITION], {})
    assert LAG.labels("lag-gauge", "0")._value.get() == 10
    source.offset = 10
    gauge.forget([PARTITION])
    now[0] = 5.0
    gauge.update([PARTITION], {})
    assert LAG.labels("lag-gauge", "0")._value.get() == 0
