from typer.testing import CliRunner

from admin.__main__ import app
from schemas.tenants.keys import digest
from schemas.tenants.keys_file import parse

run = CliRunner().invoke


def test_create_prints_the_key_alone_on_standard_output(tmp_path):
    path = tmp_path / "keys.toml"
    result = run(app, ["keys", "create", "--tenant", "vision", "--keys-file", str(path)])
    assert result.exit_code == 0
    [key] = result.stdout.splitlines()
    [record] = parse(path.read_text()).values()
    assert (record.sha256, record.tenant.name) == (digest(key), "vision")
    assert path.stat().st_mode & 0o777 == 0o600


def test_keys_of_one_tenant_share_its_namespace_and_the_newest_limit(tmp_path):
    path = tmp_path / "keys.toml"
    common = ["keys", "create", "--tenant", "vision", "--keys-file", str(path)]
    run(app, [*common, "--namespace", "team-a", "--rate", "10"])
    run(app, [*common, "--rate", "20", "--series-per-hour", "500", "--dry-run"])
    run(app, common)
    records = list(parse(path.read_text()).values())
    limits = [(r.tenant.namespace, r.tenant.rate, r.tenant.series_per_hour) for r in records]
    assert limits == [("team-a", 20, 500)] * 3
    assert {r.tenant.dry_run for r in records} == {True}
    run(app, [*common, "--no-dry-run"])
    assert {r.tenant.dry_run for r in parse(path.read_text()).values()} == {False}
    assert run(app, [*common, "--namespace", "team-b"]).exit_code == 2


def test_list_shows_no_secret_and_revoke_marks_the_key(tmp_path):
    path = tmp_path / "keys.toml"
    common = ["--keys-file", str(path)]
    key = run(app, ["keys", "create", "--tenant", "vision", *common]).stdout.strip()
    [key_id] = parse(path.read_text())
    assert run(app, ["keys", "revoke", key_id, *common]).exit_code == 0
    listed = run(app, ["keys", "list", *common])
    assert key_id in listed.stdout
    assert "revoked" in listed.stdout
    assert key not in listed.stdout
    assert run(app, ["keys", "revoke", "nosuch", *common]).exit_code == 2


def test_names_that_can_not_be_are_refused_by_name(tmp_path):
    path = tmp_path / "keys.toml"
    result = run(app, ["keys", "create", "--tenant", "a b", "--keys-file", str(path)])
    assert result.exit_code == 2
    assert "a b" in result.stderr
    assert not path.exists()
