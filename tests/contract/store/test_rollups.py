"""The rollup task in a real InfluxDB, against the same figures computed here."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby

import pytest

from adapters.influx.admin import InfluxAdmin
from adapters.influx.connection import InfluxConnection
from adapters.influx.flux import rollup_task
from adapters.influx.reader import InfluxReader
from adapters.influx.writer import InfluxWriter
from schemas.line_protocol.precision import Precision
from schemas.rollup import Rollup
from schemas.store.protocols import FieldValue, StoreMisconfigured
from tests.contract.store.stores import Sample, fresh_name, lines_of
from tests.deadline import eventually
from tests.services import Influx

S = 10**9
WINDOW_S = 300
ROLLUP = Rollup("raw", WINDOW_S, every_s=600, delay_s=60, look_back_s=3600)

#: The end of the newest whole window at NOW_S.
STOP_S = time.time() // WINDOW_S * WINDOW_S - 7200
NOW_S = STOP_S + 123

#: (measurement, tags, field, time in s) -> value
Points = dict[tuple[str, tuple[tuple[str, str], ...], str, int], FieldValue]


class Rig:
    """A namespace with a class and its rollup, which runs when a test says, at a time it says."""

    def __init__(self, influx: Influx) -> None:
        at = InfluxConnection(influx.url, influx.token, influx.org)
        self.admin = InfluxAdmin(at)
        self.reader = InfluxReader(at)
        self.writer = InfluxWriter(at)
        self.namespace = fresh_name()
        self.source, self.target = f"{self.namespace}/raw", f"{self.namespace}/coarse"
        for bucket in (self.source, self.target):
            self.admin.create_bucket(bucket, None, None)
        name = f'stepclock "rollup" ${{x}} {self.target}'
        self.flux = rollup_task(name, self.source, self.target, ROLLUP)
        self.task = self.admin.create_task(self.flux)

    def write(self, *samples: Sample) -> None:
        self.writer.write(self.namespace, "raw", lines_of(list(samples)), Precision.NS)

    def run(self, now_s: float = NOW_S) -> str:
        """Run the task by hand as if it were that time; how that ended."""
        at = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = f"/tasks/{self.task}/runs"
        run = self.admin._call("POST", path, body={"scheduledFor": at})["id"]
        status = "scheduled"

        def has_ended() -> bool:
            nonlocal status
            # A run that has just ended is found nowhere for a moment.
            with suppress(StoreMisconfigured):
                status = self.admin._call("GET", f"{path}/{run}")["status"]
            return status in ("success", "failed")

        assert eventually(has_ended), status
        return status

    def failure(self) -> str | None:
        (task,) = (task for task in self.admin.tasks() if task.id == self.task)
        return task.failure

    def rolled(self) -> Points:
        shown = self.reader.tables(
            self.namespace, ["coarse"], f'SHOW MEASUREMENTS ON "{self.namespace}"."coarse"'
        )
        names = [row[0] for table in shown[0] for row in table["values"]]
        return {
            (name, tuple(sorted(p.tags.items())), field, p.time_ns // S): value
            for name in names
            for p in self.reader.points(self.namespace, "coarse", name)
            for field, value in p.fields.items()
        }

    def close(self) -> None:
        self.admin.close()
        self.reader.close()
        self.writer.close()


@pytest.fixture
def rig(influx: Influx) -> Iterator[Rig]:
    rig = Rig(influx)
    yield rig
    rig.close()


def expected(samples: list[Sample]) -> Points:
    """What the task must make of samples, all within its reach."""
    values = [
        ((s.experiment, tuple(sorted(s.tags.items())), name, s.time_ns // S // 300 * 300), value)
        for s in samples
        for name, value in s.fields.items()
        if not isinstance(value, (str, bool))
    ]
    points: Points = {}
    for (experiment, tags, name, at), group in groupby(sorted(values), key=lambda item: item[0]):
        numbers = [value for _key, value in group]
        figures: dict[str, FieldValue] = {"max": max(numbers)}
        if name != "step":
            figures |= {"mean": math.fsum(numbers) / len(numbers), "min": float(min(numbers))}
            figures |= {"max": float(max(numbers)), "count": len(numbers)}
        points |= {(experiment, tags, f"{name}_{f}", at): v for f, v in figures.items()}
    return points


def samples(seconds: int = 3600, every_s: int = 37) -> list[Sample]:
    """An hour of several series, with all that names and types can be."""
    return [
        Sample(
            experiment,
            {"run": run, "host": "n 1", "rank": "0"},
            {
                "train/loss": run_number + 0.25 * at,
                'odd, "na=me" \\\\x': -at / 7,
                "tokens": at * 1000,
                "step": at,
                "note": f"at {at}",
                "ok": at % 2 == 0,
                # Text in one experiment, a number in the other.
                "phase": "warm" if experiment == "e" else at / 3,
            },
            int(STOP_S - seconds + at) * S,
        )
        for experiment in ("e", "my exp,=1")
        for run_number, run in enumerate(["r1", "r,2", "r3"])
        for at in range(0, seconds, every_s)
    ]


def same(found: Points, wanted: Points) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert type(found[key]) is type(value), key
        assert found[key] == pytest.approx(value, rel=1e-12), key


def test_windows_hold_the_figures_of_their_points_and_a_second_run_changes_nothing(
    rig: Rig,
) -> None:
    written = samples()
    rig.write(*written)
    assert rig.run() == "success"
    first = rig.rolled()
    same(first, expected(written))
    assert rig.run() == "success"
    assert rig.rolled() == first


def test_a_point_that_comes_late_corrects_its_window_within_the_look_back(rig: Rig) -> None:
    early = [Sample("e", {"run": "r"}, {"a": 1.0}, int(STOP_S - ago) * S) for ago in (3600, 1000)]
    rig.write(*early)
    assert rig.run() == "success"
    late = [Sample("e", {"run": "r"}, {"a": 9.0}, int(STOP_S - ago) * S) for ago in (3599, 999)]
    rig.write(*late)
    assert rig.run() == "success"
    same(rig.rolled(), expected([*early, *late]))


def test_no_part_of_a_window_replaces_the_whole(rig: Rig) -> None:
    written = [
        Sample("e", {"run": "r"}, {"a": float(at)}, int(STOP_S - 3600 + at) * S)
        for at in range(0, 3900, 50)
    ]
    rig.write(*written)
    assert rig.run(STOP_S + 299) == "success"
    whole = expected(written[:72])
    same(rig.rolled(), whole)  # the window of now is not over
    # Its reach begins one window later now.
    assert rig.run(STOP_S + 450) == "success"
    same(rig.rolled(), expected(written))


def test_nothing_to_sum_up_is_no_failure(rig: Rig) -> None:
    assert rig.run() == "success"
    assert rig.rolled() == {}


def test_a_mean_out_of_range_is_left_out_and_costs_the_others_nothing(rig: Rig) -> None:
    at = int(STOP_S - 300)
    rig.write(
        *(Sample("e", {"run": "r"}, {"a": 1.7e308, "b": 1.0}, (at + i) * S) for i in range(3))
    )
    assert rig.run() == "success"
    found = {field: value for (_m, _t, field, _at), value in rig.rolled().items()}
    assert found == {
        "a_min": 1.7e308,
        "a_max": 1.7e308,
        "a_count": 3,
        "b_mean": 1.0,
        "b_min": 1.0,
        "b_max": 1.0,
        "b_count": 3,
    }


def test_a_task_can_be_changed_and_rests_when_told(rig: Rig) -> None:
    changed = rig.flux.replace("every: 10m", "every: 20m")
    rig.admin.update_task(rig.task, changed, is_active=False)
    (task,) = (task for task in rig.admin.tasks() if task.id == rig.task)
    assert (task.flux, task.is_active) == (changed, False)


def test_a_run_that_fails_says_why(rig: Rig) -> None:
    rig.flux = rig.flux.replace(f'to(bucket: "{rig.target}")', 'to(bucket: "nowhere")')
    rig.admin.update_task(rig.task, rig.flux, is_active=True)
    assert rig.run() == "failed"
    assert eventually(lambda: "nowhere" in (rig.failure() or ""))
