"""What the figures of a log say: lag, rates, a forecast, and advice that the figures support."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from schemas.log.protocols import TopicPartition

#: Below this difference, as a share of the larger rate, lag neither grows nor shrinks:
#: commits come in steps.
_STEADY = 0.05

#: A partition with this share of all lag, and several times its fair share, is called hot.
_HOT_SHARE = 0.5
_HOT_FACTOR = 3.0

#: Less than this left until retention deletes what is not settled is a warning.
_RETENTION_WARNING_H = 24.0


@dataclass(frozen=True, slots=True)
class PartitionFigures:
    """Offsets of one partition. next_offset: where the group goes on; None if unknown to it.

    oldest_ms: when the oldest unsettled record was written (Unix time); None if there is
    none, or if it was not asked for.
    """

    start: int
    end: int
    next_offset: int | None
    oldest_ms: int | None = None

    @property
    def position(self) -> int:
        """Everything below is settled, or gone."""
        return self.start if self.next_offset is None else max(self.start, self.next_offset)

    @property
    def lag(self) -> int:
        """Records that are there and not settled."""
        return max(0, self.end - self.position)

    @property
    def lost(self) -> int:
        """Records that were deleted unread."""
        return 0 if self.next_offset is None else max(0, self.start - self.next_offset)


@dataclass(frozen=True, slots=True)
class Look:
    """The figures of one moment. at_s: on a monotonic clock; at_ms: Unix time.

    members: consumers in the group, None if that can't be known. retention_ms: of a topic;
    None, or a topic that is missing, keeps what is not settled for ever.
    """

    at_s: float
    at_ms: int
    partitions: Mapping[TopicPartition, PartitionFigures]
    members: int | None = None
    retention_ms: Mapping[str, int | None] | None = None

    @property
    def lag(self) -> int:
        """Unsettled records of all partitions."""
        return sum(figures.lag for figures in self.partitions.values())


@dataclass(frozen=True, slots=True)
class Rates:
    """Records/s that came in and that were settled between two looks."""

    produced: float
    settled: float
    over_s: float

    @property
    def growth(self) -> float:
        """Records/s by which the lag grows; negative if it shrinks, 0.0 if it is steady."""
        growth = self.produced - self.settled
        return 0.0 if abs(growth) <= _STEADY * max(self.produced, self.settled) else growth


@dataclass(frozen=True, slots=True)
class Report:
    """Two looks, and what follows from them. retention_left_h: if nothing more is settled."""

    now: Look
    rates: Rates | None
    forecast: str
    retention_left_h: float | None
    advice: tuple[str, ...]


def report(now: Look, before: Look | None) -> Report:
    """The report on a look; without an earlier one there are no rates."""
    rates = None if before is None else _rates(before, now)
    left_h = min(_retention_left_h(now), default=None)
    return Report(now, rates, _forecast(now, rates), left_h, tuple(_advice(now, rates, left_h)))


def _rates(before: Look, now: Look) -> Rates | None:
    over_s = now.at_s - before.at_s
    common = now.partitions.keys() & before.partitions.keys()
    if over_s <= 0 or not common:
        return None
    produced = sum(now.partitions[p].end - before.partitions[p].end for p in common)
    settled = sum(now.partitions[p].position - before.partitions[p].position for p in common)
    return Rates(max(0, produced) / over_s, max(0, settled) / over_s, over_s)


def _retention_left_h(now: Look) -> Iterator[float]:
    for partition, figures in now.partitions.items():
        retention_ms = (now.retention_ms or {}).get(partition.topic)
        if retention_ms is not None and figures.oldest_ms is not None:
            yield max(0.0, (retention_ms - (now.at_ms - figures.oldest_ms)) / 3_600_000)


def _forecast(now: Look, rates: Rates | None) -> str:
    if now.lag == 0:
        return "nothing waits"
    if rates is None:
        return f"{now.lag} records wait"
    if rates.growth > 0:
        return f"grows by {rates.growth:.3g} records/s"
    if rates.growth < 0:
        return f"drains in {duration(now.lag / -rates.growth)}"
    if rates.settled > 0:
        return f"steady: what waits is {duration(now.lag / rates.settled)} of work"
    return "stands still"


def _advice(now: Look, rates: Rates | None, left_h: float | None) -> Iterator[str]:
    lost = {str_of(p): f.lost for p, f in now.partitions.items() if f.lost}
    if lost:
        yield (
            f"{sum(lost.values())} records were deleted before they were read "
            f"({', '.join(sorted(lost))}): the workers stop there; once that is understood, "
            "start one with --accept-loss"
        )
    if left_h is not None and left_h < _RETENTION_WARNING_H:
        yield (
            f"in {duration(left_h * 3600)} the log may delete records that are not settled: "
            "raise retention.ms of the topic, or settle them"
        )
    if now.lag == 0:
        return
    if now.members == 0:
        yield "no consumer is in the group: start one with 'stepclock-server consumer'"
        return
    if rates is None:
        return
    if rates.settled == 0:
        if now.members is None:
            yield "nothing was settled: see whether a worker runs, and /health for what it says"
        else:
            yield (
                f"{now.members} consumers are there and settle nothing: see their /health and "
                "log; as a rule the store is away or refuses us"
            )
        return
    yield from _of_scaling(now, rates)


def _of_scaling(now: Look, rates: Rates) -> Iterator[str]:
    """More consumers help where several partitions wait and there is not one for each."""
    hot = _hot(now)
    if hot is not None:
        yield (
            f"{str_of(hot)} holds {now.partitions[hot].lag / now.lag:.0%} of the lag: one worker "
            "reads a partition, so more of them won't help there; spread the writes over "
            "several streams (header Stepclock-Stream)"
        )
    elif rates.growth >= 0 and now.members is not None:
        waiting = sum(figures.lag > 0 for figures in now.partitions.values())
        if now.members < waiting:
            yield (
                f"more consumers help, up to {waiting} (there are {now.members}), as long as "
                "records settled/s rise with them; if not, the store is the limit"
            )
        else:
            yield (
                f"there are {now.members} consumers for the {waiting} partitions that wait: "
                "more won't help; look at the store's write times and at STEPCLOCK_BATCH_POINTS"
            )


def _hot(now: Look) -> TopicPartition | None:
    """The partition that holds most of the lag; None if it is spread."""
    of_topic: dict[str, int] = {}
    for partition in now.partitions:
        of_topic[partition.topic] = of_topic.get(partition.topic, 0) + 1
    worst = max(now.partitions, key=lambda p: now.partitions[p].lag)
    share = now.partitions[worst].lag / now.lag
    fair = 1 / of_topic[worst.topic]
    return worst if share >= _HOT_SHARE and share >= _HOT_FACTOR * fair else None


def str_of(partition: TopicPartition) -> str:
    """``stepclock.raw[3]``."""
    return f"{partition.topic}[{partition.partition}]"


def duration(seconds: float) -> str:
    """A time for people: ``40 s``, ``3 min``, ``5.2 h``, ``3.1 d``."""
    for unit, length in (("d", 86_400), ("h", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
