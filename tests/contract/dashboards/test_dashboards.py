"""Every query of the dashboards is answered: InfluxQL by a real InfluxDB, PromQL by Prometheus."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

from grafana.builders.data_quality import data_quality
from grafana.builders.pipeline import pipeline
from grafana.builders.runs_by_step import runs_by_step
from janitor.decide import Patience, summaries, verdicts
from native.ports import free_ports
from schemas.line_protocol.precision import Precision
from schemas.metrics_row import MetricsRow, encode_row
from schemas.store.attempts import AttemptState
from schemas.store.run_state import line_of, standings
from telemetry import metrics
from tests.contract.dashboards.dashboard_database import (
    Database,
    alert_query,
    as_grafana_asks,
    panels,
)
from tests.contract.store.stores import RECENT_NS
from tests.deadline import eventually
from tests.services import Influx

ROOT = Path(__file__).parents[3]
EXPERIMENT = "res net/50 (v2)"
RUNS = ["a", "b.1"]
STEPS = 100


def filled_in(query: str, run: str = r"(a|b\.1)") -> str:
    return as_grafana_asks(
        query,
        {
            "${experiment:raw}": EXPERIMENT,
            "${experiment:regex}": r"res net\/50 \(v2\)",
            "${metric:raw}": "train/loss",
            "$__interval": "1ms",
            "$timeFilter": "time >= 0ms AND time <= 1000000ms",
            "$run": run,
        },
    )


# -- InfluxQL ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(influx: Influx) -> Database:
    """Two runs of one experiment, one of them resumed, with a NaN, states and checkpoints."""
    database = Database(influx)
    raw, events = [], []
    for step in range(STEPS):
        for run in RUNS:
            values = {"train/loss": float("nan") if step == 7 else 1 / (step + 1), "lr": 0.1}
            attempt = 1 if run == "a" and step >= 50 else None
            row = encode_row(
                MetricsRow(
                    experiment=EXPERIMENT, run=run, step=step, attempt=attempt, values=values
                )
            )
            time_ns = RECENT_NS + step * 10**9
            raw.append(row.line + b" %d" % time_ns)
            events += [line + b" %d" % time_ns for line in row.events]
    experiment = EXPERIMENT.replace(" ", r"\ ").encode()
    for run in (b"a", b"b.1"):
        tags = b"experiment=%b,run=%b" % (experiment, run)
        for at, state in enumerate([b"running", b"finished"]):
            when = RECENT_NS + at * 10**9
            events.append(
                b'run_state,%b state="%b",step=%di %d' % (tags, state, at * (STEPS - 1), when)
            )
        events.append(b"checkpoint,%b step=90i %d" % (tags, RECENT_NS))
    database.store("raw", raw)
    database.store("events", events)
    return database


def queries() -> dict[str, str]:
    return {
        panel["title"]: target["query"]
        for panel in panels(runs_by_step())
        for target in panel["targets"]
    }


@pytest.mark.parametrize("title", queries())
def test_a_panel_of_runs_by_step_shows_both_runs(database: Database, title: str) -> None:
    series = database.ask(filled_in(queries()[title]))
    assert {found["tags"]["run"] for found in series} == set(RUNS)
    for found in series:
        assert len(found["values"]) >= 1
        assert all(value is not None for row in found["values"] for value in row)


@pytest.mark.parametrize("title", queries())
def test_all_runs_are_one_pattern(database: Database, title: str) -> None:
    series = database.ask(filled_in(queries()[title], run=".*"))
    assert {found["tags"]["run"] for found in series} == set(RUNS)


@pytest.mark.parametrize("title", queries())
def test_a_panel_shows_no_run_that_was_not_chosen(database: Database, title: str) -> None:
    series = database.ask(filled_in(queries()[title], run="a"))
    assert {found["tags"]["run"] for found in series} == {"a"}


def test_a_step_is_a_millisecond_and_a_resumed_run_is_one_curve(database: Database) -> None:
    (found,) = database.ask(filled_in(queries()["${metric:raw}"], run="a"))
    assert found["values"] == [
        [step, pytest.approx(1 / (step + 1))] for step in range(STEPS) if step != 7
    ]


def test_a_wider_interval_gives_the_mean_of_its_steps(database: Database) -> None:
    query = (
        queries()["${metric:raw}"].replace("$__interval", "50ms").replace('"${metric:raw}"', '"lr"')
    )
    (found,) = database.ask(filled_in(query, run="a"))
    assert found["values"] == [[0, pytest.approx(0.1)], [50, pytest.approx(0.1)]]


def test_a_nan_is_shown_at_its_step(database: Database) -> None:
    for found in database.ask(filled_in(queries()["Non-finite values by step"])):
        assert found["values"] == [[7, 1]]
        assert found["tags"] == {"run": found["tags"]["run"], "metric": "train/loss", "kind": "nan"}


def test_tables_tell_state_checkpoint_and_attempts(database: Database) -> None:
    (state,) = database.ask(filled_in(queries()["State"], run="a"))
    assert state["values"] == [[(RECENT_NS + 10**9) // 10**6, "finished", STEPS - 1]]
    (checkpoint,) = database.ask(filled_in(queries()["Resumable at"], run="a"))
    assert checkpoint["values"][0][1] == 90
    attempts = database.ask(filled_in(queries()["Attempts"], run="a"))
    assert [(one["tags"]["attempt"], *one["values"][0][1:]) for one in attempts] == [
        ("", 0, 49),
        ("1", 50, 99),
    ]


def test_a_run_that_says_no_more_is_shown_as_the_janitor_found_it(influx: Influx) -> None:
    database = Database(influx)
    last = AttemptState(EXPERIMENT, "a", RECENT_NS, "running", attempt="0", step=7)
    database.store("events", [line_of(last)])
    found = list(verdicts([last], RECENT_NS + 3600 * 10**9, Patience(120, 1800)))
    database.store("events", [line_of(one) for one in found])
    (state,) = database.ask(filled_in(queries()["State"], run="a"))
    assert state["values"] == [[RECENT_NS // 10**6 + 1_800_000, "lost", 7]]


def test_a_run_that_raw_has_forgotten_is_still_offered_by_step(influx: Influx) -> None:
    database = Database(influx)
    database.write("steps", b"resnet,run=old loss=1,step=5i 5", Precision.MS)
    (variable,) = [each for each in runs_by_step()["templating"]["list"] if each["name"] == "run"]
    query = variable["query"].replace("${experiment:raw}", "resnet")
    assert database.column(query, 1) == {"old"}


def test_a_table_agrees_with_the_read_route_once_the_janitor_has_summed_up(
    influx: Influx,
) -> None:
    database = Database(influx)
    first = AttemptState(EXPERIMENT, "a", RECENT_NS, "failed", "0", "1", step=7)
    states = [first, replace(first, rank="1", time_ns=RECENT_NS + 10**6, state="preempted")]
    database.store("events", [line_of(one) for one in states])
    (state,) = database.ask(filled_in(queries()["State"], run="a"))
    assert state["values"][0][1:] == ["preempted", 7]
    database.store("events", [line_of(one) for one in summaries(states, 0)])
    (state,) = database.ask(filled_in(queries()["State"], run="a"))
    assert state["values"][0][1:] == ["failed", 7]
    assert standings(states)[EXPERIMENT, "a"] == first


def test_variables_offer_experiments_runs_and_metrics(database: Database) -> None:
    offered = {}
    for variable in runs_by_step(database.name)["templating"]["list"]:
        # Measurements and fields stand in the first column, values of tags in the second.
        column = 1 if variable["name"] == "run" else 0
        kept = re.compile(variable["regex"].strip("/"))
        found = database.column(filled_in(variable["query"]), column)
        offered[variable["name"]] = {value for value in found if kept.search(value)}
    assert offered == {
        "experiment": {EXPERIMENT},
        "run": set(RUNS),
        "metric": {"train/loss", "lr"},
    }


def test_the_alert_of_nan_sees_run_and_metric(database: Database) -> None:
    within = RECENT_NS, RECENT_NS + STEPS * 10**9
    series = database.ask(alert_query("stepclock-nonfinite", *within))
    assert {(found["tags"]["run"], found["tags"]["metric"]) for found in series} == {
        (run, "train/loss") for run in RUNS
    }


def test_the_alert_of_lost_runs_sees_those_that_the_janitor_gave_up(influx: Influx) -> None:
    database = Database(influx)
    quiet = AttemptState(EXPERIMENT, "quiet", RECENT_NS, "running", attempt="0")
    states = [quiet, replace(quiet, run="lost", time_ns=RECENT_NS - 1700 * 10**9)]
    found = list(verdicts(states, RECENT_NS + 600 * 10**9, Patience(120, 1800)))
    assert [(one.run, one.state) for one in found] == [("quiet", "silent"), ("lost", "lost")]
    database.store("events", [line_of(one) for one in (*states, *found)])
    within = RECENT_NS - 3000 * 10**9, RECENT_NS + 600 * 10**9
    (series,) = database.ask(alert_query("stepclock-run-lost", *within))
    assert series["tags"] == {"experiment": EXPERIMENT, "run": "lost"}
    assert [row[1] for row in series["values"]] == [1]


# -- PromQL -----------------------------------------------------------------------------------


class MetricsPage(http.server.BaseHTTPRequestHandler):
    """Every metric of telemetry/metrics.py with some labels; it grows with each scrape."""

    scrapes = 0

    def do_GET(self) -> None:
        MetricsPage.scrapes += 1
        lines = []
        for collector in vars(metrics).values():
            if isinstance(collector, MetricWrapperBase):
                lines += samples(collector, MetricsPage.scrapes)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write("".join(lines).encode())

    def log_message(self, *args: object) -> None: ...


def samples(collector: MetricWrapperBase, value: int) -> list[str]:
    (family,) = collector.describe()
    # The values that queries of the dashboards ask for by name.
    outcomes = ["accepted", "refused"] if "outcome" in collector._labelnames else [""]
    return [
        line
        for outcome in outcomes
        for line in samples_of(
            family,
            [f'{name}="{outcome if name == "outcome" else "0"}"' for name in collector._labelnames],
            value,
        )
    ]


def samples_of(family: Metric, labels: list[str], value: int) -> list[str]:
    if family.type != "histogram":
        name = family.name + ("_total" if family.type == "counter" else "")
        return [f"{name}{{{','.join(labels)}}} {value}\n"]
    return [
        f"{family.name}_bucket{{{','.join([*labels, bound])}}} {value}\n"
        for bound in ('le="0.1"', 'le="1.0"', 'le="+Inf"')
    ]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Prometheus that scrapes a page with all our metrics."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    page = http.server.ThreadingHTTPServer(("127.0.0.1", 0), MetricsPage)
    threading.Thread(target=page.serve_forever, args=(0.05,), daemon=True).start()
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 250ms, scrape_timeout: 250ms}\n"
        "scrape_configs:\n"
        f"  - {{job_name: all, static_configs: [{{targets: ['127.0.0.1:{page.server_port}']}}]}}\n"
    )
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={url.removeprefix('http://')}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        assert eventually(lambda: process.poll() is not None or answers(f"{url}/-/ready"))
        assert process.poll() is None, (folder / "log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(20)
        page.shutdown()
        page.server_close()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.parametrize(
    ("title", "expr"),
    [
        (panel["title"], target["expr"])
        for build in (pipeline, data_quality)
        for panel in panels(build())
        for target in panel["targets"]
        if "expr" in target
    ],
)
def test_a_panel_about_the_pipeline_shows_something(prometheus: str, title: str, expr: str) -> None:
    query = re.sub(r"\[\$__rate_interval\]", "[5s]", expr)
    assert "$" not in query

    def result() -> list[dict]:
        url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]["result"]

    assert eventually(lambda: bool(result())), title
    assert "NaN" not in [found["value"][1] for found in result()], title
