"""What is left of InfluxDB's acknowledged points after a write that was torn in its log."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from adapters.influx import InfluxAdmin, InfluxReader, InfluxWriter
from native import influxd
from native.influxd import InfluxDB
from schemas.precision import Precision

pytestmark = pytest.mark.slow

#: The head of an entry of 4096 bytes, and ten of them: as a kill or a full disk leaves it.
TORN = b"\x01" + (4096).to_bytes(4, "big") + bytes(10)


def write(database: InfluxDB, steps: range) -> None:
    lines = "\n".join(f"load,run=r step={step}i {1_790_000_000_000 + step}" for step in steps)
    with closing(InfluxWriter(database.url, database.token, database.org)) as writer:
        writer.write("native", "wal", lines.encode(), Precision.MS)


def stored_steps(database: InfluxDB) -> set[object]:
    with closing(InfluxReader(database.url, database.token, database.org)) as reader:
        return {point.fields["step"] for point in reader.points("native", "wal", "load")}


def test_acknowledged_points_outlive_two_kills_where_a_write_was_torn_by_the_first(
    influx_process: Callable[..., InfluxDB],
) -> None:
    database = influx_process()
    with closing(InfluxAdmin(database.url, database.token, database.org)) as admin:
        admin.create_bucket("native/wal", None, None)
    write(database, range(100))
    database.process.kill()
    for log in (database.folder / "engine" / "wal").rglob("*.wal"):
        log.write_bytes(log.read_bytes() + TORN)
    influxd.mend(database.folder)
    database.process.start()
    write(database, range(100, 200))
    database.process.kill()
    database.process.start()
    assert stored_steps(database) == set(range(200))
