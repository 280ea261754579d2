"""The audit tells who did what, in lines that nobody can forge, flood or read a secret in."""

import logging
import os
import pwd
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.settings import unknown_variables
from admin.__main__ import app
from embedded.settings import ServeSettings
from ingest import errors
from ingest.errors import Forbidden, Unauthorized
from ingest.keys.auth import KeyStore
from ingest.settings import GatewaySettings
from schemas.tenants.keys import new_key
from schemas.tenants.keys_file import dump, parse
from telemetry import audit
from telemetry.audit import Sparing, record

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ME = f"os:{pwd.getpwuid(os.getuid()).pw_name}"


@pytest.fixture
def lines(caplog):
    """Lines of the audit so far."""
    caplog.set_level(logging.INFO, audit.LOGGER)
    return lambda: [r.getMessage() for r in caplog.records if r.name == audit.LOGGER]


class Clock:
    def __init__(self):
        self.s = 0.0

    def __call__(self):
        return self.s


def test_a_line_is_key_value_and_what_a_client_sent_can_not_begin_another(lines):
    record("x", actor="os:me", outcome="done", note='a "b"\nactor=root', none=None, n=3)
    [line] = lines()
    assert line == 'action=x actor=os:me outcome=done note="a \\"b\\"\\nactor=root" n=3'
    record("x", actor="os:me", outcome="done", note="y" * 10_000)
    assert len(lines()[1]) < 300


def test_the_same_thing_is_said_once_in_its_time_and_then_with_its_count(lines):
    clock = Clock()
    sparing = Sparing(60.0, now=clock)
    for _ in range(1000):
        sparing.record("request", actor="unknown", outcome="refused", reason="no_key")
    sparing.record("request", actor="unknown", outcome="refused", reason="unknown_key")
    clock.s = 60.0
    sparing.record("request", actor="unknown", outcome="refused", reason="no_key")
    assert [line.partition("reason=")[2] for line in lines()] == [
        "no_key times=1",
        "unknown_key times=1",
        "no_key times=1000",
    ]


def test_different_things_without_end_neither_fill_the_log_nor_memory(lines):
    clock = Clock()
    sparing = Sparing(60.0, max_kinds=10, now=clock)
    for number in range(1000):
        sparing.record("request", actor=f"key:{number}", outcome="refused")
    assert len(lines()) == len(sparing._said) == 10
    clock.s = 60.0
    sparing.record("request", actor="key:new", outcome="refused")
    assert len(lines()) == 11
    assert len(sparing._said) == 1


def test_a_key_is_named_at_its_first_use_and_then_once_an_hour(lines, tmp_path):
    path, clock = tmp_path / "keys.toml", Clock()
    key, made = new_key("vision", created=NOW)
    path.write_text(dump([made]))
    keys = KeyStore(path, now=clock)
    for at_s in (0.0, 1.0, 3599.0, 3600.0):
        clock.s = at_s
        keys.authenticate(key)
    said = f"action=key.use actor=key:{made.id} outcome=granted tenant=vision"
    assert [line for line in lines() if "key.use" in line] == [said, said]
    assert key not in "".join(lines())
    assert key.rpartition("_")[2] not in "".join(lines())


def refusal(keys, key):
    with pytest.raises(Unauthorized) as caught:
        keys.authenticate(key)
    return caught.value.reason, caught.value.actor


def test_a_refused_key_is_named_only_if_the_file_has_it(tmp_path):
    path = tmp_path / "keys.toml"
    (gone, revoked), (late, expired) = (
        new_key("t", created=NOW),
        new_key("t", created=NOW, expires=NOW + timedelta(days=1)),
    )
    path.write_text(dump([replace(revoked, revoked=True), expired]))
    keys = KeyStore(path, utc_now=lambda: NOW + timedelta(days=2))
    stranger, _ = new_key("t", created=NOW)
    assert refusal(keys, None) == ("no_key", "unknown")
    assert refusal(keys, stranger) == ("unknown_key", "unknown")
    assert refusal(keys, "nonsense") == ("unknown_key", "unknown")
    assert refusal(keys, gone[:-3] + "xyz") == ("wrong_secret", f"key:{revoked.id}")
    assert refusal(keys, gone) == ("revoked", f"key:{revoked.id}")
    assert refusal(keys, late) == ("expired", f"key:{expired.id}")


def test_every_401_and_403_is_told_with_its_reason_wherever_it_arose(lines, monkeypatch):
    monkeypatch.setattr(errors, "_refusals", Sparing(60.0))
    refused = Forbidden("key abc may only read", reason="role", actor="key:abc")
    for error in (refused, Unauthorized("no", reason="no_key"), errors.NotFound("no")):
        for dialect in (errors.influx, errors.problem):
            errors.response(error, dialect, "/write")
    assert lines() == [
        "action=request actor=key:abc outcome=refused status=403 reason=role times=1",
        "action=request actor=unknown outcome=refused status=401 reason=no_key times=1",
    ]


def test_commands_say_who_made_and_revoked_a_key_and_keep_it_in_the_file(tmp_path, monkeypatch):
    kept, keys = tmp_path / "audit.log", tmp_path / "keys.toml"
    monkeypatch.setenv("STEPCLOCK_AUDIT_FILE", str(kept))
    run = CliRunner().invoke
    made = run(app, ["keys", "create", "--tenant", "vision", "--keys-file", str(keys)])
    key = made.stdout.strip()
    [record] = parse(keys.read_text()).values()
    revoked = run(app, ["keys", "revoke", record.id, "--keys-file", str(keys)])
    first, second = kept.read_text().splitlines()
    assert f"Z action=key.create actor={ME} outcome=done key={record.id} tenant=vision" in first
    assert f"Z action=key.revoke actor={ME} outcome=done key={record.id} tenant=vision" in second
    assert first.partition(" ")[2] in made.stderr
    assert second.partition(" ")[2] in revoked.stderr
    assert key not in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_key_is_made_even_where_the_audit_can_not_be_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPCLOCK_AUDIT_FILE", str(tmp_path / "none" / "audit.log"))
    keys = tmp_path / "keys.toml"
    made = CliRunner().invoke(app, ["keys", "create", "--tenant", "t", "--keys-file", str(keys)])
    assert made.exit_code == 0
    assert "STEPCLOCK_AUDIT_FILE can't be written" in made.stderr


def test_the_audit_is_printed_and_kept_although_the_log_prints_errors_only(tmp_path):
    kept = tmp_path / "audit.log"
    code = (
        "import logging, pathlib; from telemetry import audit, logs\n"
        f"logs.configure('ERROR', pathlib.Path({str(kept)!r}))\n"
        "logging.getLogger('stepclock.gateway').warning('not this')\n"
        "audit.record('key.use', actor='key:abc', outcome='granted')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    line = "action=key.use actor=key:abc outcome=granted"
    assert done.stderr.endswith(f"Z INFO    stepclock.audit: {line}\n")
    assert "not this" not in done.stderr
    assert kept.read_text().endswith(f"Z {line}\n")


def test_the_security_page_names_every_action_reason_and_setting_that_exists():
    root = Path(__file__).parents[3]
    page = (root / "docs/security.md").read_text("utf-8")
    assert "docs/security.md" in (root / "README.md").read_text("utf-8")
    code = "".join(
        path.read_text("utf-8")
        for folder in ("admin", "ingest")
        for path in (root / folder).rglob("*.py")
    )
    actions = set(re.findall(r'(?:record|audited)\(\s*"([\w.]+)"', code))
    actions |= {f"provision.{action}" for action in ("create", "change")}
    assert {"key.use", "key.create", "key.revoke", "keys.reload", "dlq.replay"} <= actions
    assert {action for action in actions if f"`{action}`" not in page} == set()
    reasons = set(re.findall(r'reason="(\w+)"', code)) | {"unknown_key", "wrong_secret"}
    assert len(reasons) >= 8
    assert {reason for reason in reasons if f"`{reason}`" not in page} == set()
    variables = dict.fromkeys(re.findall(r"\bSTEPCLOCK_[A-Z_]+[A-Z]\b", page), "")
    assert len(variables) >= 12
    assert unknown_variables(variables, [GatewaySettings, ServeSettings]) == []
