"""End-to-end latency, read from the consumers' Prometheus histograms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

#: From the gateway's receipt of a block's oldest request to the block stored in both views.
_HISTOGRAM = "stepclock_consumer_end_to_end_seconds"


@dataclass(frozen=True, slots=True)
class Histogram:
    """Cumulative counts by upper bound in seconds; the last bound is infinite."""

    buckets: Mapping[float, float] = field(default_factory=dict)

    @property
    def count(self) -> float:
        """Number of observations."""
        return self.buckets.get(math.inf, 0.0)

    def quantile_bucket(self, share: float) -> tuple[float, float] | None:
        """The bucket in which this quantile lies, as (lower, upper] in seconds.

        The upper bound is infinite above the largest bucket. None without observations.
        """
        if not self.count:
            return None
        lower = 0.0
        for bound, count in sorted(self.buckets.items()):
            if count >= share * self.count:
                return lower, bound
            lower = bound
        raise AssertionError("BUG: the last bucket holds less than all observations")


def parse(exposition: str) -> Histogram:
    """The histogram in the text of a ``/metrics`` page; an empty one if it is not there."""
    return Histogram(
        {
            float(sample.labels["le"]): sample.value
            for family in text_string_to_metric_families(exposition)
            if family.name == _HISTOGRAM
            for sample in family.samples
            if sample.name == f"{_HISTOGRAM}_bucket"
        }
    )


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """All observations of several processes, whose bounds are the same."""
    total: dict[float, float] = {}
    for histogram in histograms:
        for bound, count in histogram.buckets.items():
            total[bound] = total.get(bound, 0.0) + count
    return Histogram(total)


def describe(histogram: Histogram) -> str:
    """p50 and p99, as exactly as buckets tell: ``p50 100 to 250 ms, p99 0.5 to 1 s``."""
    return ", ".join(
        f"p{share * 100:g} {_range(histogram.quantile_bucket(share))}" for share in (0.5, 0.99)
    )


def _range(bucket: tuple[float, float] | None) -> str:
    if bucket is None:
        return "unknown"
    lower, upper = bucket
    if math.isinf(upper):
        return f"over {lower:g} s"
    if upper < 1:
        return f"{lower * 1000:g} to {upper * 1000:g} ms"
    return f"{lower:g} to {upper:g} s"
