import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ingest.errors import Unauthorized
from ingest.keys.auth import KeyStore, key_in_headers, key_in_query
from ingest.keys.credentials import NoKeys, credentials_path, ensure_keys, write_private
from schemas.tenants.keys import InvalidKeys, Role, id_of, new_key, without_secrets
from schemas.tenants.keys_file import dump, parse
from tests.deadline import eventually

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def store(path, *records, **arguments):
    path.write_text(dump(records))
    return KeyStore(path, utc_now=lambda: NOW, **arguments)


def test_a_keys_file_gives_back_what_was_dumped():
    _, a = new_key("vision", namespace="team-a", rate=10, burst=20, series_per_hour=5, created=NOW)
    _, b = new_key("audio", role=Role.READ, expires=NOW, dry_run=True)
    assert list(parse(dump([a, b])).values()) == [a, b]


def test_the_file_holds_no_secret():
    key, record = new_key("vision", created=NOW)
    assert key not in dump([record])
    assert key.rsplit("_", 1)[1] not in dump([record])


def test_a_valid_key_is_recognised(tmp_path):
    key, record = new_key("vision", created=NOW)
    assert store(tmp_path / "keys.toml", record).authenticate(key) == record


@pytest.mark.parametrize("key", [None, "", "sk_", "hello", "sk_0_0", "sk_00_x" * 9])
def test_what_is_no_known_key_is_refused_without_repeating_it(tmp_path, key):
    _, record = new_key("vision")
    with pytest.raises(Unauthorized) as refusal:
        store(tmp_path / "keys.toml", record).authenticate(key)
    assert not key or len(key) < 4 or key not in refusal.value.message


def test_the_right_id_with_another_secret_is_refused(tmp_path):
    key, record = new_key("vision", created=NOW)
    with pytest.raises(Unauthorized):
        store(tmp_path / "keys.toml", record).authenticate(f"sk_{id_of(key)}_{'x' * 43}")


def test_revoked_and_expired_keys_are_refused_by_name(tmp_path):
    expired, record = new_key("vision", expires=NOW - timedelta(days=1))
    with pytest.raises(Unauthorized, match=f"key {record.id} expired"):
        store(tmp_path / "keys.toml", record).authenticate(expired)
    revoked, record = new_key("vision")
    text = dump([record]).replace("sha256", "revoked = true\nsha256")
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(Unauthorized, match="was revoked"):
        KeyStore(tmp_path / "keys.toml").authenticate(revoked)


def test_a_changed_file_is_read_again_and_a_broken_one_keeps_the_old_keys(tmp_path, caplog):
    path = tmp_path / "keys.toml"
    now = [0.0]
    first, first_record = new_key("vision")
    second, second_record = new_key("audio")
    keys = store(path, first_record, now=lambda: now[0])

    path.write_text("this is not TOML")
    now[0] += 2
    assert keys.authenticate(first) == first_record
    assert "not valid TOML" in caplog.text

    path.write_text(dump([second_record]))
    os.utime(path, ns=(1, 1))
    now[0] += 2
    assert keys.authenticate(second) == second_record
    with pytest.raises(Unauthorized):
        keys.authenticate(first)


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (b"Bearer sk_a_b", "sk_a_b"),
        (b"Token sk_a_b", "sk_a_b"),
        (b"token user:sk_a_b", "sk_a_b"),
        (b"Basic dXNlcjpza19hX2I=", "sk_a_b"),
    ],
)
def test_every_client_s_way_of_sending_a_key_is_understood(header, key):
    assert key_in_headers([(b"host", b"x"), (b"authorization", header)]) == key


@pytest.mark.parametrize("header", [b"Basic !!!", b"Digest abc", b"Basic /w=="])
def test_other_authorization_headers_are_refused(header):
    with pytest.raises(Unauthorized):
        key_in_headers([(b"authorization", header)])


def test_no_header_is_no_key():
    assert key_in_headers([]) is None


def test_v1_clients_send_the_key_as_password_in_the_query():
    assert key_in_query(b"db=x&u=me&p=sk_a_b%2Bc") == "sk_a_b+c"
    assert key_in_query(b"db=x") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not valid TOML"),
        ("[kees.a]", "unknown table 'kees'"),
        ("[keys.a]\ntenant='x'", "has no"),
        ("[tenants.x]\nrate=0", "rate must be at least 1"),
        ("[tenants.x]\nrate=true", "whole number"),
        ("[tenants.x]\nseries_per_hour=1.5", "whole number of series"),
        ("[tenants.x]\nseries_per_hour=0", "series_per_hour must be at least 1"),
        ("[tenants.x]\nnamespace='a b'", "namespace 'a b'"),
        ("[tenants.x]\ndry_run='yes'", "dry_run must be true or false"),
        ("[tenants.x]\nspeed=1", "unknown key 'speed'"),
        ("[tenants.x]\n[keys.a]\ntenant='x'\nsha256='00'", "64 hexadecimal"),
        (f"[tenants.x]\n[keys.a]\ntenant='x'\nsha256='{'0' * 64}'\nrole='root'", "role must be"),
        (
            f"[tenants.x]\n[keys.a]\ntenant='x'\nsha256='{'0' * 64}'\nexpires='soon'",
            "expires must be a time",
        ),
    ],
)
def test_a_broken_keys_file_is_refused_by_name(text, message):
    with pytest.raises(InvalidKeys, match=message):
        parse(text)


def test_the_first_start_makes_one_key_that_only_its_user_can_read(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = ensure_keys(None, tmp_path / "data", "127.0.0.1")
    assert path.stat().st_mode & 0o777 == 0o600
    assert credentials_path().stat().st_mode & 0o777 == 0o600
    key = credentials_path().read_text().split('"')[1]
    assert KeyStore(path).authenticate(key).tenant.name == "default"
    assert ensure_keys(None, tmp_path / "data", "127.0.0.1") == path


def test_a_new_keys_file_is_on_the_disk_with_its_name_before_it_is_said_to_be_written(
    tmp_path, monkeypatch
):
    path, forced = tmp_path / "keys.toml", []

    def fsync(descriptor):
        forced.append((os.fstat(descriptor).st_ino, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_private(path, "text")
    assert path.read_text() == "text"
    assert forced == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_a_server_that_others_can_reach_makes_no_key_by_itself(tmp_path):
    with pytest.raises(NoKeys, match=r"0\.0\.0\.0"):
        ensure_keys(None, tmp_path, "0.0.0.0")


def test_a_missing_keys_file_says_how_to_make_it(tmp_path):
    with pytest.raises(NoKeys, match="keys create"):
        ensure_keys(tmp_path / "none.toml", tmp_path, "127.0.0.1")


def test_another_server_of_the_same_user_takes_the_key_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    first = ensure_keys(None, tmp_path / "one", "127.0.0.1")
    key = credentials_path().read_text().split('"')[1]
    second = ensure_keys(None, tmp_path / "two", "127.0.0.1")
    assert credentials_path().read_text().split('"')[1] == key
    one, two = KeyStore(first).authenticate(key), KeyStore(second).authenticate(key)
    assert replace(one, created=two.created) == two


def test_credentials_that_hold_no_key_are_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    credentials_path().parent.mkdir(parents=True)
    credentials_path().write_text("key = 5\n")
    path = ensure_keys(None, tmp_path / "data", "127.0.0.1")
    key = credentials_path().read_text().split('"')[1]
    assert KeyStore(path).authenticate(key).tenant.name == "default"


def large_file(count):
    """A file of so many tenants with a key each, tenants first, and its first and last key."""
    made = [new_key(f"tenant-{n}", rate=n + 1) for n in range(count)]
    return dump(record for _, record in made), made[0][0], made[-1][0]


def test_a_large_file_is_read_in_pieces_to_the_same_records():
    text, _, _ = large_file(3000)
    assert len(text) > 2 * 256 * 1024
    records = parse(text)
    assert len(records) == 3000
    assert {record.tenant.rate for record in records.values()} == set(range(1, 3001))
    assert parse(dump(records.values())) == records


def test_a_table_that_is_there_twice_in_a_large_file_is_refused():
    text, _, _ = large_file(3000)
    with pytest.raises(InvalidKeys, match=r"tenants\.tenant-0 is there twice"):
        parse(text + "\n[tenants.tenant-0]\n")


def test_a_string_of_several_lines_in_a_large_file_is_no_place_to_cut():
    text, _, _ = large_file(3000)
    filler = "[no table]\n" * 30_000
    with pytest.raises(InvalidKeys, match="namespace"):
        parse(f'{text}\n[tenants.odd]\nnamespace = """\n{filler}"""\n')


def test_keys_may_stand_before_their_tenants():
    text, _, _ = large_file(3000)
    tenants, keys = text.index("[tenants."), text.index("[keys.")
    turned = text[keys:] + "\n" + text[tenants:keys]
    assert parse(turned) == parse(text)


def test_a_large_file_is_reloaded_beside_the_event_loop(tmp_path):
    path = tmp_path / "keys.toml"
    key, record = new_key("a")
    path.write_text(dump([record]))
    store = KeyStore(path, check_every_s=0)
    text, _, last = large_file(1000)
    path.write_text(text)
    assert store.authenticate(key).tenant.name == "a", "the old keys stay valid meanwhile"

    def authenticated():
        try:
            return store.authenticate(last).tenant.name == "tenant-999"
        except Unauthorized:
            return False

    assert eventually(authenticated)


@pytest.mark.parametrize(
    ("tenant", "line"), [("None", ""), ("5", "tenant = 5"), ("True", "tenant = true")]
)
def test_a_key_belongs_to_the_tenant_that_it_names_and_to_no_namesake_of_another_type(tenant, line):
    sha256 = "ab" * 32
    text = f'[tenants.{tenant}]\n[keys.k1]\nsha256 = "{sha256}"\n{line}\n'
    with pytest.raises(InvalidKeys, match="has no"):
        parse(text)


@pytest.mark.parametrize("value", ["[" * 5000, "{a=" * 5000, "9" * 5000], ids=lambda v: v[:3])
def test_a_file_that_no_toml_parser_likes_is_refused_as_any_other(value):
    with pytest.raises(InvalidKeys, match="not valid TOML"):
        parse(f"a = {value}")


def test_keys_stay_valid_while_a_file_nests_too_deep_for_its_parser(tmp_path):
    key, record = new_key("vision")
    path = tmp_path / "keys.toml"
    keys = store(path, record, check_every_s=0.0)
    path.write_text("a = " + "[" * 5000)
    assert keys.authenticate(key) == record


@pytest.mark.parametrize("credentials", ["é", "dTpw\xff", "!!!", "/w=="])
def test_basic_credentials_that_can_not_be_decoded_are_no_key(credentials):
    with pytest.raises(Unauthorized, match="can't be decoded"):
        key_in_headers([(b"authorization", f"Basic {credentials}".encode("latin-1"))])


def test_a_key_that_is_there_twice_in_a_large_file_is_refused_also_before_its_tenant():
    text, first, _ = large_file(3000)
    tenants, keys = text.index("[tenants."), text.index("[keys.")
    again = f'\n[keys.{id_of(first)}]\ntenant = "tenant-1"\nsha256 = "{"ab" * 32}"\n'
    with pytest.raises(InvalidKeys, match=f"keys.{id_of(first)} is there twice"):
        parse(text[keys:] + again + text[tenants:keys])


def test_a_key_in_a_text_is_cut_down_to_its_id():
    key, record = new_key("vision", created=NOW)
    text = f"nothing at /{key}; bucket='{key}' is {key}"
    cut = f"sk_{record.id}_…"
    assert without_secrets(text) == f"nothing at /{cut}; bucket='{cut}' is {cut}"
    assert without_secrets("task_1_2 sk_ no key") == "task_1_2 sk_ no key"


def test_a_file_that_could_not_be_opened_is_tried_again_though_it_did_not_change(
    tmp_path, monkeypatch
):
    path = tmp_path / "keys.toml"
    now = [0.0]
    key, record = new_key("vision")
    keys = store(path, record, now=lambda: now[0])
    path.write_text(dump([replace(record, revoked=True)]))

    def denied(*_, **__):
        raise PermissionError("only root may")

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "read_text", denied)
        now[0] += 2
        assert keys.authenticate(key) == record
    now[0] += 2
    with pytest.raises(Unauthorized, match="was revoked"):
        keys.authenticate(key)


def test_a_keys_file_that_is_no_text_is_refused_by_name(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidKeys, match=r"keys\.toml: not UTF-8"):
        KeyStore(path)
