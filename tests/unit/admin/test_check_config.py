"""check-config, and keys that are read again while the gateway runs."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from admin.__main__ import app
from admin.check_config import CheckState, ConfigCheck, exit_code
from ingest.keys.auth import KeyStore
from ingest.keys.credentials import NoKeys, ensure_keys, write_private
from native.ports import free_ports
from schemas.tenants.keys import Role, new_key
from schemas.tenants.keys_file import dump
from tests.asgi import lifespan
from tests.deadline import eventually
from tests.fakes.gateway import Gateway


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("STEPCLOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STEPCLOCK_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")
    return monkeypatch


def run(*arguments):
    return CliRunner().invoke(app, ["check-config", *arguments])


def keys_file(tmp_path, *records):
    path = tmp_path / "keys.toml"
    path.write_text(dump(records))
    path.chmod(0o600)
    return path


def test_what_ships_can_be_used_as_it_is(tmp_path):
    result = run("--strict")
    assert result.exit_code == 0, result.output
    assert "raw 90d" in result.stdout
    assert "made with one key at the first start" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_can_not_be_is_named_without_its_value(environment):
    environment.setenv("STEPCLOCK_PORT", "many")
    environment.setenv("STEPCLOCK_VOLATILE_TAGS", "not json")
    result = run()
    assert result.exit_code == 2
    assert "STEPCLOCK_PORT" in result.stdout
    assert "volatile_tags" in result.stdout


def test_a_variable_that_nobody_reads_is_a_warning_with_its_nearest_name(environment):
    environment.setenv("STEPCLOCK_INFLUX_ULR", "x")
    result = run()
    assert result.exit_code == 0
    assert "did you mean STEPCLOCK_INFLUX_URL?" in result.stdout
    assert run("--strict").exit_code == 1


def test_a_token_file_that_is_not_there_is_said(environment, tmp_path):
    environment.setenv("STEPCLOCK_INFLUX_TOKEN_FILE", str(tmp_path / "none"))
    result = run()
    assert result.exit_code == 2
    assert "none" in result.stdout


@pytest.mark.parametrize(
    ("text", "says"), [("[", "not valid TOML"), ("[classes.raw]", "raw"), (None, "No such file")]
)
def test_a_broken_retention_file_is_said(environment, tmp_path, text, says):
    path = tmp_path / "retention.toml"
    environment.setenv("STEPCLOCK_RETENTION_FILE", str(path))
    if text is not None:
        path.write_text(text)
    result = run()
    assert result.exit_code == 2
    assert says in result.stdout


@pytest.mark.parametrize("content", [b"this is not TOML", b"\xff", b"[keys.x]\ntenant = 'a'"])
def test_a_broken_keys_file_is_said(tmp_path, content):
    (tmp_path / "keys.toml").write_bytes(content)
    result = run()
    assert result.exit_code == 2
    assert "keys.toml" in result.stdout


def test_keys_are_counted_and_those_that_let_nobody_in_are_a_warning(tmp_path):
    _, reader = new_key("analyst", role=Role.READ)
    _, expired = new_key("vision", expires=datetime.now(UTC) - timedelta(days=1))
    path = keys_file(tmp_path, reader, expired)
    result = run()
    assert result.exit_code == 0
    assert "1 usable of 2 keys, 2 tenants" in result.stdout
    assert "no key may write" in result.stdout
    _, writer = new_key("audio")
    keys_file(tmp_path, reader, writer)
    assert "no key may write" not in run().stdout
    path.chmod(0o666)
    assert "others may change it" in run().stdout


@pytest.mark.parametrize("own", [None, "own.toml"])
def test_a_keys_file_that_is_needed_and_not_there_is_said_as_at_the_start(
    environment, tmp_path, own
):
    environment.setenv("STEPCLOCK_HOST", "0.0.0.0")
    if own is not None:
        environment.setenv("STEPCLOCK_KEYS_FILE", str(tmp_path / own))
    result = run()
    assert result.exit_code == 2
    assert "keys create" in result.stdout
    with pytest.raises(NoKeys) as refused:
        ensure_keys(own and tmp_path / own, tmp_path, "0.0.0.0")
    assert f"{own or 'keys.toml'} does not exist" in str(refused.value)
    cells = re.sub(r"[\s│]+", "", result.stdout)
    assert re.sub(r"\s", "", str(refused.value)) in cells


@pytest.mark.slow
def test_services_that_are_away_are_exit_code_1(environment):
    kafka, influx = free_ports(2)
    environment.setenv("STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{kafka}")
    environment.setenv("STEPCLOCK_INFLUX_URL", f"http://127.0.0.1:{influx}")
    environment.setenv("STEPCLOCK_INFLUX_TOKEN", "hush")
    result = run("--connect")
    assert result.exit_code == 1
    assert result.stdout.count("│ away") == 2
    assert "hush" not in result.output


def test_the_worst_finding_decides_the_exit_code():
    def code(*states):
        return exit_code(ConfigCheck("x", state, "") for state in states)

    assert code() == code(CheckState.OK, CheckState.WARNING) == 0
    assert code(CheckState.OK, CheckState.AWAY) == code(CheckState.MISSING) == 1
    assert code(CheckState.AWAY, CheckState.WRONG) == 2


# -- keys that change under a running gateway --------------------------------------------------


def test_a_changed_rate_takes_effect_in_the_running_gateway(tmp_path):
    async def body():
        gateway = Gateway(tmp_path)
        path = tmp_path / "keys.toml"
        async with lifespan(gateway.app):
            debt = "\n".join(f"m,run=a f=1,step={n}i" for n in range(500))
            assert (await gateway.client.write(debt, key=gateway.small_key)).status == 204
            assert (await gateway.client.write("m f=1", key=gateway.small_key)).status == 429
            path.write_text(path.read_text().replace("burst = 20", "burst = 1000"))
            async with asyncio.timeout(20):  # in debt for 48 s under the old burst
                while (await gateway.client.write("m f=1", key=gateway.small_key)).status != 204:
                    await asyncio.sleep(0.01)

    asyncio.run(body())


def test_reload_reads_a_file_even_if_it_looks_unchanged(tmp_path):
    _, record = new_key("vision")
    other, replaced = new_key("vision")
    path = keys_file(tmp_path, record)
    keys = KeyStore(path)
    before = path.stat()
    path.write_text(dump([replaced]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    keys.reload()
    assert keys.authenticate(other) == replaced


def test_reload_of_a_broken_file_keeps_the_old_keys_and_says_why(tmp_path, caplog):
    key, record = new_key("vision")
    path = keys_file(tmp_path, record)
    keys = KeyStore(path)
    path.write_text("this is not TOML")
    keys.reload()
    assert keys.authenticate(key) == record
    assert "not valid TOML" in caplog.text


@contextmanager
def serving(tmp_path, log):
    """`serve` as a process; gives it and its URL once it answers."""
    address = tmp_path / "url"
    process = subprocess.Popen(
        [sys.executable, "-m", "admin", "serve", "--port", "0"],
        env=os.environ | {"STEPCLOCK_ADDRESS_FILE": str(address)},
        stderr=log,
        stdout=log,
    )
    try:
        assert eventually(address.exists, 60)
        url = address.read_text().strip()
        assert eventually(lambda: status(f"{url}/livez") == 200)
        yield process, url
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def status(url, key=None):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code


@pytest.mark.slow
def test_sighup_reads_the_keys_at_once_and_the_server_goes_on(tmp_path):
    key, record = new_key("vision")
    _, other = new_key("audio")
    path = keys_file(tmp_path, other)
    with (tmp_path / "log").open("wb") as log, serving(tmp_path, log) as (process, url):
        experiments = f"{url}/api/v1/experiments"
        assert status(experiments, key) == 401
        write_private(path, dump([record]))
        process.send_signal(signal.SIGHUP)
        assert eventually(lambda: "1 keys" in (tmp_path / "log").read_text())
        assert status(experiments, key) == 200
        path.write_text("this is not TOML")
        process.send_signal(signal.SIGHUP)
        assert eventually(lambda: "not valid TOML" in (tmp_path / "log").read_text())
        assert status(experiments, key) == 200
