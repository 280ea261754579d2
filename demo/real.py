"""The pipeline of real parts: Kafka, InfluxDB, two gateway and two consumer processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from adapters.influx.reader import InfluxReader
from demo.backends import Backends
from demo.pipeline import Pipeline, start_service, write_keys
from native.step import run_step

_GATEWAYS = 2
_CONSUMERS = 2


@contextmanager
def start_real(folder: Path, backends: Backends, tell: Callable[[str], None]) -> Iterator[Pipeline]:
    """Provision Kafka and InfluxDB, and run our processes between them until the end.

    Raises PreparationFailed, StartFailed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys_file = folder / "keys.toml"
    tenant_keys = write_keys(keys_file)
    environment = {
        "STEPCLOCK_DATA_DIR": str(folder),
        "STEPCLOCK_KEYS_FILE": str(keys_file),
        "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": backends.kafka_bootstrap_servers,
        "STEPCLOCK_INFLUX_URL": backends.influx.url,
        "STEPCLOCK_INFLUX_TOKEN": backends.influx.token,
        "STEPCLOCK_INFLUX_ORG": backends.influx.org,
    }
    run_step(
        "provisioning topics and buckets",
        [sys.executable, "-m", "admin", "provision"],
        log_path=folder / "provision.log",
        report=tell,
        env=environment,
        timeout_s=120.0,
    )
    with ExitStack() as stack:
        consumers = [
            stack.enter_context(
                start_service(
                    f"consumer {number}",
                    ["consumers"],
                    folder,
                    environment,
                    port_variable="STEPCLOCK_PROBE_PORT",
                )
            )
            for number in range(1, _CONSUMERS + 1)
        ]
        gateways = [
            stack.enter_context(start_service(f"gateway {number}", ["ingest"], folder, environment))
            for number in range(1, _GATEWAYS + 1)
        ]
        reader = InfluxReader(backends.influx)
        stack.callback(reader.close)
        yield Pipeline([service.url for service in gateways], tenant_keys, reader, consumers)
