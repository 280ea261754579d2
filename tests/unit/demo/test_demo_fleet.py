from __future__ import annotations

import time
from pathlib import Path

import pytest
import stepclock

from demo import rows
from demo.fleet import Fleet
from demo.plan import make_plan

DEADLINE_S = 20.0
KEYS = {"demo": "demo-key", "guest": "guest-key"}


@pytest.fixture
def fleet(tmp_path, monkeypatch) -> Fleet:
    monkeypatch.setenv("PYTHONPATH", str(Path(stepclock.__file__).parents[1]))
    # Port 9 (discard) takes no connections: the trainers go on trying until they are ended.
    plan = make_plan("digits", steps=100_000, steps_per_s=200.0)
    gateways = ["http://127.0.0.1:9"]
    return Fleet(plan, tmp_path / "runs", gateways=gateways, keys=KEYS, finish_s=60.0)


def wait_until_recorded(fleet: Fleet) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not all(path.exists() and any(rows.read(path)) for path in fleet.ledgers):
        assert time.monotonic() < deadline, fleet.failures()
        time.sleep(0.02)


def test_an_interrupt_ends_every_trainer(fleet) -> None:
    def interrupted() -> None:
        with fleet:
            wait_until_recorded(fleet)
            assert fleet.running
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not fleet.running


def test_the_key_is_not_on_the_command_line_nor_in_any_file(fleet, tmp_path) -> None:
    with fleet:
        wait_until_recorded(fleet)
        for process in fleet._processes.values():
            assert b"-key" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert any(path.suffix == ".seg" for path in files), "the spool is among them"
    for path in files:
        assert b"-key" not in path.read_bytes()
