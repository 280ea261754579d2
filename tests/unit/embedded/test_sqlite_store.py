"""What the SQLite store does beyond the contract: both clocks, retention, the disk's troubles."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embedded.store.points import Point, PointParser
from embedded.store.store import SqliteStore
from schemas import retention
from schemas.line_protocol.bounds import MAX_TIME_NS, MIN_TIME_NS
from schemas.line_protocol.precision import Precision
from schemas.store.protocols import (
    Clock,
    LinesRefused,
    SeriesQuery,
    StoreMisconfigured,
    StoreUnavailable,
)

NOW_NS = 1_795_277_400_000_000_000
DAY_NS = 86_400 * 10**9
CLASSES = retention.parse(retention.default_text())

Open = Callable[..., SqliteStore]


class Clockwork:
    """Unix time that tests set."""

    def __init__(self) -> None:
        self.now_ns = NOW_NS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def now() -> Clockwork:
    return Clockwork()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def open_store(path: Path, now: Clockwork) -> Iterator[Open]:
    stores: list[SqliteStore] = []

    def open_store(**options: Any) -> SqliteStore:
        stores.append(SqliteStore(path, now_ns=now, **options))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Open) -> SqliteStore:
    return open_store()


def write(store: SqliteStore, lines: str, retention_class: str = "raw") -> None:
    store.write("n", retention_class, lines.encode(), Precision.NS)


def stored(store: SqliteStore, retention_class: str = "raw", experiment: str = "e") -> list[Any]:
    return [
        (dict(p.tags), p.time_ns, dict(p.fields))
        for p in store.points("n", retention_class, experiment)
    ]


# -- the step clock ---------------------------------------------------------------------------


def test_class_steps_takes_no_writes(store: SqliteStore) -> None:
    with pytest.raises(StoreMisconfigured, match="derived"):
        store.write("n", "steps", b"e,run=r a=1 1", Precision.MS)


def test_only_raw_and_nonfinite_have_a_step_clock(store: SqliteStore) -> None:
    line = f"e,run=r a=1,step=1i {NOW_NS}"
    write(store, line, "system")
    write(store, line, "events")
    assert stored(store, "steps") == []
    write(store, f"nonfinite,run=r,host=h count=1,step=4i {NOW_NS}", "events")
    assert stored(store, "steps", "nonfinite") == [
        ({"run": "r"}, 4_000_000, {"count": 1.0, "step": 4})
    ]


@pytest.mark.parametrize("step", ["1", "-1i", "9200000000001i", '"1"', "true"])
def test_a_step_that_is_none_leaves_the_point_by_wall_time_only(
    store: SqliteStore, step: str
) -> None:
    write(store, f"e,run=r a=1,step={step} {NOW_NS}")
    assert len(stored(store)) == 1
    assert stored(store, "steps") == []


def test_volatile_tags_can_be_chosen(open_store: Open) -> None:
    store = open_store(volatile_tags=["gpu"])
    write(store, f"e,run=r,gpu=0,host=h a=1,step=1i {NOW_NS}")
    assert stored(store, "steps")[0][0] == {"run": "r", "host": "h"}


def test_a_step_that_is_corrected_leaves_both_by_step(store: SqliteStore) -> None:
    """As in InfluxDB, where the step clock is written like any other class."""
    write(store, f"e,run=r a=1,step=1i {NOW_NS}")
    write(store, f"e,run=r a=1,step=2i {NOW_NS}")
    assert [fields["step"] for _, _, fields in stored(store)] == [2]
    assert [fields["step"] for _, _, fields in stored(store, "steps")] == [1, 2]


# -- retention --------------------------------------------------------------------------------


def test_sweep_deletes_what_each_class_no_longer_keeps(store: SqliteStore, now: Clockwork) -> None:
    write(store, f"e,run=old a=1,step=1i {NOW_NS}")
    write(store, f"e,run=old a=1 {NOW_NS}", "system")
    write(store, f"e,run=old a=1 {NOW_NS}", "events")
    now.now_ns += 60 * DAY_NS
    write(store, f"e,run=new a=1,step=1i {now.now_ns}")
    assert store.sweep() == 1  # of system
    assert [len(stored(store, name)) for name in ("raw", "system", "events")] == [2, 0, 1]
    now.now_ns += 31 * DAY_NS
    assert store.sweep() == 2  # of raw: a and step
    assert [tags for tags, _, _ in stored(store)] == [{"run": "new"}]
    assert store.sweep() == 0


def test_curves_by_step_outlive_the_points_they_came_from(
    store: SqliteStore, now: Clockwork
) -> None:
    write(store, f"e,run=r a=1,step=1i {NOW_NS}")
    now.now_ns += 1000 * DAY_NS
    store.sweep()
    assert stored(store) == []
    assert store.experiments("n") == []
    assert store.runs("n", "e") == []
    (series,) = store.series(SeriesQuery("n", "e", "a"))
    assert series.mean == (1.0,)


def test_a_series_that_was_swept_away_can_come_back(store: SqliteStore, now: Clockwork) -> None:
    write(store, f"e,run=r a=1 {NOW_NS}")
    now.now_ns += 100 * DAY_NS
    assert store.sweep() == 1
    write(store, f"e,run=r a=2 {now.now_ns}")
    assert stored(store) == [({"run": "r"}, now.now_ns, {"a": 2.0})]


def test_sweep_is_bounded(
    store: SqliteStore, now: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedded.store.store._SWEPT_VALUES", 4)
    write(store, "\n".join(f"e,run=r a=1 {NOW_NS + i}" for i in range(10)))
    write(store, "\n".join(f"e,run=r a=1 {NOW_NS + i}" for i in range(10)), "system")
    now.now_ns += 100 * DAY_NS
    deleted = [store.sweep(max_values=8) for _ in range(4)]
    assert deleted == [8, 10, 2, 0]


def test_sweep_of_an_empty_store_deletes_nothing(store: SqliteStore) -> None:
    assert store.sweep() == 0


def test_a_class_that_keeps_for_ever_takes_any_time(open_store: Open) -> None:
    classes = retention.parse(retention.default_text().replace('"90d"', '"forever"'))
    store = open_store(retention=classes)
    times = [-(2**63) + 2, -5, 0, 2**63 - 2]
    write(store, "\n".join(f"e,run=r a={i} {t}" for i, t in enumerate(times)))
    assert [time_ns for _, time_ns, _ in stored(store)] == times
    query = SeriesQuery("n", "e", "a", clock=Clock.WALL, start=-7, end=8, points=2)
    (series,) = store.series(query)
    assert (series.t, series.mean, series.count) == ((-7,), (1.5,), (2,))
    assert store.sweep() == 0


@pytest.mark.parametrize("time_ns", [MIN_TIME_NS, MAX_TIME_NS])
def test_a_query_without_bounds_finds_the_earliest_and_the_latest_time(
    open_store: Open, time_ns: int
) -> None:
    classes = retention.parse(retention.default_text().replace('"90d"', '"forever"'))
    store = open_store(retention=classes)
    write(store, f"e,run=r a=1 {time_ns}")
    (series,) = store.series(SeriesQuery("n", "e", "a", clock=Clock.WALL))
    assert (series.run, series.count) == ("r", (1,))


# -- values -----------------------------------------------------------------------------------


def test_an_unsigned_integer_that_sqlite_cannot_hold_is_refused_alone(store: SqliteStore) -> None:
    with pytest.raises(LinesRefused) as caught:
        write(store, f"e,run=a a={2**64 - 1}u {NOW_NS}\ne,run=b a={2**63 - 1}u {NOW_NS}")
    assert (caught.value.stored_others, caught.value.dropped) == (True, 1)
    assert stored(store) == [({"run": "b"}, NOW_NS, {"a": 2**63 - 1})]


def test_negative_zero_stays_negative(store: SqliteStore) -> None:
    write(store, f"e,run=r a=-0.0 {NOW_NS}")
    assert repr(stored(store)[0][2]["a"]) == "-0.0"


@pytest.mark.parametrize("points", [1, 3, 10, 100, 1000, 5000])
def test_dense_and_sparse_buckets_agree(store: SqliteStore, points: int) -> None:
    count = 2000
    write(
        store, "\n".join(f"e,run=r,rank={i % 2} a={i},step={i}i {NOW_NS + i}" for i in range(count))
    )
    (series,) = store.series(SeriesQuery("n", "e", "a", points=points))
    width = -(-count // points)
    assert series.t == tuple(range(0, count, width))
    assert sum(series.count) == count
    for t, mean, low, high in zip(series.t, series.mean, series.min, series.max, strict=True):
        last = min(t + width, count) - 1
        assert (low, high) == (t, last)
        assert mean == pytest.approx((t + last) / 2)


# -- one file ---------------------------------------------------------------------------------


def test_what_was_written_is_there_after_a_restart(open_store: Open) -> None:
    first = open_store()
    write(first, f"e,run=r a=1,step=1i {NOW_NS}")
    first.close()
    second = open_store()
    write(second, f"e,run=r b=2i {NOW_NS}")
    assert stored(second) == [({"run": "r"}, NOW_NS, {"a": 1.0, "step": 1, "b": 2})]
    with pytest.raises(LinesRefused):
        write(second, f"e,run=r b=2.5 {NOW_NS}")


def test_a_copy_taken_while_it_is_open_holds_what_was_written(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    """As after kill -9: nothing that a write returned for waits in the process."""
    write(store, f"e,run=r a=1 {NOW_NS}")
    (tmp_path / "copy").mkdir()
    for file in tmp_path.glob("store.db*"):
        shutil.copy(file, tmp_path / "copy" / file.name)
    copy = SqliteStore(tmp_path / "copy" / path.name)
    assert stored(copy) == [({"run": "r"}, NOW_NS, {"a": 1.0})]
    copy.close()


def test_readers_see_whole_writes_while_one_is_going_on(store: SqliteStore) -> None:
    batch = 500
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            seen.append(sum(s.count[0] for s in store.series(query)))

    query = SeriesQuery("n", "e", "a", points=1)
    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(20):
        first = i * batch
        write(
            store,
            "\n".join(f"e,run=r a=1,step={s}i {NOW_NS + s}" for s in range(first, first + batch)),
        )
    done.set()
    for reader in readers:
        reader.join()
    assert {count % batch for count in seen} <= {0}
    assert store.series(query)[0].count == (20 * batch,)


def test_a_full_disk_is_unavailable_and_stores_nothing(store: SqliteStore) -> None:
    write(store, f"e,run=r a=1 {NOW_NS}")
    store._file._writer.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StoreUnavailable):
        write(store, "\n".join(f"f{i},run=r b=1 {NOW_NS}" for i in range(5000)))
    store._file._writer.execute("PRAGMA max_page_count = 1000000")
    assert store.experiments("n") == ["e"]
    write(store, f"f1,run=r b=1 {NOW_NS}")
    assert stored(store, experiment="f1") == [({"run": "r"}, NOW_NS, {"b": 1.0})]


def test_a_file_that_another_writes_to_for_long_is_unavailable(
    open_store: Open, path: Path
) -> None:
    store = open_store(busy_timeout_s=0.01)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        write(store, f"e,run=r a=1 {NOW_NS}")
    other.execute("ROLLBACK")
    other.close()
    write(store, f"e,run=r a=1 {NOW_NS}")
    assert len(stored(store)) == 1


def test_a_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        SqliteStore(tmp_path / "nosuch" / "store.db")


# -- parsing ----------------------------------------------------------------------------------

plain_tokens = st.sampled_from(
    [
        *("1", "0.5", "-1.25", "3i", "-7i", "1e5", "1e400", "1.", ".5", "+1", "nan", "1_0", "0x1"),
        *("9223372036854775807i", "9223372036854775808i", "1ii", "1u", "t", '"a b"', '"a,b=c"'),
        *("", " 1", "²"),
    ]
)
names = st.sampled_from(["a", "b", "step", "train/loss", "a\\ b", "time", "é", '"q"'])
series = st.sampled_from(
    ["e", "e,run=r", "e,rank=0,run=r", "e,run=r\\ s", "#e", " e", "e,run=", ""]
)
times = st.sampled_from(
    [" 1", " -1", " 99999999999999999999", "", "  1", " 1 ", " 1.5", " ²", " 007"]
)
one_line = st.builds(
    lambda where, fields, time: where + " " + ",".join(f"{k}={v}" for k, v in fields) + time,
    series,
    st.lists(st.tuples(names, plain_tokens), min_size=1, max_size=3),
    times,
)


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(one_line, max_size=6))
@example(lines=["e,run=r a=1 1", " e a=1 1", " f a=1 1", " a=1 1"])
@example(lines=["e a=1 1", "e a=1,a=2 1"])
@example(lines=["e a=1 1", "e a=1\r 1", "e a=1 1\r"])
def test_a_parser_with_a_memory_agrees_with_a_fresh_one(lines: list[str]) -> None:
    with_memory = PointParser()
    parsed(with_memory, "e,run=r a=1,b=1,step=1i,train/loss=1 1\ne,rank=0,run=r é=1 1\ne a=1 1")
    for line in lines:
        assert parsed(with_memory, line) == parsed(PointParser(), line)
    assert parsed(with_memory, "\n".join(lines)) == parsed(PointParser(), "\n".join(lines))


def parsed(parser: PointParser, lines: str) -> list[tuple[Point, str]] | None:
    """The points with their values' types; None where they are refused."""
    try:
        return [(point, repr(point)) for point in parser.parse(lines.encode(), Precision.US)]
    except LinesRefused:
        return None


def test_of_equal_points_with_different_fields_in_one_batch_the_last_value_wins(
    store: SqliteStore,
) -> None:
    lines = (
        f"e,run=r a=1,b=1,step=7i {NOW_NS}",
        f"e,run=r b=2,a=2 {NOW_NS}",
        f"e,run=r b=3 {NOW_NS}",
        f"e,run=r c=1,b=0,step=7i {NOW_NS - 1}",
    )
    write(store, "\n".join(lines))
    assert stored(store) == [
        ({"run": "r"}, NOW_NS - 1, {"c": 1.0, "b": 0.0, "step": 7}),
        ({"run": "r"}, NOW_NS, {"a": 2.0, "b": 3.0, "step": 7}),
    ]
    assert stored(store, "steps") == [
        ({"run": "r"}, 7_000_000, {"a": 1.0, "b": 0.0, "c": 1.0, "step": 7})
    ]
