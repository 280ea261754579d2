"""`stepclock-server janitor`: how it begins and ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from typer.testing import CliRunner

from admin.__main__ import app
from native.ports import free_ports
from tests.deadline import eventually


@pytest.fixture
def environment(tmp_path):
    """An InfluxDB that is away, and files in a folder of their own."""
    (port,) = free_ports(1)
    return {
        "STEPCLOCK_DATA_DIR": str(tmp_path),
        "STEPCLOCK_INFLUX_URL": f"http://127.0.0.1:{port}",
        "STEPCLOCK_INFLUX_TOKEN": "t",
        "STEPCLOCK_PROBE_PORT": "0",
        "STEPCLOCK_PROBE_ADDRESS_FILE": str(tmp_path / "url"),
    }


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("flag", ["--once", "--dry-run"])
def test_a_single_round_fails_where_the_store_is_away(environment, flag):
    assert CliRunner().invoke(app, ["janitor", flag], env=environment).exit_code == 1


def test_a_run_can_not_be_lost_before_it_is_silent(environment):
    flags = ["--silent-after-s", "60", "--lost-after-s", "30"]
    result = CliRunner().invoke(app, ["janitor", *flags], env=environment)
    assert result.exit_code == 2
    assert "STEPCLOCK_LOST_AFTER_S is less than STEPCLOCK_SILENT_AFTER_S" in re.sub(
        r"\s+", " ", result.output
    )


def test_help_has_examples():
    result = CliRunner().invoke(app, ["janitor", "--help"])
    assert result.exit_code == 0
    assert "Examples: " in result.output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_it_waits_for_a_store_that_is_away_and_ends_when_told(environment, tmp_path, number, code):
    process = subprocess.Popen(
        [sys.executable, "-m", "admin", "janitor"],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert eventually((tmp_path / "url").exists)
        (url,) = (tmp_path / "url").read_text().splitlines()

        def health():
            try:
                return urllib.request.urlopen(f"{url}/health", timeout=5).status
            except urllib.error.HTTPError as exc:
                with exc:
                    return json.load(exc)

        assert eventually(lambda: "did not answer" in health()["store"])
        for path in ("livez", "readyz"):
            with urllib.request.urlopen(f"{url}/{path}", timeout=5) as answer:
                assert answer.status == 200
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code
    assert "Traceback" not in said
