import pytest

from bench.growth.curve import Curve, Growth, failures, table
from bench.lab.figures import short

DECADES = (100, 1_000, 10_000, 100_000)


def curve(cost, expected=Growth.FLAT):
    return Curve("series", "µs a line", expected, [(n, cost(n)) for n in DECADES], short)


@pytest.mark.parametrize(
    ("cost", "growth"),
    [
        (lambda n: 7.0, Growth.FLAT),
        (lambda n: 7.0 * n**0.14, Growth.FLAT),
        (lambda n: 7.0 / n, Growth.FLAT),
        (lambda n: 7.0 * n**0.5, Growth.LINEAR),
        (lambda n: 7.0 * n, Growth.LINEAR),
        (lambda n: 7.0 * n**1.2, Growth.WORSE),
        (lambda n: 0.0, Growth.FLAT),
    ],
)
def test_the_slope_of_the_logarithm_decides(cost, growth):
    assert curve(cost).growth is growth


def test_a_cost_that_grows_faster_than_expected_is_a_failure():
    grows, stays = curve(float), curve(lambda n: 1.0)
    [failure] = failures([grows, stays])
    assert failure == "µs a line over series is linear (slope 1.00); expected flat"


def test_a_cost_that_grows_slower_than_expected_is_none():
    assert not failures([curve(lambda n: 1.0, Growth.LINEAR)])


def test_the_table_has_a_column_for_each_number_and_a_dash_where_nothing_was_measured():
    short_one = Curve("series", "MiB", Growth.LINEAR, [(100, 1.0), (1_000, 10.0)], short)
    found = table("series", [curve(lambda n: 2.0), short_one])
    assert list(found.columns[:5]) == ["series", "100", "1,000", "10,000", "100,000"]
    assert found.rows[1] == ["MiB", "1.00", "10.0", "-", "-", "1.00", "linear", "linear"]
