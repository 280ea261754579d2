"""What every store promises about attempts: the fake, SQLite and a real InfluxDB alike."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from schemas import canary
from schemas.line_protocol.bounds import MAX_STEP
from schemas.line_protocol.precision import Precision
from schemas.store.attempts import AttemptState, AttemptSteps, StaleSteps
from schemas.store.run_state import line_of
from tests.contract.store.stores import (
    MS,
    RECENT_NS,
    InSqlite,
    Sample,
    Store,
    by_step,
    fresh_name,
    lines_of,
)
from tests.contract.store.test_store import ODD_NAMES, REAL_INFLUX, make_store


@pytest.fixture(params=["memory", "sqlite", REAL_INFLUX])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = make_store(request, tmp_path)
    yield store
    store.close()


@pytest.fixture
def namespace(store: Store) -> str:
    return store.namespace()


def write_steps(
    store: Store, namespace: str, run: str, attempt: str | None, steps: range, *, experiment="e"
) -> None:
    tags = {"run": run} | ({} if attempt is None else {"attempt": attempt})
    samples = [
        Sample(experiment, tags | {"rank": rank}, {"a": 1.0, "step": step}, RECENT_NS + step)
        for step in steps
        for rank in ("0", "1")
    ]
    store.write(namespace, lines_of(samples))


def write_nonfinite(store: Store, namespace: str, attempt: str, step: int, of: str = "e") -> None:
    line = Sample(
        "nonfinite",
        {"experiment": of, "run": "r", "attempt": attempt, "metric": "a", "kind": "nan"},
        {"count": 1.0, "step": step},
        RECENT_NS + step,
    ).line
    store.writer.write(namespace, "events", line, Precision.NS)
    stepped = by_step(line)
    assert stepped is not None
    if not isinstance(store, InSqlite):  # which does it by itself
        store.writer.write(namespace, "steps", stepped, Precision.MS)


def steps_of(
    store: Store, namespace: str, experiment: str = "e", retention_class: str = "steps"
) -> dict[tuple[str | None, str | None], list[int]]:
    """Steps by run and attempt, each once however many ranks have it."""
    found: dict[tuple[str | None, str | None], set[int]] = {}
    for point in store.reader.points(namespace, retention_class, experiment):
        step = point.fields["step"]
        assert isinstance(step, int)
        found.setdefault((point.tags.get("run"), point.tags.get("attempt")), set()).add(step)
    return {of: sorted(steps) for of, steps in found.items()}


def test_attempts_have_the_ends_of_their_steps_over_all_ranks(store: Store, namespace: str) -> None:
    write_steps(store, namespace, "r", "0", range(5, 40))
    write_steps(store, namespace, "r", "1", range(30, 60))
    write_steps(store, namespace, "plain", None, range(3))
    write_nonfinite(store, namespace, "0", 7)
    assert sorted(store.attempts.attempt_steps(namespace), key=repr) == [
        AttemptSteps("e", "e", "r", "0", 5, 39),
        AttemptSteps("e", "e", "r", "1", 30, 59),
        AttemptSteps("nonfinite", "e", "r", "0", 7, 7),
    ]


def test_a_namespace_that_is_not_there_has_no_attempts(store: Store) -> None:
    nowhere = fresh_name()
    assert store.attempts.attempt_steps(nowhere) == []
    assert store.attempts.attempt_states(nowhere, 0) == []


def test_a_namespace_without_points_has_no_attempts(store: Store, namespace: str) -> None:
    assert store.attempts.attempt_steps(namespace) == []
    assert store.attempts.attempt_states(namespace, 0) == []


def test_an_attempts_steps_leave_class_steps_from_one_on_and_stay_in_raw(
    store: Store, namespace: str
) -> None:
    for run in ("r", "r2"):
        for attempt in ("0", "1", None):
            write_steps(store, namespace, run, attempt, range(20))
    before = steps_of(store, namespace, retention_class="raw")
    store.attempts.delete_steps(namespace, StaleSteps("e", "e", "r", "0", 7))
    every = list(range(20))
    assert steps_of(store, namespace) == {
        ("r", "0"): list(range(7)),
        ("r", "1"): every,
        ("r", None): every,
        ("r2", "0"): every,
        ("r2", "1"): every,
        ("r2", None): every,
    }
    assert steps_of(store, namespace, retention_class="raw") == before
    assert AttemptSteps("e", "e", "r", "0", 0, 6) in store.attempts.attempt_steps(namespace)


def test_nonfinite_values_go_by_their_experiment(store: Store, namespace: str) -> None:
    for of in ("e", "f"):
        for step in (3, 9):
            write_nonfinite(store, namespace, "0", step, of)
    store.attempts.delete_steps(namespace, StaleSteps("nonfinite", "e", "r", "0", 5))
    ends = {(a.experiment, a.last_step) for a in store.attempts.attempt_steps(namespace)}
    assert ends == {("e", 3), ("f", 9)}
    in_events = list(store.reader.points(namespace, "events", "nonfinite"))
    assert len(in_events) == 4


def test_deleting_twice_or_nothing_does_nothing_more(store: Store, namespace: str) -> None:
    write_steps(store, namespace, "r", "0", range(10))
    for _ in range(2):
        store.attempts.delete_steps(namespace, StaleSteps("e", "e", "r", "0", 5))
    store.attempts.delete_steps(namespace, StaleSteps("e", "e", "r", "7", 0))
    store.attempts.delete_steps(namespace, StaleSteps("nosuch", "nosuch", "r", "0", 0))
    assert steps_of(store, namespace) == {("r", "0"): list(range(5))}


def test_an_attempt_of_which_all_was_deleted_is_none(store: Store, namespace: str) -> None:
    write_steps(store, namespace, "r", "0", range(10))
    store.attempts.delete_steps(namespace, StaleSteps("e", "e", "r", "0", 0))
    assert store.attempts.attempt_steps(namespace) == []


def test_what_was_deleted_can_be_written_again_and_is_found(store: Store, namespace: str) -> None:
    for _ in range(2):
        write_steps(store, namespace, "r", "0", range(5, 10))
        assert store.attempts.attempt_steps(namespace) == [AttemptSteps("e", "e", "r", "0", 5, 9)]
        store.attempts.delete_steps(namespace, StaleSteps("e", "e", "r", "0", 5))
    assert steps_of(store, namespace) == {}


def test_the_largest_step_is_deleted_too(store: Store, namespace: str) -> None:
    write_steps(store, namespace, "r", "0", range(MAX_STEP - 1, MAX_STEP + 1))
    store.attempts.delete_steps(namespace, StaleSteps("e", "e", "r", "0", MAX_STEP))
    assert steps_of(store, namespace) == {("r", "0"): [MAX_STEP - 1]}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_deleted_as_they_are(store: Store, namespace: str, name: str) -> None:
    write_steps(store, namespace, name, "0", range(4), experiment=name)
    write_steps(store, namespace, "other", "0", range(4), experiment=name)
    write_steps(store, namespace, name, "0", range(4), experiment="other")
    found = {(a.experiment, a.run) for a in store.attempts.attempt_steps(namespace)}
    assert found == {(name, name), (name, "other"), ("other", name)}
    store.attempts.delete_steps(namespace, StaleSteps(name, name, name, "0", 2))
    assert steps_of(store, namespace, name) == {
        (name, "0"): [0, 1],
        ("other", "0"): [0, 1, 2, 3],
    }
    assert steps_of(store, namespace, "other") == {(name, "0"): [0, 1, 2, 3]}


def test_namespaces_are_deleted_apart(store: Store, namespace: str) -> None:
    other = store.namespace()
    for where in (namespace, other):
        write_steps(store, where, "r", "0", range(4))
    store.attempts.delete_steps(namespace, StaleSteps("e", "e", "r", "0", 0))
    assert steps_of(store, namespace) == {}
    assert steps_of(store, other) == {("r", "0"): [0, 1, 2, 3]}


@pytest.mark.parametrize("missing", ["measurement", "experiment", "run", "attempt"])
def test_steps_of_nobody_can_not_be_named(missing: str) -> None:
    with pytest.raises(ValueError, match="a name is empty"):
        replace(StaleSteps("e", "e", "r", "0", 0), **{missing: ""})


def test_the_newest_canary_of_a_gateway_tells_how_far_points_came(store: Store) -> None:
    store.ensure(canary.NAMESPACE)
    assert store.attempts.canary_ns("nosuch") is None
    at_ns = time.time_ns()  # the real store is shared: others may have written some
    for partition, ago_ns in [(0, 5), (1, 0), (2, 9)]:
        line = canary.gateway_line("g", partition, at_ns - ago_ns)
        store.writer.write(canary.NAMESPACE, "system", line, Precision.NS)
    worker = canary.worker_line(at_ns + 60 * 10**9)
    store.writer.write(canary.NAMESPACE, "system", worker, Precision.NS)
    assert store.attempts.canary_ns("system") == at_ns


# -- states -----------------------------------------------------------------------------------


def write_state(store: Store, namespace: str, *states: AttemptState) -> None:
    lines = b"\n".join(map(line_of, states))
    store.writer.write(namespace, "events", lines, Precision.NS)


def test_a_run_has_the_newest_line_of_each_of_its_series(store: Store, namespace: str) -> None:
    first = AttemptState("e", "r", RECENT_NS, "running", rank="0", attempt="1")
    newest = replace(first, time_ns=RECENT_NS + 9, state="failed", step=70, reason="no memory")
    others = [
        replace(first, rank="1", first_step=40, step=60),
        replace(first, attempt="2", first_step=MAX_STEP),
        replace(first, by="janitor", state="silent"),
        replace(first, run="s", rank="", attempt=""),
        replace(first, experiment="f, g"),
    ]
    write_state(store, namespace, first, newest, *others)
    found = store.attempts.attempt_states(namespace, RECENT_NS)
    assert sorted(found, key=repr) == sorted([newest, *others], key=repr)


def test_lines_before_a_time_are_not_asked_for(store: Store, namespace: str) -> None:
    old = AttemptState("e", "old", RECENT_NS - MS, "running")
    new = AttemptState("e", "new", RECENT_NS, "running")
    write_state(store, namespace, old, new)
    assert store.attempts.attempt_states(namespace, RECENT_NS) == [new]


def test_a_client_that_writes_its_steps_as_floats_is_understood(
    store: Store, namespace: str
) -> None:
    line = b'run_state,experiment=e,run=r state="running",first_step=12.0 %d' % time.time_ns()
    store.writer.write(namespace, "events", line, Precision.NS)
    (state,) = store.attempts.attempt_states(namespace, 0)
    assert (state.first_step, state.step) == (12, None)


@pytest.mark.parametrize("said", ['"soon"', "-5i", "-0.5e300", "1e300", f"{MAX_STEP + 1}i"])
def test_a_first_step_that_is_none_is_as_good_as_missing(
    store: Store, namespace: str, said: str
) -> None:
    line = f'run_state,experiment=e,run=r state="running",first_step={said},step=7i {RECENT_NS}'
    store.writer.write(namespace, "events", line.encode(), Precision.NS)
    (state,) = store.attempts.attempt_states(namespace, 0)
    assert (state.state, state.first_step, state.step) == ("running", None, 7)
