"""retention.toml: what it says, and what it may not say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.influx.admin import default_shard_s
from adapters.settings import load_retention
from schemas.retention import (
    InvalidRetention,
    Kind,
    RetentionClass,
    default_text,
    format_duration,
    is_reserved,
    parse,
    parse_duration,
)
from schemas.rollup import Rollup
from schemas.store.protocols import SeriesQuery
from schemas.store.windows import cut

DAY_S = 86_400


def text(**classes: str) -> str:
    """A retention.toml of the required classes, some of them replaced or more added."""
    tables = {
        "raw": 'kind = "ingest"\nkeep = "90d"',
        "events": 'kind = "ingest"\nkeep = "400d"',
        "steps": 'kind = "derived"\nkeep = "forever"',
    } | classes
    return "\n".join(f"[classes.{name}]\n{body}" for name, body in tables.items() if body)


def test_the_file_that_ships_says_what_the_documentation_says() -> None:
    classes = parse(default_text())
    assert list(classes.values()) == [
        RetentionClass("raw", Kind.INGEST, 90 * DAY_S),
        RetentionClass("system", Kind.INGEST, 30 * DAY_S),
        RetentionClass("events", Kind.INGEST, 400 * DAY_S),
        RetentionClass("steps", Kind.DERIVED, None, 100 * 365 * DAY_S),
        RetentionClass(
            "rollup_5m",
            Kind.DERIVED,
            400 * DAY_S,
            rollup=Rollup("raw", window_s=300, every_s=1800, delay_s=60, look_back_s=3 * 3600),
        ),
    ]


def test_a_bucket_is_named_after_namespace_and_class() -> None:
    assert parse(default_text())["raw"].bucket("vision") == "vision/raw"


def test_the_smallest_file_is_read() -> None:
    assert set(parse(text())) == {"raw", "events", "steps"}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("x", "not valid TOML"),
        ("", "expected tables"),
        ("classes = 1", "expected tables"),
        (text() + "\n[other]", "expected tables"),
        ("[classes]\nraw = 1", "'raw' is not a table"),
        (text(raw=""), "'raw' must exist"),
        (text(events=""), "'events' must exist"),
        (text(steps=""), "'steps' must exist"),
        (text(raw='kind = "derived"\nkeep = "1d"'), "'raw' must exist and be of kind 'ingest'"),
        (text(steps='kind = "derived"\nkeep = "90d"'), "keep forever"),
        (text(steps='kind = "ingest"\nkeep = "forever"'), "be derived"),
        (text(raw='kind = "ingest"'), "keep must be a string"),
        (text(raw='kind = "ingest"\nkeep = 90'), "keep must be a string"),
        (text(raw='kind = "ingest"\nkeep = "90"'), "is no duration"),
        (text(raw='kind = "ingest"\nkeep = "0d"'), "is no duration"),
        (text(raw='kind = "ingest"\nkeep = "-1d"'), "is no duration"),
        (text(raw='kind = "ingest"\nkeep = "30m"'), "is no duration"),
        (text(raw='kind = "other"\nkeep = "1d"'), "kind must be"),
        (text(raw='keep = "1d"'), "kind must be"),
        (text(raw='kind = "ingest"\nkeep = "1d"\nshards = "1d"'), "unknown key 'shards'"),
        (text(raw='kind = "ingest"\nkeep = "1d"\nshard = "2d"'), "shard must not be longer"),
        (text(Upper='kind = "ingest"\nkeep = "1d"'), "class name 'Upper'"),
        (text(**{'"a/b"': 'kind = "ingest"\nkeep = "1d"'}), "class name 'a/b'"),
    ],
)
def test_what_a_file_may_not_say_is_refused_with_a_reason(broken: str, reason: str) -> None:
    with pytest.raises(InvalidRetention, match=reason):
        parse(broken)


ROLLUP = {"from": "raw", "window": "5m", "every": "10m", "delay": "1m", "look_back": "1h"}


def rolled(**changes: str | None) -> str:
    """A retention.toml with a class `coarse`, some keys of its rollup replaced or taken out."""
    keys = {key: value for key, value in (ROLLUP | changes).items() if value is not None}
    table = ", ".join(f'{key} = "{value}"' for key, value in keys.items())
    return text(coarse=f'kind = "derived"\nkeep = "9d"\nrollup = {{{table}}}')


def test_a_class_can_be_filled_from_another() -> None:
    assert parse(rolled())["coarse"].rollup == Rollup("raw", 300, 600, 60, 3600)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (rolled(**{"from": "nix"}), "'coarse': rollup: from must be an ingest class, not 'nix'"),
        (rolled(**{"from": "steps"}), "from must be an ingest class"),
        (rolled(**{"from": "coarse"}), "from must be an ingest class"),
        (rolled(window=None), "rollup: window is missing"),
        (rolled(width="5m"), "unknown key 'width'"),
        (rolled(window="5"), "window: '5' is no span"),
        (rolled(delay="0m"), "delay: '0m' is no span"),
        (rolled(look_back="forever"), "look_back: 'forever' is no span"),
        (rolled(every="7m"), "every must be a multiple of window"),
        (rolled(look_back="64m"), "look_back must be a multiple of window"),
        (rolled(every="2h"), "look_back must not be shorter than every"),
        (rolled(look_back="9d"), "'coarse' keeps 9d, less than look_back"),
        (rolled().replace("90d", "1h"), "'raw' keeps 1h, less than look_back"),
        (text(coarse='kind = "derived"\nkeep = "9d"\nrollup = "5m"'), "rollup: is not a table"),
        (rolled().replace('"9d"', '"9d"\nshard = "1d"').replace('"5m"', "5"), "must be a string"),
        (
            rolled().replace(
                '[classes.coarse]\nkind = "derived"', '[classes.coarse]\nkind = "ingest"'
            ),
            "only a derived class",
        ),
    ],
)
def test_a_rollup_that_would_lose_or_cut_windows_is_refused(broken: str, reason: str) -> None:
    with pytest.raises(InvalidRetention, match=reason):
        parse(broken)


def test_a_file_is_named_in_its_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("x")
    with pytest.raises(InvalidRetention, match=r"mine\.toml"):
        load_retention(path)
    with pytest.raises(FileNotFoundError):
        load_retention(tmp_path / "none.toml")
    assert set(load_retention(None)) == set(parse(default_text()))


# -- durations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spelled", "seconds"),
    [("1h", 3600), ("24h", DAY_S), ("90d", 90 * DAY_S), ("2y", 730 * DAY_S), ("forever", None)],
)
def test_durations_mean(spelled: str, seconds: int | None) -> None:
    assert parse_duration(spelled) == seconds


@pytest.mark.parametrize("spelled", ["", "1", "d", "1 d", "01d", "1.5d", "1w", "1D", "1d1h", "٣d"])
def test_other_spellings_are_no_durations(spelled: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(spelled)


@given(hours=st.integers(1, 999_999))
def test_a_duration_is_formatted_as_it_can_be_read(hours: int) -> None:
    assert parse_duration(format_duration(hours * 3600)) == hours * 3600
    assert parse_duration(format_duration(None)) is None


def test_seconds_that_are_no_hours_are_formatted_too() -> None:
    assert format_duration(90) == "90s"


@pytest.mark.parametrize(
    ("keep_s", "shard_s"),
    [
        (3600, 3600),
        (DAY_S, 3600),
        (2 * DAY_S, DAY_S),
        (180 * DAY_S, DAY_S),
        (400 * DAY_S, 7 * DAY_S),
        (None, 7 * DAY_S),
    ],
)
def test_influxdb_chooses_shards_by_retention(keep_s: int | None, shard_s: int) -> None:
    assert default_shard_s(keep_s) == shard_s


# -- names and buckets of a series ------------------------------------------------------------


def test_reserved_experiments_are_ours_and_those_with_an_underscore() -> None:
    assert all(map(is_reserved, ["nonfinite", "run_config", "delivery", "_internal", "_"]))
    assert not any(map(is_reserved, ["resnet50", "nonfinite2", "a_b", ""]))


@given(
    start=st.none() | st.integers(-100, 100),
    end=st.none() | st.integers(-100, 100),
    points=st.integers(1, 50),
    first=st.integers(-100, 100),
    extent=st.integers(0, 100),
)
def test_buckets_cover_the_range_with_no_more_than_asked(
    start: int | None, end: int | None, points: int, first: int, extent: int
) -> None:
    last = first + extent
    query = SeriesQuery("n", "e", "m", start=start, end=end, points=points)
    buckets = cut(query, first, last)
    low = first if start is None else start
    high = last + 1 if end is None else end
    if high <= low:
        assert buckets is None
        return
    assert buckets is not None
    assert (buckets.start, buckets.end) == (low, high)
    used = -(-(high - low) // buckets.width)
    assert 1 <= used <= points
    assert buckets.width == 1 or -(-(high - low) // (buckets.width - 1)) > points


def test_no_class_takes_the_topic_of_the_dead_letters() -> None:
    with pytest.raises(InvalidRetention, match="'dlq' would be the topic of the dead letters"):
        parse(text(dlq='kind = "ingest"\nkeep = "9d"'))


@pytest.mark.parametrize("keep", ["291y", "999999d", "999999y"])
def test_more_years_than_a_database_can_count_are_refused(keep: str) -> None:
    with pytest.raises(InvalidRetention, match='over 290 years; write "forever"'):
        parse(text(raw=f'kind = "ingest"\nkeep = "{keep}"'))


@pytest.mark.parametrize("value", ["[" * 5000, "{a=" * 5000, "9" * 5000], ids=lambda v: v[:3])
def test_a_file_that_no_toml_parser_likes_is_refused_as_any_other(value: str) -> None:
    with pytest.raises(InvalidRetention, match="not valid TOML"):
        parse(f"a = {value}")
