"""docker-compose.yml run for real: up, a point in, three consumers, down, nothing left.

Runs where a Docker engine answers and has, or can pull, the images. STEPCLOCK_TEST_IMAGE names
an image of Stepclock that is built already; STEPCLOCK_TEST_WITHOUT names services, with commas,
whose images can't be had.
"""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
import uuid

import pytest

from native.ports import free_ports
from tests.services import Absent, require_engine
from tests.unit.deploy.test_deploy import ROOT

SERVICES = (
    "init",
    "kafka",
    "influxdb",
    "provision",
    "gateway",
    "consumer",
    "prometheus",
    "grafana",
)
PULL_S = 600
UP_S = 280


class Project:
    """One project of Docker Compose, on ports of its own."""

    def __init__(self):
        self.name = f"stepclock-test-{uuid.uuid4().hex[:8]}"
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        self.command = ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]
        self.gateway, self.influx, *others = free_ports(4)
        without = os.environ.get("STEPCLOCK_TEST_WITHOUT", "").split(",")
        self.services = [name for name in SERVICES if name not in without]
        self.image = os.environ.get("STEPCLOCK_TEST_IMAGE")
        self.environment = os.environ | {
            "COMPOSE_PROJECT_NAME": self.name,
            "GATEWAY_PORT": str(self.gateway),
            "INFLUX_PORT": str(self.influx),
            "PROMETHEUS_PORT": str(others[0]),
            "GRAFANA_PORT": str(others[1]),
            **({} if self.image is None else {"SERVER_IMAGE": self.image}),
        }

    def run(self, *arguments, timeout_s=120, check=True):
        return run([*self.command, *arguments], self.environment, timeout_s, check=check)

    def containers(self, service):
        return self.run("ps", "-q", service).split()

    def health(self, service):
        shown = run(["docker", "inspect", *self.containers(service)], self.environment)
        return [container["State"]["Health"]["Status"] for container in json.loads(shown)]

    def left(self):
        """What of this project the engine still has."""
        label = f"label=com.docker.compose.project={self.name}"
        return [
            run(["docker", *what, "--quiet", "--filter", label], self.environment).split()
            for what in (["ps", "--all"], ["volume", "ls"], ["network", "ls"])
        ]


def run(command, environment, timeout_s=60, *, check=True):
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def project():
    try:
        require_engine()
    except Absent as exc:
        pytest.skip(str(exc))
    if not (shutil.which("docker") and (shutil.which("docker-compose") or has_plugin())):
        pytest.skip("needs the docker command and Docker Compose")
    project = Project()
    images = {
        image
        for service, image in re.findall(
            r"\n  (\w+):\n(?:(?!\n  \w+:\n)[\s\S])*?    image: \$\{\w+:-([^}]+)\}",
            (ROOT / "docker-compose.yml").read_text(),
        )
        if service in project.services
    }
    for image in sorted(images):
        if not has_image(image, project.environment):
            pytest.skip(f"the engine does not have {image} and can't pull it")
    assert project.left() == [[], [], []]
    yield project
    project.run("down", "--volumes", "--remove-orphans", timeout_s=180)
    assert project.left() == [[], [], []], "down leaves nothing"


def has_plugin():
    command = ["docker", "compose", "version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def has_image(image, environment):
    for command in (["docker", "image", "inspect", image], ["docker", "pull", "--quiet", image]):
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=PULL_S, check=False
        )
        if done.returncode == 0:
            return True
    return False


def wait_until(what, condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.5)
    return found


@pytest.mark.slow
@pytest.mark.timeout(PULL_S + 2 * UP_S)
def test_one_command_runs_all_of_it_and_another_leaves_nothing(project):
    build = [] if project.image else ["--build"]
    project.run("up", "--detach", *build, *project.services, timeout_s=UP_S)
    key = re.search(r"\bsk_[0-9a-f]+_[\w-]+", project.run("logs", "--no-color", "init")).group()
    url = f"http://127.0.0.1:{project.gateway}"
    wait_until("the gateway is ready", lambda: answers(url + "/readyz"))

    def write(step):
        line = f"compose,run=r loss={step / 10},step={step}i".encode()
        headers = {"Authorization": f"Bearer {key}"}
        request = urllib.request.Request(f"{url}/api/v2/write?bucket=raw", line, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 204

    token = project.run("exec", "-T", "influxdb", "cat", "/secrets/influx-token").strip()

    def stored():
        query = urllib.parse.urlencode({"db": "stepclock", "q": 'SELECT step FROM "raw"."compose"'})
        request = urllib.request.Request(
            f"http://127.0.0.1:{project.influx}/query?{query}",
            headers={"Authorization": f"Token {token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            [result] = json.load(answer)["results"]
        return {step for series in result.get("series", []) for _, step in series["values"]}

    write(1)
    wait_until("the point is in InfluxDB", lambda: stored() == {1})

    project.run("up", "--detach", "--scale", "consumer=3", "--no-recreate", "consumer")
    assert len(project.containers("consumer")) == 3
    for service in set(project.services) - {"init", "provision"}:
        healthy = ["healthy"] * (3 if service == "consumer" else 1)
        wait_until(f"{service} is healthy", lambda s=service, h=healthy: project.health(s) == h)
    write(2)
    wait_until("the second point is in InfluxDB", lambda: stored() == {1, 2})
    assert "3 consumers in the group" in project.run("run", "--rm", "admin", "lag")

    hardened = "touch /x || touch /opt/stepclock/x || grep -q 'CapEff:.*[1-9a-f]' /proc/1/status"
    inside = project.run("exec", "-T", "gateway", "sh", "-c", f"({hardened}) || id -u")
    assert inside.strip() == "10001"


def answers(url):
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True
