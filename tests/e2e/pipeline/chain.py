"""Gateway and consumer processes between a Kafka and an InfluxDB, for end-to-end tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from adapters.influx.connection import InfluxConnection
from adapters.influx.reader import InfluxReader
from native.ports import free_ports
from native.process import Process
from schemas.tenants.keys import new_key
from schemas.tenants.keys_file import dump


@dataclass
class Service:
    """One of our processes; `process.restart()` starts it again on the same port."""

    process: Process
    url: str


def service(name, argv, folder, environment, port_variable="STEPCLOCK_PORT"):
    """A module of ours as a process, once it says that it is ready."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    process = Process(
        name,
        [sys.executable, "-m", *argv],
        log_path=folder / f"{name}.log",
        ready=lambda: is_ready(url),
        env=environment | {port_variable: str(port)},
    )
    process.start()
    return Service(process, url)


def is_ready(url):
    try:
        get(url, "/readyz")
    except OSError:
        return False
    return True


@dataclass
class Chain:
    folder: Path
    environment: dict[str, str]
    key: str
    namespace: str
    reader: InfluxReader
    gateways: list[Service] = field(default_factory=list)
    consumers: list[Service] = field(default_factory=list)

    @property
    def urls(self):
        return [gateway.url for gateway in self.gateways]

    def add_gateway(self, **environment):
        name = f"gateway-{len(self.gateways)}"
        self.gateways.append(service(name, ["ingest"], self.folder, self.environment | environment))

    def add_consumer(self, **environment):
        name = f"consumer-{len(self.consumers)}"
        self.consumers.append(
            service(
                name,
                ["consumers"],
                self.folder,
                self.environment | environment,
                "STEPCLOCK_PROBE_PORT",
            )
        )

    def stop(self):
        for running in (*self.gateways, *self.consumers):
            running.process.stop()

    def admin(self, *arguments):
        return run_admin(*arguments, environment=self.environment)


@contextlib.contextmanager
def provisioned(folder, kafka_bootstrap_servers, influx, *, namespace="stepclock", **settings):
    """Topics, buckets and a key; what is added to the chain ends with it."""
    key, record = new_key("e2e", namespace=namespace)
    keys_file = folder / "keys.toml"
    keys_file.write_text(dump([record]))
    environment = {
        "STEPCLOCK_KEYS_FILE": str(keys_file),
        "STEPCLOCK_DATA_DIR": str(folder),
        "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap_servers,
        "STEPCLOCK_INFLUX_URL": influx.url,
        "STEPCLOCK_INFLUX_TOKEN": influx.token,
        "STEPCLOCK_INFLUX_ORG": influx.org,
        "STEPCLOCK_CANARY_S": "0",  # tests count what is in the log
        **settings,
    }
    done = run_admin("provision", environment=environment)
    assert done.returncode == 0, done.stderr
    at = InfluxConnection(influx.url, influx.token, influx.org)
    with contextlib.closing(InfluxReader(at)) as reader:
        running = Chain(folder, environment, key, namespace, reader)
        try:
            yield running
        finally:
            running.stop()


@contextlib.contextmanager
def chain(folder, kafka_bootstrap_servers, influx, **settings):
    """The same with one gateway and one consumer."""
    with provisioned(folder, kafka_bootstrap_servers, influx, **settings) as running:
        running.add_consumer()
        running.add_gateway()
        yield running


def run_admin(*arguments, environment):
    return subprocess.run(
        [sys.executable, "-m", "admin", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def get(url, path):
    with urllib.request.urlopen(url + path, timeout=10) as answer:
        return answer.read().decode()
