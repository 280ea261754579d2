"""A hundred thousand tenants: keys loaded, used and reloaded within the stated memory."""

import http.client
import os
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from schemas.tenants.keys import new_key
from schemas.tenants.keys_file import dump
from telemetry.metrics import OTHER_TENANTS
from tests.deadline import eventually
from tests.e2e.pipeline.chain import get, service

TENANTS = 100_000
BOUND_MIB = 300


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_a_hundred_thousand_tenants_fit_into_the_bound_of_memory(tmp_path):
    made = [new_key(f"tenant-{n}", rate=1000) for n in range(TENANTS)]
    path = tmp_path / "keys.toml"
    path.write_text(dump(record for _, record in made))
    environment = {"STEPCLOCK_DATA_DIR": str(tmp_path), "STEPCLOCK_KEYS_FILE": str(path)}
    running = service("serve", ["admin", "serve"], tmp_path, environment)
    try:
        keys = [key for key, _ in made[:: TENANTS // 3000]]
        assert {write(running.url, key) for key in keys} == {204}
        assert f'tenant="{OTHER_TENANTS}"' in get(running.url, "/metrics")

        fresh, record = new_key("late")
        path.write_text(dump([*(record for _, record in made), record]))
        os.utime(path)
        assert eventually(lambda: write(running.url, fresh) == 204, within_s=60)
        assert write(running.url, keys[-1]) == 204
        assert peak_mib(running.process.pid) < BOUND_MIB
    finally:
        running.process.stop()


def write(url, key):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        headers = {"Authorization": f"Bearer {key}"}
        connection.request("POST", "/api/v2/write?bucket=raw", b"e,run=r v=1", headers)
        return connection.getresponse().status
    finally:
        connection.close()


def peak_mib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
