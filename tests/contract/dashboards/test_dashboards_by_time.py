"""Every InfluxQL query of the dashboards over wall time is answered by a real InfluxDB."""

from __future__ import annotations

import re

import pytest

from grafana.builders.data_quality import data_quality
from grafana.builders.fleet import fleet
from grafana.builders.machines import machines
from grafana.builders.run import run
from schemas.metrics_row import MetricsRow, encode_row
from schemas.store.delivery import DeliveryRecord
from tests.contract.dashboards.dashboard_database import (
    Database,
    alert_query,
    as_grafana_asks,
    panels,
)
from tests.contract.store.stores import RECENT_NS
from tests.services import Influx

DASHBOARDS = {"fleet": fleet, "run": run, "machines": machines, "data quality": data_quality}

S = 10**9
STEPS = 60
EXPERIMENTS = {"res net/50 (v2)": ["a", "b.1"], "other": ["c"]}
#: As Grafana writes them within a pattern.
ESCAPED = {"res net/50 (v2)": r"res net\/50 \(v2\)", "other": "other", "a": "a", "b.1": r"b\.1"}
HOST_OF = {"a": "n1", "b.1": "n2", "c": "n3"}


@pytest.fixture(scope="module")
def database(influx: Influx) -> Database:
    """Three runs of two experiments, each on a host of its own, with all that the SDK tells."""
    database = Database(influx)
    lines: dict[str, list[bytes]] = {"raw": [], "events": [], "system": []}
    for experiment, runs in EXPERIMENTS.items():
        for name in runs:
            told(lines, experiment, name)
    for retention_class, of_class in lines.items():
        database.store(retention_class, of_class)
    return database


def told(lines: dict[str, list[bytes]], experiment: str, name: str) -> None:
    """What one run has told: a step a second, a sample of its machine every ten."""
    for step in range(STEPS):
        loss = float("nan") if step == 7 else 1 / (step + 1)
        values = {"train/loss": loss, "lr": 0.1}
        row = encode_row(
            MetricsRow(experiment=experiment, run=name, step=step, attempt=0, values=values)
        )
        at = RECENT_NS + step * S
        lines["raw"].append(row.line + b" %d" % at)
        lines["events"] += [line + b" %d" % at for line in row.events]
    escaped = experiment.replace(" ", "\\ ")
    of_run = f"experiment={escaped},run={name}"
    about = f"attempt=0,{of_run}"
    events = [
        (f'run_state,{about} state="running",step=0i', 0),
        (f'run_state,{about} state="failed",step={STEPS - 1}i,reason="out of memory"', STEPS),
        (f"checkpoint,{about} step=50i", 50),
        (f'event,{about},name=lr text="lowered",step=40i', 40),
        (f'run_config,{of_run},key=lr value="0.1",number=0.1', 0),
    ]
    lines["events"] += [f"{line} {RECENT_NS + at * S}".encode() for line, at in events]
    delivery = DeliveryRecord(
        experiment=experiment,
        run=name,
        stream=f"s-{name}",
        topic="stepclock.raw",
        start_ns=RECENT_NS,
        sequence=0,
        part=0,
        parts=1,
        lines=STEPS,
        dead=2,
        first_ns=RECENT_NS,
        last_ns=RECENT_NS + STEPS * S,
    )
    lines["events"].append(delivery.line())
    host = f"attempt=0,experiment={escaped},host={HOST_OF[name]}"
    for at in range(0, STEPS + 1, 10):
        of_host = (
            f"host,{host},run={name} cpu_cores_busy=1.5,load_1m=2,memory_used_bytes=25,"
            "memory_total_bytes=100,disk_used_bytes=50,disk_total_bytes=200,"
            "net_received_bytes_per_s=1,net_sent_bytes_per_s=2,disk_read_bytes_per_s=3,"
            "disk_written_bytes_per_s=4"
        )
        samples = [
            of_host,
            f"process,{host},run={name} cpu_cores_busy=1,rss_bytes=1000,processes=1,threads=4",
            *(
                f"gpu,{host},gpu={gpu},run={name} util_percent={90 - 40 * gpu},power_w=360,"
                "memory_used_bytes=10,memory_total_bytes=80,temperature_c=60,sm_clock_mhz=1500"
                for gpu in (0, 1)
            ),
        ]
        lines["system"] += [f"{sample} {RECENT_NS + at * S}".encode() for sample in samples]


def filled_in(query: str, experiment: str, name: str, host: str = ".*") -> str:
    end = RECENT_NS + (STEPS + 1) * S
    return as_grafana_asks(
        query,
        {
            "${experiment:raw}": experiment,
            "${experiment:regex}": ESCAPED.get(experiment, experiment),
            "${run:regex}": ESCAPED.get(name, name),
            "${metric:raw}": "train/loss",
            "$experiment": ESCAPED.get(experiment, experiment),
            "$host": host,
            "$__interval": "10s",
            "$timeFilter": f"time >= {RECENT_NS} AND time < {end}",
        },
    )


def queries(dashboard: str) -> list[tuple[str, str, str]]:
    built = DASHBOARDS[dashboard]()
    asked = [
        (dashboard, panel["title"], target["query"])
        for panel in panels(built)
        for target in panel["targets"]
        if "query" in target
    ]
    return asked + [
        (dashboard, each["name"], each["target"]["query"]) for each in built["annotations"]["list"]
    ]


ALL = [each for dashboard in DASHBOARDS for each in queries(dashboard)]
SHOWN = {(dashboard, title): query for dashboard, title, query in ALL}


@pytest.mark.parametrize(("dashboard", "title", "query"), ALL)
def test_a_panel_shows_what_is_chosen_without_holes(
    database: Database, dashboard: str, title: str, query: str
) -> None:
    found = database.ask(filled_in(query, "res net/50 (v2)", "b.1", "n2"))
    assert found
    for series in found:
        assert series["values"]
        for row in series["values"]:
            # A run that goes has no reason to end.
            assert all(value is not None for value in row) or "reason" in series["columns"]


@pytest.mark.parametrize(("dashboard", "title", "query"), ALL)
def test_a_panel_shows_nothing_that_is_not_chosen(
    database: Database, dashboard: str, title: str, query: str
) -> None:
    assert database.ask(filled_in(query, "nosuch", "nosuch", "nosuch")) == []


@pytest.mark.parametrize(
    ("dashboard", "title", "query"), [each for each in ALL if each[0] in {"fleet", "data quality"}]
)
def test_all_experiments_are_one_pattern(
    database: Database, dashboard: str, title: str, query: str
) -> None:
    found = database.ask(filled_in(query, ".*", ""))
    assert {series["tags"]["run"] for series in found} == {"a", "b.1", "c"}


@pytest.mark.parametrize(("dashboard", "title", "query"), queries("machines"))
def test_all_hosts_are_one_pattern(
    database: Database, dashboard: str, title: str, query: str
) -> None:
    by_host = "host" in database.ask(filled_in(query, "", ""))[0]["tags"]
    found = {
        series["tags"]["host" if by_host else "run"]
        for series in database.ask(filled_in(query, "", ""))
    }
    assert found == (set(HOST_OF.values()) if by_host else set(HOST_OF))


def answer(database: Database, dashboard: str, title: str) -> list[dict]:
    return database.ask(filled_in(SHOWN[dashboard, title], "res net/50 (v2)", "a", "n1"))


def test_the_fleet_tells_how_a_run_ended_and_why(database: Database) -> None:
    by_run = {
        each["tags"]["run"]: each for each in answer(database, "fleet", "Newest state of each run")
    }
    assert by_run["a"]["columns"][1:] == ["state", "step", "reason"]
    assert by_run["a"]["values"][0][1:] == ["failed", STEPS - 1, "out of memory"]


def test_the_pace_of_a_run_is_its_steps_per_second(database: Database) -> None:
    for each in answer(database, "fleet", "Steps per second"):
        pace = [value for _, value in each["values"]]
        assert pace[:-1] == pytest.approx([1.0] * (len(pace) - 1))
        assert pace[-1] <= 1.0  # of an interval that the run did not fill


def test_what_runs_use_is_summed_over_their_gpus(database: Database) -> None:
    for each in answer(database, "fleet", "GPU power"):
        assert {value for _, value in each["values"]} == {720.0}
    for each in answer(database, "fleet", "GPU energy"):
        minutes = {(RECENT_NS // S + at) // 60 for at in range(0, STEPS + 1, 10)}
        ((_, kwh),) = each["values"]
        assert kwh == pytest.approx(0.720 * len(minutes) / 60)


def test_a_lagging_gpu_is_seen_in_the_spread(database: Database) -> None:
    (each,) = answer(database, "machines", "Spread of utilisation over the GPUs of a run")
    assert {value for _, value in each["values"]} == {40.0}


def test_memory_is_a_share_of_all_there_is(database: Database) -> None:
    (each,) = answer(database, "machines", "Memory")
    assert {value for _, value in each["values"]} == {25.0}


def test_deliveries_are_summed_by_run_with_their_dead_lines(database: Database) -> None:
    by_run = {each["tags"]["run"]: each for each in answer(database, "data quality", "Deliveries")}
    assert by_run["a"]["values"][0][1:] == [STEPS, 2, 1]


def test_the_configuration_is_there_by_key(database: Database) -> None:
    (each,) = answer(database, "run", "Configuration")
    assert each["tags"] == {"key": "lr"}
    assert each["values"][0][1] == "0.1"


@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_variables_offer_what_there_is(database: Database, dashboard: str) -> None:
    build = DASHBOARDS[dashboard]
    built = build() if build is machines else build(database.name)
    offered = {}
    for variable in built["templating"]["list"]:
        # Measurements and fields stand in the first column, values of tags in the second.
        column = 1 if variable["name"] in {"run", "host"} else 0
        kept = re.compile(variable["regex"].strip("/"))
        query = filled_in(variable["query"], "res net/50 (v2)", "")
        found = database.column(query, column)
        offered[variable["name"]] = {value for value in found if kept.search(value)}
    there = {
        "experiment": set(EXPERIMENTS),
        "run": {"a", "b.1"},
        "metric": {"train/loss", "lr"},
        "host": set(HOST_OF.values()),
    }
    assert offered == {name: there[name] for name in offered}


def test_the_table_of_runs_leads_to_the_run(database: Database) -> None:
    (table,) = [each for each in panels(fleet()) if each["title"] == "Newest state of each run"]
    links = [
        link["url"]
        for override in table["fieldConfig"]["overrides"]
        for each in override["properties"]
        if each["id"] == "links"
        for link in each["value"]
    ]
    (url,) = links
    named = {f"var-{variable['name']}" for variable in run()["templating"]["list"]}
    assert url.startswith(f"/d/{run()['uid']}?")
    assert set(re.findall(r"[?&]([\w-]+)=", url)) <= named


@pytest.mark.parametrize(("util", "idle"), [(0, True), (90, False)])
def test_the_alert_of_idle_gpus_sees_the_best_of_a_host(
    influx: Influx, util: int, idle: bool
) -> None:
    database = Database(influx)
    tags = "experiment=e,host=n1,run=r"
    database.store(
        "system",
        [
            f"gpu,{tags},gpu={gpu} util_percent={value} {RECENT_NS}".encode()
            for gpu, value in enumerate([0, util])
        ],
    )
    (found,) = database.ask(alert_query("stepclock-gpus-idle", RECENT_NS, RECENT_NS + S))
    assert found["tags"] == {"experiment": "e", "host": "n1", "run": "r"}
    assert (found["values"][0][1] < 5) is idle
