from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from demo.latency import Histogram as Latencies
from demo.latency import describe, merge, parse


def exposition(*seconds: float) -> str:
    registry = CollectorRegistry()
    histogram = Histogram(
        "stepclock_consumer_end_to_end_seconds", "…", buckets=(0.01, 0.1, 1), registry=registry
    )
    for value in seconds:
        histogram.observe(value)
    return generate_latest(registry).decode()


def test_quantiles_are_told_as_the_bounds_of_their_buckets() -> None:
    latencies = parse(exposition(*[0.005] * 60, *[0.05] * 39, 0.5))
    assert latencies.count == 100
    assert describe(latencies) == "p50 0 to 10 ms, p99 10 to 100 ms"
    assert latencies.quantile_bucket(1.0) == (0.1, 1.0)


def test_observations_of_several_consumers_are_one_distribution() -> None:
    latencies = merge([parse(exposition(0.005)), parse(exposition(0.5, 0.5, 0.5))])
    assert latencies.quantile_bucket(0.25) == (0.0, 0.01)
    assert latencies.quantile_bucket(0.5) == (0.1, 1.0)


def test_what_lies_above_all_buckets_is_not_given_a_figure() -> None:
    latencies = parse(exposition(2.0))
    assert latencies.quantile_bucket(0.5) == (1.0, math.inf)
    assert describe(latencies).startswith("p50 over 1 s")


def test_without_observations_nothing_is_claimed() -> None:
    assert describe(Latencies()) == "p50 unknown, p99 unknown"
    assert parse("# nothing here\n").count == 0
