"""What every store promises: the fake, SQLite and a real InfluxDB pass the same tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.influx.connection import InfluxConnection
from adapters.influx.reader import InfluxReader
from schemas.line_protocol.precision import Precision
from schemas.store.attempts import AttemptState
from schemas.store.protocols import (
    Clock,
    FieldConflict,
    LinesRefused,
    RunSeries,
    RunSummary,
    SeriesQuery,
    StoredPoint,
    StoreMisconfigured,
    StoreUnavailable,
)
from schemas.store.run_state import line_of
from tests.contract.store.stores import (
    CLASSES,
    MS,
    RECENT_NS,
    InInflux,
    InMemory,
    InSqlite,
    Sample,
    Store,
    fresh_name,
    lines_of,
)
from tests.services import Influx

REAL_INFLUX = pytest.param("influx", marks=pytest.mark.real)

#: Examples share a store; each takes an experiment or a namespace of its own.
FEW_EXAMPLES = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

ODD_NAMES = [
    "train/loss",
    "a space",
    "a,comma",
    "an=equals",
    'a "quote"',
    "an 'apostrophe'",
    "Größe 🦜",
    "back\\slash",
    "; DROP",
    "100%",
    "time()",
    "name",
    "*",
]


def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return InMemory()
    if request.param == "sqlite":
        return InSqlite(tmp_path)
    return InInflux(request.getfixturevalue("influx"))


@pytest.fixture(params=["memory", "sqlite", REAL_INFLUX])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = make_store(request, tmp_path)
    yield store
    store.close()


@pytest.fixture(params=["sqlite", REAL_INFLUX])
def durable_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store that knows retention classes; the fake takes everything."""
    store = make_store(request, tmp_path)
    yield store
    store.close()


@pytest.fixture
def namespace(store: Store) -> str:
    return store.namespace()


def points_of(
    store: Store, namespace: str, experiment: str, retention_class: str = "raw"
) -> list[StoredPoint]:
    return list(store.reader.points(namespace, retention_class, experiment))


# -- writing ----------------------------------------------------------------------------------


def test_what_was_written_is_read(store: Store, namespace: str) -> None:
    sample = Sample(
        "resnet50", {"run": "r1", "rank": "0"}, {"loss": 0.5, "step": 7, "ok": True}, RECENT_NS
    )
    store.write(namespace, sample.line)
    (point,) = points_of(store, namespace, "resnet50")
    assert (point.experiment, dict(point.tags), point.time_ns) == (
        "resnet50",
        {"run": "r1", "rank": "0"},
        RECENT_NS,
    )
    assert dict(point.fields) == {"loss": 0.5, "step": 7, "ok": True}


def test_points_of_one_run_are_read_without_those_of_others(store: Store, namespace: str) -> None:
    store.write(namespace, b"e,run=r a=1 %d\ne,run=r'2 a=2 %d" % (RECENT_NS, RECENT_NS))
    store.write(namespace, b"e,run=r,rank=1 a=3 %d\ne a=4 %d" % (RECENT_NS, RECENT_NS))

    def values(run: str | None) -> list[object]:
        points = store.reader.points(namespace, "raw", "e", run)
        return sorted(point.fields["a"] for point in points)

    assert values("r") == [1.0, 3.0]
    assert values("r'2") == [2.0]
    assert values("nosuch") == []
    assert values(None) == [1.0, 2.0, 3.0, 4.0]


def test_a_point_written_twice_is_one(store: Store, namespace: str) -> None:
    for _ in range(2):
        store.write(namespace, b"e,run=r loss=1,step=1i %d" % RECENT_NS)
    assert len(points_of(store, namespace, "e")) == 1
    assert len(points_of(store, namespace, "e", "steps")) == 1


def test_the_last_write_of_a_point_wins_field_by_field(store: Store, namespace: str) -> None:
    store.write(namespace, b"e,run=r a=1,b=2 %d" % RECENT_NS)
    store.write(namespace, b"e,run=r b=3,c=4 %d" % RECENT_NS)
    (point,) = points_of(store, namespace, "e")
    assert dict(point.fields) == {"a": 1.0, "b": 3.0, "c": 4.0}


def test_the_last_line_of_a_batch_wins(store: Store, namespace: str) -> None:
    store.write(namespace, b"e,run=r a=1,b=1 %d\ne,run=r a=2 %d" % (RECENT_NS, RECENT_NS))
    (point,) = points_of(store, namespace, "e")
    assert dict(point.fields) == {"a": 2.0, "b": 1.0}


def test_the_order_of_tags_does_not_make_another_series(store: Store, namespace: str) -> None:
    store.write(namespace, b"e,run=r,rank=0 a=1 %d" % RECENT_NS)
    store.write(namespace, b"e,rank=0,run=r a=2 %d" % RECENT_NS)
    (point,) = points_of(store, namespace, "e")
    assert dict(point.fields) == {"a": 2.0}


@pytest.mark.parametrize("precision", [Precision.NS, Precision.US, Precision.MS, Precision.S])
def test_the_time_counts_in_the_precision_of_the_write(
    store: Store, namespace: str, precision: Precision
) -> None:
    store.writer.write(namespace, "raw", b"e a=1 %d" % (RECENT_NS // precision.ns), precision)
    (point,) = points_of(store, namespace, "e")
    assert point.time_ns == RECENT_NS


def test_a_type_conflict_is_told_by_measurement_field_and_kind(
    store: Store, namespace: str
) -> None:
    store.write(namespace, b"an\\ e,run=r a\\ b=1 %d" % RECENT_NS)
    with pytest.raises(LinesRefused) as caught:
        store.write(namespace, b'an\\ e,run=r a\\ b="1" %d' % (RECENT_NS + 1))
    assert caught.value.conflict == FieldConflict("an e", "a b", "string")


def test_lines_older_than_their_class_keeps_are_told_apart(
    durable_store: Store,
) -> None:
    namespace = durable_store.namespace()
    with pytest.raises(LinesRefused) as caught:
        durable_store.write(namespace, b"e,run=r a=1 1000\ne,run=r a=1 %d" % RECENT_NS)
    assert (caught.value.outdated, caught.value.dropped, caught.value.conflict) == (True, 1, None)


def test_a_type_conflict_drops_its_line_and_keeps_the_neighbours(
    store: Store, namespace: str
) -> None:
    store.write(namespace, b"e,run=r a=1 %d" % RECENT_NS)
    batch = b"e,run=r2 a=2 %d\ne,run=r3 a=3i,b=1 %d\ne,run=r4 a=4 %d"
    with pytest.raises(LinesRefused) as caught:
        store.writer.write(namespace, "raw", batch % ((RECENT_NS,) * 3), Precision.NS)
    assert caught.value.stored_others
    assert caught.value.dropped == 1
    points = {p.tags["run"]: dict(p.fields) for p in points_of(store, namespace, "e")}
    assert points == {"r": {"a": 1.0}, "r2": {"a": 2.0}, "r4": {"a": 4.0}}


def test_within_a_batch_the_first_type_of_a_field_stands(store: Store, namespace: str) -> None:
    with pytest.raises(LinesRefused) as caught:
        store.writer.write(
            namespace,
            "raw",
            b"e,run=a x=1i %d\ne,run=b x=1 %d" % (RECENT_NS, RECENT_NS),
            Precision.NS,
        )
    assert caught.value.stored_others
    assert [dict(p.fields) for p in points_of(store, namespace, "e")] == [{"x": 1}]


def test_types_of_one_class_do_not_bind_another(store: Store, namespace: str) -> None:
    store.writer.write(namespace, "raw", b"e x=1i %d" % RECENT_NS, Precision.NS)
    store.writer.write(namespace, "system", b"e x=1.5 %d" % RECENT_NS, Precision.NS)
    assert [dict(p.fields) for p in points_of(store, namespace, "e", "system")] == [{"x": 1.5}]


@pytest.mark.parametrize(
    "bad",
    [
        b"e,run=r a=NaN 1",
        b"e,run=r a= 1",
        b"e,run= a=1 1",
        b"no fields",
        b"e a=99999999999999999999i",
    ],
    ids=["nan", "no value", "empty tag", "no fields", "integer overflow"],
)
def test_a_malformed_line_stores_nothing_of_its_batch(
    store: Store, namespace: str, bad: bytes
) -> None:
    good = b"e,run=good a=1 %d" % RECENT_NS
    with pytest.raises(LinesRefused) as caught:
        store.writer.write(namespace, "raw", good + b"\n" + bad, Precision.NS)
    assert not caught.value.stored_others
    assert points_of(store, namespace, "e") == []


def test_a_time_beyond_64_bits_stores_nothing_of_its_batch(store: Store, namespace: str) -> None:
    batch = b"e,run=good a=1 1\ne,run=bad a=1 %d" % (2**63 - 1)
    with pytest.raises(LinesRefused) as caught:
        store.writer.write(namespace, "raw", batch, Precision.S)
    assert not caught.value.stored_others
    assert points_of(store, namespace, "e") == []


def test_a_point_older_than_its_class_keeps_is_dropped_alone(durable_store: Store) -> None:
    namespace = durable_store.namespace()
    keep_s = CLASSES["raw"].keep_s
    assert keep_s is not None
    # By days: InfluxDB takes an older point as well if its shard, a day here, is there already.
    old_ns = RECENT_NS - (keep_s + 2 * 86_400) * 10**9
    young_ns = RECENT_NS - (keep_s - 2 * 3600) * 10**9
    batch = b"e,run=old a=1 %d\ne,run=young a=1 %d" % (old_ns, young_ns)
    with pytest.raises(LinesRefused) as caught:
        durable_store.writer.write(namespace, "raw", batch, Precision.NS)
    assert caught.value.stored_others
    assert caught.value.dropped == 1
    assert [p.tags["run"] for p in points_of(durable_store, namespace, "e")] == ["young"]


def test_a_class_that_does_not_exist_is_a_misconfiguration(durable_store: Store) -> None:
    namespace = durable_store.namespace()
    with pytest.raises(StoreMisconfigured):
        durable_store.writer.write(namespace, "nosuch", b"e a=1 1", Precision.NS)


def test_an_empty_batch_stores_nothing(store: Store, namespace: str) -> None:
    store.writer.write(namespace, "raw", b"", Precision.NS)
    assert store.reader.experiments(namespace) == []


def test_a_store_answers_ping_and_closes_twice(store: Store) -> None:
    store.writer.ping()
    store.writer.close()
    store.writer.close()


def test_the_influx_reader_answers_ping(influx: Influx) -> None:
    reader = InfluxReader(InfluxConnection(influx.url, influx.token, influx.org))
    reader.ping()
    reader.close()
    stranger = InfluxReader(InfluxConnection(influx.url, "not-the-token", influx.org))
    with pytest.raises(StoreUnavailable):
        stranger.ping()
    stranger.close()
    stranger.close()


# -- reading ----------------------------------------------------------------------------------


def test_of_a_field_that_had_several_kinds_influxdb_gives_one_and_it_is_read_as_that(
    influx: Influx,
) -> None:
    store = InInflux(influx)
    namespace = store.namespace()
    # Kinds are told apart within a shard only, which is a day here.
    times = [RECENT_NS - days * 86_400 * 10**9 for days in (9, 6, 3)]
    kinds = {"text": [b"true", b'"a"', b"true"], "whole": [b"7i", b'"b"', b"9i"]}
    kinds["number"] = [b"7i", b"2.5", b"true"]
    for number, time_ns in enumerate(times):
        fields = b",".join(b"%b=%b" % (name.encode(), kinds[name][number]) for name in kinds)
        store.write(namespace, b"e,run=r %b %d" % (fields, time_ns))
    found = [dict(point.fields) for point in points_of(store, namespace, "e")]
    assert found == [{"whole": 7, "number": 7.0}, {"text": "a", "number": 2.5}, {"whole": 9}]
    assert type(found[0]["whole"]) is int
    assert store.reader.series(SeriesQuery(namespace, "e", "text", clock=Clock.WALL)) == []
    assert store.reader.metrics(namespace, "e", Clock.WALL) == ["number", "whole"]
    store.close()


def test_what_is_not_there_reads_as_empty(store: Store, namespace: str) -> None:
    store.write(namespace, b"e,run=r a=1,step=1i %d" % RECENT_NS)
    nowhere = fresh_name()
    for where, experiment in [(namespace, "unknown"), (nowhere, "e")]:
        assert store.reader.runs(where, experiment) == []
        assert points_of(store, where, experiment) == []
        for clock in Clock:
            assert store.reader.series(SeriesQuery(where, experiment, "a", clock=clock)) == []
    assert store.reader.experiments(nowhere) == []
    assert points_of(store, namespace, "e", "nosuch") == []
    assert store.reader.series(SeriesQuery(namespace, "e", "unknown")) == []
    assert store.reader.series(SeriesQuery(namespace, "e", "a", runs=("unknown",))) == []


def test_namespaces_do_not_see_each_other(store: Store, namespace: str) -> None:
    other = store.namespace()
    store.write(namespace, b"e,run=r a=1,step=1i %d" % RECENT_NS)
    store.write(other, b"f,run=s a=2i,step=1i %d" % RECENT_NS)
    assert store.reader.experiments(namespace) == ["e"]
    assert store.reader.experiments(other) == ["f"]
    assert store.reader.runs(other, "e") == []
    assert points_of(store, other, "e") == []


def test_experiments_are_those_of_class_raw_without_reserved_names(
    store: Store, namespace: str
) -> None:
    store.write(namespace, b"b a=1 %d\na,run=r a=1 %d" % (RECENT_NS, RECENT_NS))
    names = [b"nonfinite", b"run_config", b"run_state", b"checkpoint", b"delivery", b"_own"]
    batch = b"\n".join(b"%b a=1 %d" % (name, RECENT_NS) for name in names)
    store.writer.write(namespace, "raw", batch, Precision.NS)
    store.writer.write(namespace, "events", b"elsewhere a=1 %d" % RECENT_NS, Precision.NS)
    assert store.reader.experiments(namespace) == ["a", "b"]


def test_runs_have_their_smallest_and_largest_step_and_newest_time(
    store: Store, namespace: str
) -> None:
    samples = [
        Sample("e", {"run": "b", "rank": "0"}, {"a": 1.0, "step": 5}, RECENT_NS + 5),
        Sample("e", {"run": "b", "rank": "1"}, {"a": 1.0, "step": 9}, RECENT_NS + 9),
        # Resumed from a checkpoint: later, but at a lower step.
        Sample("e", {"run": "b", "rank": "0"}, {"a": 1.0, "step": 3}, RECENT_NS + 20),
        Sample("e", {"run": "a"}, {"a": 1.0}, RECENT_NS),
        Sample("e", {"rank": "0"}, {"a": 1.0, "step": 1}, RECENT_NS),
    ]
    store.write(namespace, lines_of(samples))
    assert store.reader.runs(namespace, "e") == [
        RunSummary("a", None, None, RECENT_NS),
        RunSummary("b", 3, 9, RECENT_NS + 20),
    ]


def test_runs_have_the_state_and_the_attempt_that_they_told(store: Store, namespace: str) -> None:
    month_ns = 30 * 86_400 * 10**9
    runs = {
        "old": RECENT_NS - month_ns,
        "resumed": RECENT_NS,
        "gone": RECENT_NS,
        "plain": RECENT_NS,
    }
    store.write(
        namespace,
        lines_of([Sample("e", {"run": run}, {"a": 1.0}, at_ns) for run, at_ns in runs.items()]),
    )
    resumed = AttemptState("e", "resumed", RECENT_NS, "running", rank="0", attempt="2")
    states = [
        AttemptState(
            "e", "old", RECENT_NS - month_ns, "failed", "0", "1", reason="no memory, 1 'x'"
        ),
        resumed,
        replace(resumed, rank="1", time_ns=RECENT_NS - 9),
        replace(resumed, attempt="1", state="preempted", time_ns=RECENT_NS + 9, reason="SIGTERM"),
        replace(resumed, run="gone", time_ns=RECENT_NS - 9),
        replace(resumed, run="gone", state="silent", by="janitor", reason="no heartbeat"),
        replace(resumed, experiment="another", run="plain"),
        replace(resumed, run="without points"),
    ]
    lines = b"\n".join(map(line_of, states))
    store.writer.write(namespace, "events", lines, Precision.NS)
    assert store.reader.runs(namespace, "e") == [
        RunSummary("gone", None, None, RECENT_NS, "silent", 2, "no heartbeat"),
        RunSummary("old", None, None, RECENT_NS - month_ns, "failed", 1, "no memory, 1 'x'"),
        RunSummary("plain", None, None, RECENT_NS),
        RunSummary("resumed", None, None, RECENT_NS, "running", 2),
    ]


def test_the_metrics_of_an_experiment_are_its_numeric_fields_by_each_clock(
    store: Store, namespace: str
) -> None:
    store.write(
        namespace,
        b'e,run=r b=1,n=2i,text="x",flag=true,step=1i %d\n'
        b"e,run=s a\\ b=1,step=7i %d\ne,run=s wall=1 %d\nf,run=r other=1,step=1i %d"
        % (RECENT_NS, RECENT_NS + 1, RECENT_NS + 2, RECENT_NS),
    )
    assert store.reader.metrics(namespace, "e", Clock.STEP) == ["a b", "b", "n"]
    assert store.reader.metrics(namespace, "e", Clock.WALL) == ["a b", "b", "n", "wall"]
    assert store.reader.metrics(namespace, "nosuch", Clock.STEP) == []
    assert store.reader.metrics(fresh_name(), "e", Clock.STEP) == []


def test_a_resumed_run_is_one_series_by_step_whatever_its_volatile_tags(
    store: Store, namespace: str
) -> None:
    samples = [
        Sample(
            "e",
            {"run": "r", "host": host, "pod": host, "node": host, "slurm_job_id": host},
            {"a": value, "step": step},
            RECENT_NS + i,
        )
        for i, (host, step, value) in enumerate(
            [("one", 1, 1.0), ("one", 2, 2.0), ("two", 2, 20.0), ("two", 3, 30.0)]
        )
    ]
    store.write(namespace, lines_of(samples))
    points = points_of(store, namespace, "e", "steps")
    assert [(dict(p.tags), p.time_ns, p.fields["a"]) for p in points] == [
        ({"run": "r"}, 1 * MS, 1.0),
        ({"run": "r"}, 2 * MS, 20.0),
        ({"run": "r"}, 3 * MS, 30.0),
    ]
    (series,) = store.reader.series(SeriesQuery(namespace, "e", "a"))
    assert (series.t, series.mean) == ((1, 2, 3), (1.0, 20.0, 30.0))


def test_a_point_without_a_step_has_none_by_step(store: Store, namespace: str) -> None:
    store.write(namespace, b"e,run=r a=1 %d" % RECENT_NS)
    assert points_of(store, namespace, "e", "steps") == []
    assert store.reader.series(SeriesQuery(namespace, "e", "a")) == []
    (series,) = store.reader.series(SeriesQuery(namespace, "e", "a", clock=Clock.WALL))
    assert series.t == (RECENT_NS,)


def test_the_largest_step_is_found(store: Store, namespace: str) -> None:
    largest = 9_200_000_000_000
    store.write(namespace, b"e,run=r a=1,step=0i %d" % (RECENT_NS - 1))
    store.write(namespace, b"e,run=r a=3,step=%di %d" % (largest, RECENT_NS))
    (series,) = store.reader.series(SeriesQuery(namespace, "e", "a", points=2))
    assert (series.t, series.mean) == ((0, largest // 2 + 1), (1.0, 3.0))
    (series,) = store.reader.series(SeriesQuery(namespace, "e", "a", points=1))
    assert (series.t, series.mean, series.count) == ((0,), (2.0,), (2,))
    (summary,) = store.reader.runs(namespace, "e")
    assert (summary.first_step, summary.last_step) == (0, largest)


def test_few_steps_get_a_bucket_each(store: Store, namespace: str) -> None:
    samples = [
        Sample("e", {"run": "r"}, {"a": float(step), "step": step}, RECENT_NS + step)
        for step in (10, 11, 15)
    ]
    store.write(namespace, lines_of(samples))
    (series,) = store.reader.series(SeriesQuery(namespace, "e", "a", points=6))
    assert series.t == (10, 11, 15)
    (series,) = store.reader.series(SeriesQuery(namespace, "e", "a", points=5))
    assert (series.t, series.count) == ((10, 14), (2, 1))


def test_buckets_begin_at_the_start_of_the_query(store: Store, namespace: str) -> None:
    samples = [
        Sample("e", {"run": "r"}, {"a": float(step), "step": step}, RECENT_NS + step)
        for step in range(10)
    ]
    store.write(namespace, lines_of(samples))
    query = SeriesQuery(namespace, "e", "a", start=1, end=8, points=2)
    assert store.reader.series(query) == [
        RunSeries("r", t=(1, 5), mean=(2.5, 6.0), min=(1.0, 5.0), max=(4.0, 7.0), count=(4, 3))
    ]
    assert store.reader.series(SeriesQuery(namespace, "e", "a", start=8, end=8)) == []
    assert store.reader.series(SeriesQuery(namespace, "e", "a", start=100)) == []
    assert store.reader.series(SeriesQuery(namespace, "e", "a", start=5, end=2)) == []


def test_text_and_booleans_have_no_series(store: Store, namespace: str) -> None:
    store.write(namespace, b'e,run=r text="x",flag=true,step=1i %d' % RECENT_NS)
    for metric in ("text", "flag"):
        assert store.reader.series(SeriesQuery(namespace, "e", metric)) == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_stay_what_they_are(store: Store, namespace: str, name: str) -> None:
    samples = [
        Sample(name, {"run": name, name + "k": name}, {name: 1.5, "step": 1}, RECENT_NS),
        Sample(name, {"run": "other"}, {name: 2.5, "step": 1}, RECENT_NS),
    ]
    store.write(namespace, lines_of(samples))
    state = line_of(AttemptState(name, name, RECENT_NS, "finished"))
    store.writer.write(namespace, "events", state, Precision.NS)
    reader = store.reader
    assert reader.experiments(namespace) == [name]
    assert {run.run: run.state for run in reader.runs(namespace, name)} == {
        name: "finished",
        "other": None,
    }
    for clock in Clock:
        (series,) = reader.series(SeriesQuery(namespace, name, name, runs=(name,), clock=clock))
        assert (series.run, series.mean) == (name, (1.5,))
    points = {p.tags["run"]: p for p in points_of(store, namespace, name)}
    assert dict(points[name].tags) == {"run": name, name + "k": name}
    assert dict(points[name].fields) == {name: 1.5, "step": 1}


numbers = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@FEW_EXAMPLES
@given(
    rows=st.lists(
        st.tuples(numbers, integers, st.booleans(), texts, st.integers(0, 3000 * 10**9)),
        min_size=1,
        max_size=20,
        unique_by=lambda row: row[4],
    )
)
def test_values_and_times_come_back_exactly(
    store: Store, namespace: str, rows: list[tuple[float, int, bool, str, int]]
) -> None:
    experiment = fresh_name()
    samples = [
        Sample(experiment, {"run": "r"}, {"f": f, "i": i, "b": b, "s": s}, RECENT_NS + offset)
        for f, i, b, s, offset in rows
    ]
    store.writer.write(namespace, "raw", lines_of(samples), Precision.NS)
    found = [
        (p.time_ns, {name: repr(value) for name, value in p.fields.items()})
        for p in points_of(store, namespace, experiment)
    ]
    assert found == [
        (s.time_ns, {name: repr(value) for name, value in sorted(s.fields.items())})
        for s in sorted(samples, key=lambda s: s.time_ns)
    ]


def test_points_come_by_series_and_ascending_time(store: Store, namespace: str) -> None:
    samples = [
        Sample("e", {"run": run}, {"a": 1.0, "b": 2.0}, RECENT_NS + offset)
        for offset in (5, 1, 3)
        for run in ("y", "x", "z")
    ]
    store.write(namespace, lines_of(samples))
    points = points_of(store, namespace, "e")
    groups = [
        (run, [p.time_ns - RECENT_NS for p in group])
        for run, group in groupby(points, key=lambda p: p.tags["run"])
    ]
    assert sorted(groups) == [(run, [1, 3, 5]) for run in "xyz"]


def test_a_reader_that_stops_early_leaves_the_store_usable(store: Store, namespace: str) -> None:
    samples = [Sample("e", {"run": "r"}, {"a": float(i)}, RECENT_NS + i) for i in range(30_000)]
    store.writer.write(namespace, "raw", lines_of(samples), Precision.NS)
    points = store.reader.points(namespace, "raw", "e")
    next(points)
    points.close()  # type: ignore[attr-defined]
    assert sum(1 for _ in store.reader.points(namespace, "raw", "e")) == 30_000


# -- the model --------------------------------------------------------------------------------

sample_rows = st.lists(
    st.tuples(
        st.sampled_from(["r1", "r2", "r3"]),
        st.sampled_from(["0", "1"]),
        st.integers(0, 60),  # step
        st.integers(0, 200),  # time
        st.floats(-1e6, 1e6),
    ),
    min_size=1,
    max_size=60,
)
bounds = st.none() | st.integers(-5, 70)


@FEW_EXAMPLES
@given(
    rows=sample_rows,
    clock=st.sampled_from(Clock),
    start=bounds,
    end=bounds,
    points=st.integers(1, 80),
    runs=st.sets(st.sampled_from(["r1", "r2", "nosuch"])),
)
def test_series_agree_with_a_model(
    store: Store,
    namespace: str,
    rows: list[tuple[str, str, int, int, float]],
    clock: Clock,
    start: int | None,
    end: int | None,
    points: int,
    runs: set[str],
) -> None:
    experiment = fresh_name()
    samples = [
        Sample(experiment, {"run": run, "rank": rank}, {"a": a, "step": step}, RECENT_NS + offset)
        for run, rank, step, offset, a in rows
    ]
    store.write(namespace, lines_of(samples))
    origin = 0 if clock is Clock.STEP else RECENT_NS
    query = SeriesQuery(
        namespace,
        experiment,
        "a",
        runs=tuple(sorted(runs)),
        clock=clock,
        start=None if start is None else origin + start,
        end=None if end is None else origin + end,
        points=points,
    )
    found = store.reader.series(query)
    expected = model(samples, query)
    assert [(s.run, s.t, s.min, s.max, s.count) for s in found] == [
        (s.run, s.t, s.min, s.max, s.count) for s in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.mean == pytest.approx(other.mean, rel=1e-9, abs=1e-6)
        assert len(one.t) <= points


def model(samples: list[Sample], query: SeriesQuery) -> list[RunSeries]:
    """The buckets, from a dict of points in which the last write wins."""
    values: dict[tuple[str, str, int], float] = {}
    for s in samples:
        step = s.fields["step"]
        assert isinstance(step, int)
        t = step if query.clock is Clock.STEP else s.time_ns
        value = s.fields["a"]
        assert isinstance(value, float)
        values[s.tags["run"], s.tags["rank"], t] = value
    kept = {
        (run, rank, t): value
        for (run, rank, t), value in values.items()
        if (not query.runs or run in query.runs)
        and (query.start is None or query.start <= t)
        and (query.end is None or t < query.end)
    }
    if not kept:
        return []
    start = min(t for _, _, t in kept) if query.start is None else query.start
    end = max(t for _, _, t in kept) + 1 if query.end is None else query.end
    width = math.ceil((end - start) / query.points)
    series = []
    for run in sorted({run for run, _, _ in kept}):
        buckets: dict[int, list[float]] = {}
        for (of, _rank, t), value in kept.items():
            if of == run:
                buckets.setdefault((t - start) // width, []).append(value)
        ordered = sorted(buckets.items())
        series.append(
            RunSeries(
                run,
                t=tuple(start + k * width for k, _ in ordered),
                mean=tuple(math.fsum(found) / len(found) for _, found in ordered),
                min=tuple(min(found) for _, found in ordered),
                max=tuple(max(found) for _, found in ordered),
                count=tuple(len(found) for _, found in ordered),
            )
        )
    return series
