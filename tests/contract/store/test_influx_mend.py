"""What is left of InfluxDB's acknowledged points after a write that was torn in its log."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from adapters.influx.admin import InfluxAdmin
from adapters.influx.connection import InfluxConnection
from adapters.influx.reader import InfluxReader
from adapters.influx.writer import InfluxWriter
from native import influxd
from native.influxd import InfluxDB
from native.influxd_binary import binary
from native.ports import LOOPBACK, free_ports
from native.process import Process
from schemas.line_protocol.precision import Precision

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[3] / "deploy" / "influxd.sh"

#: The head of an entry of 4096 bytes, and ten of them: as a kill or a full disk leaves it.
TORN = b"\x01" + (4096).to_bytes(4, "big") + bytes(10)


def at(database: InfluxDB) -> InfluxConnection:
    return InfluxConnection(database.url, database.token, database.org)


def write(database: InfluxDB, steps: range) -> None:
    lines = "\n".join(f"load,run=r step={step}i {1_790_000_000_000 + step}" for step in steps)
    with closing(InfluxWriter(at(database))) as writer:
        writer.write("native", "wal", lines.encode(), Precision.MS)


def stored_steps(database: InfluxDB) -> set[object]:
    with closing(InfluxReader(at(database))) as reader:
        return {point.fields["step"] for point in reader.points("native", "wal", "load")}


@pytest.fixture
def torn(influx_process: Callable[..., InfluxDB]) -> InfluxDB:
    """Killed, with half an entry at the end of each log; it had acknowledged steps 0 to 99."""
    database = influx_process()
    with closing(InfluxAdmin(at(database))) as admin:
        admin.create_bucket("native/wal", None, None)
    write(database, range(100))
    database.process.kill()
    for log in (database.folder / "engine" / "wal").rglob("*.wal"):
        log.write_bytes(log.read_bytes() + TORN)
    return database


def test_acknowledged_points_outlive_two_kills_once_a_torn_log_was_mended(torn: InfluxDB) -> None:
    influxd.mend(torn.folder)
    torn.process.start()
    write(torn, range(100, 200))
    torn.process.kill()
    torn.process.start()
    assert stored_steps(torn) == set(range(200))


def test_the_entry_point_of_the_container_mends_a_torn_log(torn: InfluxDB, tmp_path: Path) -> None:
    image = tmp_path / "entrypoint.sh"
    image.write_text(
        f"#!/bin/bash\nshift\nexec {binary()} --bolt-path={torn.folder}/influxd.bolt "
        f"--sqlite-path={torn.folder}/influxd.sqlite --engine-path={torn.folder}/engine "
        '--reporting-disabled "$@"\n'
    )
    image.chmod(0o755)
    script = tmp_path / "influxd.sh"
    script.write_text(
        SCRIPT.read_text("utf-8")
        .replace("/entrypoint.sh", str(image))
        .replace("/var/lib/influxdb2", str(torn.folder))
        .replace("18086", str(free_ports(1)[0]))
    )
    container = Process(
        "container",
        ["bash", str(script), "influxd", f"--http-bind-address={LOOPBACK}:{torn.port}"],
        log_path=tmp_path / "container.log",
        ready=lambda: influxd.is_ready(LOOPBACK, torn.port),
    )
    with container:
        container.start()
        write(torn, range(100, 200))
        container.kill()
    torn.process.start()
    assert stored_steps(torn) == set(range(200))
