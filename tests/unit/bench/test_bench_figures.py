from __future__ import annotations

import math

import pytest

from bench.lab.figures import (
    Spread,
    column,
    deviation_percent,
    per_million,
    percentile,
    share_percent,
    short,
    whole,
)
from bench.lab.machine import parse_cpu_s


def test_spread_is_least_middle_and_greatest():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(1.0, 2.0, 3.0)
    assert Spread.of([1.0, 2.0]).median == 1.5


def test_spread_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (99, 99), (100, 100)])
def test_percentile_is_the_nearest_rank(percent, expected):
    assert percentile(range(100, 0, -1), percent) == expected


def test_percentile_of_one_value_is_that_value():
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7.0


def test_figures_of_nothing_are_not_numbers():
    assert math.isnan(percentile([], 50))
    assert math.isnan(per_million(1.0, 0))
    assert math.isnan(share_percent(0, 0))
    assert short(math.nan) == whole(math.nan) == "-"


def test_deviation_is_negative_below_the_target():
    assert deviation_percent(9_500, 10_000) == -5.0
    assert deviation_percent(10_500, 10_000) == 5.0


def test_cost_is_for_a_million_points():
    assert per_million(0.5, 500_000) == 1.0


def test_figures_are_written_to_three_digits():
    assert [short(value) for value in (0.9124, 9.124, 91.24, 912.4)] == [
        "0.912",
        "9.12",
        "91.2",
        "912",
    ]


def test_column_shows_one_run_as_one_figure():
    assert column([1234.0], whole) == "1,234"
    assert column([1.0, 3.0, 2.0], whole) == "1 / 2 / 3"


def test_cpu_time_is_read_behind_a_name_that_holds_parentheses():
    # 14th and 15th field of proc(5)'s stat, in ticks of 10 ms
    stat = "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 4 0"
    assert parse_cpu_s(stat) == pytest.approx(3.0)
