"""What runs Stepclock agrees with it: images, ports, settings, metrics, alerts, runbook."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from prometheus_client.metrics import MetricWrapperBase

from adapters.settings import unknown_variables
from admin.__main__ import app
from admin.context import SETTINGS_OF
from consumers.settings import ConsumerSettings
from grafana.builders import DASHBOARDS
from grafana.builders.dashboard import text
from ingest.settings import GatewaySettings
from telemetry import metrics
from tests.services import INFLUX_IMAGE, KAFKA_IMAGE

ROOT = Path(__file__).parents[3]
COMPOSE = (ROOT / "docker-compose.yml").read_text("utf-8")
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text("utf-8")
SETTINGS = (ROOT / "deploy/settings.env").read_text("utf-8")
PROMETHEUS = ROOT / "deploy/prometheus"
ALERTS = (PROMETHEUS / "alerts.yml").read_text("utf-8")
ALERT_TESTS = (PROMETHEUS / "alerts_test.yml").read_text("utf-8")
GRAFANA_ALERTS = (ROOT / "grafana/provisioning/alerting/training.yaml").read_text("utf-8")
GRAFANA_TITLES = re.findall(r"^        title: (\w+)$", GRAFANA_ALERTS, re.MULTILINE)
DATA_SOURCES = (ROOT / "grafana/provisioning/datasources/stepclock.yaml").read_text("utf-8")
RUNBOOK = (ROOT / "docs/runbook.md").read_text("utf-8")

#: Alerts with the text of their rule.
RULES = dict(re.findall(r"- alert: (\w+)\n(.*?)(?=\n +- alert:|\n  - name:|\Z)", ALERTS, re.DOTALL))


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (Debian: apt-get install prometheus)",
)


def exported() -> set[str]:
    """Every name that telemetry/metrics.py puts on a metrics page."""
    names = {"up", "process_start_time_seconds", "ALERTS"}
    for collector in vars(metrics).values():
        if isinstance(collector, MetricWrapperBase):
            (family,) = collector.describe()
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
            names |= {family.name + suffix for suffix in suffixes.get(family.type, [""])}
    return names


def named(expressions: str) -> set[str]:
    """The metrics that PromQL names."""
    return set(re.findall(r"\b(?:stepclock|process)_\w+", expressions))


def headings() -> list[str]:
    return re.findall(r"^### (.+)$", RUNBOOK, re.MULTILINE)


def anchor(heading: str) -> str:
    """The anchor that a heading gets, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def panels(dashboard: dict) -> Iterator[dict]:
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# -- metrics ----------------------------------------------------------------------------------


def test_alerts_name_only_metrics_that_exist():
    assert named(ALERTS) <= exported()
    assert len(named(ALERTS)) > 10


def test_tests_of_alerts_name_only_metrics_that_exist():
    assert named(ALERT_TESTS) <= exported()


@pytest.mark.parametrize("build", DASHBOARDS.values(), ids=DASHBOARDS)
def test_dashboards_name_only_metrics_that_exist(build):
    assert named(json.dumps(build())) <= exported()


def test_the_pipeline_dashboard_shows_every_metric_that_the_runbook_may_need():
    shown = named(json.dumps(DASHBOARDS["pipeline.json"]()))
    assert {
        "stepclock_gateway_requests_total",
        "stepclock_gateway_points_total",
        "stepclock_gateway_ack_seconds_bucket",
        "stepclock_gateway_circuit_state",
        "stepclock_gateway_pending_bytes",
        "stepclock_gateway_pending_bytes_limit",
        "stepclock_consumer_lag",
        "stepclock_consumer_end_to_end_seconds_bucket",
        "stepclock_consumer_writes_total",
        "stepclock_consumer_dead_letters_total",
        "stepclock_consumer_paused_partitions",
        "stepclock_consumer_rebalances_total",
        "stepclock_consumer_lost_offsets_total",
    } <= shown


# -- alerts and the runbook -------------------------------------------------------------------


def test_every_alert_is_found():
    assert len(RULES) == ALERTS.count("- alert:") >= 16


@pytest.mark.parametrize("alert", RULES)
def test_every_alert_says_how_bad_it_is_and_links_its_paragraph(alert):
    rule = RULES[alert]
    assert re.search(r"severity: (page|ticket)\b", rule)
    assert f"runbook: docs/runbook.md#{anchor(alert)}\n" in rule + "\n"
    assert alert in headings()
    assert all(f"\n          {key}: " in rule for key in ("summary", "description"))


@pytest.mark.parametrize("alert", RULES)
def test_every_alert_has_a_test(alert):
    assert re.search(rf'alertname(: |="){alert}\b', ALERT_TESTS)


def test_alerts_of_grafana_have_their_paragraph():
    assert len(GRAFANA_TITLES) == 3
    for title in GRAFANA_TITLES:
        assert title in headings()
        assert f"runbook: docs/runbook.md#{anchor(title)}\n" in GRAFANA_ALERTS


def test_the_runbook_names_no_alert_that_is_gone_and_no_link_is_broken():
    anchors = {anchor(heading) for heading in headings()}
    assert set(re.findall(r"\]\(#([^)]+)\)", RUNBOOK)) <= anchors
    before, _, _ = RUNBOOK.partition("## What else can cost sleep")
    alerts = re.findall(r"^### (\w+)$", before, re.MULTILINE)
    assert set(alerts) <= {*RULES, *GRAFANA_TITLES}


@pytest.mark.parametrize("heading", headings())
def test_every_paragraph_of_the_runbook_is_one_that_helps(heading):
    paragraph = RUNBOOK.partition(f"### {heading}\n\n")[2].partition("\n#")[0].strip()
    assert "\n" not in paragraph
    assert len(paragraph) > 150


def test_the_runbook_names_panels_and_settings_that_exist():
    titles = {panel["title"] for build in DASHBOARDS.values() for panel in panels(build())}
    titles |= {build()["title"] for build in DASHBOARDS.values()}
    emphasised = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", RUNBOOK))
    assert emphasised <= titles, emphasised - titles
    variables = dict.fromkeys(re.findall(r"\bSTEPCLOCK_[A-Z_]+", RUNBOOK), "")
    assert unknown_variables(variables, SETTINGS_OF.values()) == []
    of_compose = set(re.findall(r"\$\{(\w+):-", COMPOSE))
    assert set(re.findall(r"`([A-Z]+_[A-Z_]+)`", RUNBOOK)) - set(variables) <= of_compose


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"run --rm (?:admin|consumer) ([a-z][^`|\n#]+)", RUNBOOK)))
)
def test_the_runbook_gives_commands_and_options_that_exist(command):
    found, words = typer.main.get_command(app), command.split()
    while words and isinstance(found, typer.core.TyperGroup):
        found = found.commands[words.pop(0)]
    options = {name for parameter in found.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_the_page_about_dashboards_names_those_and_panels_that_exist():
    built = [build() for build in DASHBOARDS.values()]
    titles = {each["title"] for each in built}
    page = (ROOT / "docs/dashboards.md").read_text("utf-8")
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", page)) - {"Stepclock"}
    assert titles <= named
    assert named <= titles | {panel["title"] for each in built for panel in panels(each)}


@needs_promtool
def test_prometheus_takes_its_configuration():
    result = run("promtool", "check", "config", "deploy/prometheus/prometheus.yml")
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
def test_alerts_fire_when_they_must_and_only_then():
    result = run("promtool", "test", "rules", "deploy/prometheus/alerts_test.yml")
    assert result.returncode == 0, result.stdout + result.stderr


# -- Compose and the image --------------------------------------------------------------------


def test_compose_sets_only_settings_that_exist():
    variables = dict.fromkeys(re.findall(r"^ +(STEPCLOCK_\w+):", COMPOSE, re.MULTILINE), "")
    variables |= dict.fromkeys(re.findall(r"\b(STEPCLOCK_\w+)=", DOCKERFILE), "")
    assert len(variables) >= 8
    assert unknown_variables(variables, SETTINGS_OF.values()) == []


def test_settings_are_a_file_of_their_own_and_nothing_else_has_their_prefix():
    # All that connect to Kafka or InfluxDB: they may need a login.
    assert COMPOSE.count("env_file: ") == COMPOSE.count("<<: [*log-at, *store-at]") == 5
    assert re.search(r'env_file: &settings "\$\{SETTINGS_FILE:-deploy/settings.env\}"', COMPOSE)
    assert not re.search(r"\$\{STEPCLOCK_", COMPOSE)
    examples = re.findall(r"^# (STEPCLOCK_\w+)=", SETTINGS, re.MULTILINE)
    assert examples
    variables = dict.fromkeys(examples, "")
    assert unknown_variables(variables, SETTINGS_OF.values()) == []


def test_compose_runs_the_kafka_and_the_influxdb_that_tests_run():
    assert f"image: ${{KAFKA_IMAGE:-{KAFKA_IMAGE}}}" in COMPOSE
    assert f"image: ${{INFLUX_IMAGE:-{INFLUX_IMAGE}}}" in COMPOSE


def test_every_port_of_the_host_is_bound_to_loopback_by_default():
    ports = re.findall(r"^    ports: \[(.*)\]$", COMPOSE, re.MULTILINE)
    assert len(ports) == COMPOSE.count("ports:") == 4
    assert all(port.startswith('"${BIND:-127.0.0.1}:') for port in ports)


def test_the_consumer_can_be_scaled():
    service = COMPOSE.partition("\n  consumer:\n")[2].partition("\n  janitor:\n")[0]
    assert service
    assert "container_name" not in COMPOSE
    assert "ports:" not in service


def stays(service: str) -> bool:
    return "restart: unless-stopped" in service or "<<: *unprivileged" in service


def test_every_container_is_hardened():
    """Which capabilities each may have; that they are enough shows only where it runs."""
    listed = COMPOSE.partition("\nservices:")[2].partition("\nvolumes:")[0]
    services = re.split(r"\n  (?=\w+:\n)", listed)[1:]
    assert len(services) == COMPOSE.count("image:") + 5, "five more share the image of Stepclock"
    for service in services:
        of_anchor = "<<: *stepclock" in service or "<<: *unprivileged" in service
        assert of_anchor or "cap_drop: [ALL]" in service, service
        assert of_anchor or "no-new-privileges:true" in service, service
    for anchor_name in ("x-stepclock:", "x-unprivileged:"):
        shared = COMPOSE.partition(anchor_name)[2].partition("\n\n")[0]
        assert "cap_drop: [ALL]" in shared
        assert "no-new-privileges:true" in shared
    ours = COMPOSE.partition("x-stepclock:")[2].partition("\n\n")[0]
    assert "read_only: true" in ours
    assert "tmpfs: [/tmp]" in ours
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    assert DOCKERFILE.count("\nFROM ") == 2, "what builds is not in what runs"


def test_every_service_that_stays_has_a_memory_limit_and_a_health_check():
    services = re.split(r"\n  (?=\w+:\n)", COMPOSE.partition("\nservices:")[2])
    staying = [text for text in services if stays(text)]
    assert len(staying) == 7
    for service in staying:
        assert "mem_limit:" in service or "<<: *stepclock" in service
        assert "healthcheck:" in service or service.startswith("gateway:")
    assert re.search(r"^HEALTHCHECK ", DOCKERFILE, re.MULTILINE)
    assert "mem_limit:" in COMPOSE.partition("x-stepclock:")[2].partition("\nx-")[0]


def test_no_secret_stands_in_the_repository():
    for written in (COMPOSE, DOCKERFILE, DATA_SOURCES):
        assert not re.search(
            r"(?i)(token|password)\w*: *[\"']?[\w-]{8,}[\"']?$", written, re.MULTILINE
        )


def test_health_checks_ask_the_ports_that_the_processes_have_by_default():
    assert f"127.0.0.1:{GatewaySettings.model_fields['port'].default}/livez" in DOCKERFILE
    assert f"127.0.0.1:{ConsumerSettings.model_fields['probe_port'].default}/livez" in COMPOSE


def test_the_image_holds_every_package_that_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    found = project["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {pattern.removesuffix("*") for pattern in found}
    copied = set(re.findall(r"^COPY (\w+)/ ", DOCKERFILE, re.MULTILINE)) - {"locks"}
    let_through = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert copied == packages
    assert packages <= let_through


def test_the_build_backend_in_the_image_is_pinned_by_its_hash():
    backend = re.search(
        r"^setuptools==\S+ \\\n(?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+",
        (ROOT / "locks/dev.txt").read_text("utf-8"),
        re.MULTILINE,
    )
    assert backend


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
def test_the_first_start_makes_secrets_and_a_key_and_the_second_leaves_them(tmp_path):
    bin_folder = ROOT / ".venv/bin"
    if not (bin_folder / "stepclock-server").exists():
        pytest.skip("needs .venv (make install)")
    secrets, data = tmp_path / "secrets", tmp_path / "data"
    secrets.mkdir()
    environment = {
        "SECRETS_DIR": str(secrets),
        "STEPCLOCK_DATA_DIR": str(data),
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "INFLUX_ADMIN_TOKEN": "a token of mine",
    }
    first = run("sh", "deploy/init.sh", **environment)
    assert first.returncode == 0, first.stderr
    key = re.search(r"^sk_[0-9a-f]+_\S+$", first.stdout, re.MULTILINE)
    assert key
    assert (secrets / "influx-token").read_text() == "a token of mine\n"
    assert key.group() not in (data / "keys.toml").read_text()
    made = {path: path.read_bytes() for path in [*secrets.iterdir(), data / "keys.toml"]}
    assert len(made) == 4
    assert all(len(content) > 15 for content in made.values())

    second = run("sh", "deploy/init.sh", **environment)
    assert second.returncode == 0, second.stderr
    assert "sk_" not in second.stdout
    assert {path: path.read_bytes() for path in made} == made


# -- dashboards as files ----------------------------------------------------------------------


def test_dashboards_that_are_checked_in_are_what_the_builders_make():
    folder = ROOT / "grafana/dashboards"
    assert {path.name for path in folder.iterdir()} == set(DASHBOARDS)
    for name, build in DASHBOARDS.items():
        assert (folder / name).read_text("utf-8") == text(build()), "run `make dashboards`"


@pytest.mark.parametrize("build", DASHBOARDS.values(), ids=DASHBOARDS)
def test_a_dashboard_has_unique_panels_that_do_not_overlap(build):
    dashboard = build()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


@pytest.mark.parametrize("build", DASHBOARDS.values(), ids=DASHBOARDS)
def test_every_panel_says_what_it_shows_and_asks_a_provisioned_source(build):
    known = set(re.findall(r"^    uid: (\S+)$", DATA_SOURCES, re.MULTILINE))
    assert len(known) == 3
    for panel in panels(build()):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] in known


def test_the_home_dashboard_is_one_of_ours():
    home = re.search(r"DASHBOARD_PATH: /var/lib/grafana/dashboards/(\S+)", COMPOSE)
    assert home
    assert home.group(1) in DASHBOARDS
