from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from demo.ledger import Ledger, by_run, compare, logged_cells, stored_cells
from demo.rows import LoggedRow
from schemas.store.protocols import StoredPoint

NAN, INF = math.nan, math.inf

LOGGED = [
    LoggedRow("lr-0.1", 0, 0, {"train/loss": 2.5, "lr": 0.1}),
    LoggedRow("lr-0.1", 0, 1, {"train/loss": 2.25, "lr": 0.1}),
    LoggedRow("lr-0.1", 1, 1, {"train/loss": 2.0, "lr": 0.1}),
    LoggedRow("lr-8", 0, 0, {"train/loss": INF, "lr": 8.0}),
    LoggedRow("lr-8", 0, 1, {"train/loss": NAN, "grad_norm": -INF}),
]
NONFINITE = [(3, "train/loss", "inf"), (4, "train/loss", "nan"), (4, "grad_norm", "-inf")]


@dataclass
class Store:
    """The points that a pipeline without fault would have stored for LOGGED."""

    raw: list[StoredPoint] = field(default_factory=list)
    events: list[StoredPoint] = field(default_factory=list)

    def points(
        self, namespace: str, retention_class: str, experiment: str
    ) -> Iterator[StoredPoint]:
        assert namespace == "stepclock"
        points = {"raw": self.raw, "events": self.events}[retention_class]
        return (point for point in points if point.experiment == experiment)


def point_of(row: LoggedRow, experiment: str = "digits") -> StoredPoint:
    finite = {metric: value for metric, value in row.values.items() if math.isfinite(value)}
    tags = {"run": row.run, "rank": str(row.rank)}
    return StoredPoint(experiment, tags, 1000 + row.step, {**finite, "step": row.step})


def event_of(row: LoggedRow, metric: str, kind: str, experiment: str = "digits") -> StoredPoint:
    tags = {"experiment": experiment, "run": row.run, "rank": str(row.rank)}
    tags |= {"metric": metric, "kind": kind}
    return StoredPoint("nonfinite", tags, 1000 + row.step, {"count": 1.0, "step": row.step})


@pytest.fixture
def store() -> Store:
    raw = [point_of(row) for row in LOGGED]
    events = [event_of(LOGGED[index], metric, kind) for index, metric, kind in NONFINITE]
    return Store(raw, events)


def account(store: Store) -> Ledger:
    stored = stored_cells(store, "stepclock", "digits")
    return compare(logged_cells(LOGGED), stored)


def test_a_store_that_holds_everything_gives_a_clean_ledger(store) -> None:
    ledger = account(store)
    assert str(ledger) == "ledger: logged=5 stored=5 nonfinite=3 missing=0"
    assert ledger.clean


def test_a_row_that_is_not_stored_is_found_with_all_its_values(store) -> None:
    del store.raw[1]
    ledger = account(store)
    assert (ledger.stored, ledger.missing) == (4, 3)  # loss, lr, step
    assert not ledger.clean


def test_a_changed_value_is_missing_and_its_successor_unexpected(store) -> None:
    changed = {**store.raw[0].fields, "train/loss": 2.5000000000000004}
    store.raw[0] = replace(store.raw[0], fields=changed)
    ledger = account(store)
    assert (ledger.stored, ledger.missing, ledger.unexpected) == (4, 1, 1)
    assert not ledger.clean


def test_a_value_that_went_to_another_rank_is_found(store) -> None:
    store.raw[2] = replace(store.raw[2], tags={"run": "lr-0.1", "rank": "2"})
    ledger = account(store)
    assert (ledger.missing, ledger.unexpected) == (3, 3)


def test_a_missing_nan_event_is_found_though_its_line_is_stored(store) -> None:
    del store.events[1]
    ledger = account(store)
    assert (ledger.stored, ledger.nonfinite, ledger.missing) == (5, 2, 1)
    assert not ledger.clean


def test_a_nan_event_of_another_kind_is_missing(store) -> None:
    store.events[0] = event_of(LOGGED[3], "train/loss", "nan")
    ledger = account(store)
    assert (ledger.missing, ledger.unexpected) == (1, 1)


def test_a_line_stored_twice_at_two_times_is_doubled(store) -> None:
    store.raw.append(replace(store.raw[0], time_ns=1001))
    ledger = account(store)
    assert (ledger.missing, ledger.doubled) == (0, 1)
    assert not ledger.clean


def test_other_experiments_in_the_store_do_not_count(store) -> None:
    store.raw.append(point_of(LOGGED[0], "other"))
    store.events.append(event_of(LOGGED[0], "train/loss", "nan", experiment="other"))
    assert account(store).clean


def test_a_row_of_nothing_but_nan_must_be_stored_with_its_step_alone() -> None:
    sent = logged_cells([LoggedRow("lr-8", 0, 9, {"train/loss": NAN})])
    assert {(cell.field, cell.value) for cell in sent.cells} == {("step", 9), ("train/loss", "nan")}


def test_a_row_recorded_twice_counts_once() -> None:
    ledger = compare(logged_cells([*LOGGED, *LOGGED]), logged_cells(LOGGED))
    assert ledger.logged == len(LOGGED)


def test_values_are_summed_up_by_run_field_and_step() -> None:
    assert by_run(logged_cells(LOGGED))["lr-8"]["train/loss"] == {0: "inf", 1: "nan"}
