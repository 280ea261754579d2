import os
from pathlib import Path

import pytest

from stepclock.settings import Settings, credentials_path, default_spool_dir


def test_arguments_win_over_variables_and_those_over_defaults():
    environ = {"STEPCLOCK_RANKS": "all", "STEPCLOCK_MODE": "offline", "HOME": "/h"}
    settings = Settings.resolve({"mode": "disabled", "ranks": None}, environ)
    assert (settings.mode, settings.ranks, settings.capture) == ("disabled", "all", "basic")


def test_a_variable_that_can_not_be_is_told_and_left_out(caplog):
    environ = {
        "STEPCLOCK_MODE": "onlin",
        "STEPCLOCK_MAX_SPOOL": "much",
        "STEPCLOCK_SYSTEM_INTERVAL": "nan",
        "STEPCLOCK_ENDPOINT": "nowhere",
        "HOME": "/h",
    }
    settings = Settings.resolve({}, environ)
    assert settings.mode == "online"
    assert settings.endpoint == "http://127.0.0.1:8787"
    assert settings.max_spool == 2 << 30
    assert settings.system_interval == 15.0
    assert caplog.text.count("is left out") == 4
    assert (
        "STEPCLOCK_MAX_SPOOL is left out: max_spool must be a whole number of bytes" in caplog.text
    )
    assert "must be a number of seconds, not 'nan'" in caplog.text


def test_what_is_wrong_is_told_once_however_often_it_is_read(caplog):
    environ = {"STEPCLOCK_MODE": "onlin", "STEPCLOCK_ENDPIONT": "http://h", "HOME": "/h"}
    for _ in range(3):
        Settings.resolve({}, environ)
    assert len(caplog.records) == 2


def test_a_command_does_not_go_on_with_a_variable_that_can_not_be():
    environ = {"STEPCLOCK_ENDPOINT": "nowhere", "HOME": "/h"}
    with pytest.raises(ValueError, match="STEPCLOCK_ENDPOINT: endpoint must be like"):
        Settings.resolve({}, environ, forgiving=False)
    assert (
        Settings.resolve({"endpoint": "http://h"}, environ, forgiving=False).endpoint == "http://h"
    )


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("STEPCLOCK_ENDPIONT", "STEPCLOCK_ENDPOINT"),
        ("STEPCLOCK_END_POINT", "STEPCLOCK_ENDPOINT"),
        ("STEPCLOCK_TOKENFILE", "STEPCLOCK_TOKEN_FILE"),
        ("STEPCLOCK_SPOOLDIR", "STEPCLOCK_SPOOL_DIR"),
        ("STEPCLOCK_RUNID", "STEPCLOCK_RUN_ID"),
        ("STEPCLOCK_RANK", "STEPCLOCK_RANKS"),
    ],
)
def test_a_variable_that_looks_like_a_setting_s_is_told_with_what_was_meant(
    variable, meant, caplog
):
    Settings.resolve({}, {variable: "sk_hush", "HOME": "/h"})
    assert caplog.messages == [f"stepclock: nothing reads {variable}; did you mean {meant}?"]


def test_variables_of_others_are_no_slips(caplog):
    others = ("SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_8787_TCP_ADDR", "PROFILE", "TEST_KAFKA")
    Settings.resolve({}, {**{f"STEPCLOCK_{name}": "x" for name in others}, "HOME": "/h"})
    assert caplog.messages == []


@pytest.mark.parametrize(
    "given",
    [
        {"mode": "x"},
        {"max_memory": -1},
        {"max_memory": float("inf")},
        {"endpoint": "ftp://h"},
        {"flush_interval": "soon"},
        {"strict": "perhaps"},
    ],
)
def test_an_argument_that_can_not_be_raises(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        Settings.resolve(given, {"HOME": "/h"})


def test_the_key_that_a_server_left_is_for_the_server_on_this_machine_only(tmp_path):
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "c")}
    path = credentials_path(environ)
    assert path == tmp_path / "c" / "stepclock" / "credentials.toml"
    path.parent.mkdir(parents=True)
    path.write_text('key = "sk_abc_def"\n')
    for endpoint in (None, "http://localhost:1", "http://127.0.0.1:2", "http://[::1]:3"):
        assert Settings.resolve({"endpoint": endpoint}, environ).token == "sk_abc_def"
    assert Settings.resolve({"endpoint": "https://example.org"}, environ).token is None
    assert Settings.resolve({"token": "mine"}, environ).token == "mine"
    assert Settings.resolve({"token": ""}, environ).token == "sk_abc_def"
    assert Settings.resolve({}, {**environ, "STEPCLOCK_TOKEN": "set"}).token == "set"
    named = tmp_path / "token"
    named.write_text("from-file\n")
    assert (
        Settings.resolve({}, {**environ, "STEPCLOCK_TOKEN_FILE": str(named)}).token == "from-file"
    )


def test_a_token_file_that_is_not_there_is_told(tmp_path, caplog):
    environ = {"HOME": str(tmp_path), "STEPCLOCK_TOKEN_FILE": str(tmp_path / "none")}
    assert Settings.resolve({}, environ).token is None
    assert "STEPCLOCK_TOKEN_FILE" in caplog.text


def test_the_key_is_never_shown(tmp_path, caplog):
    assert "sk_secret" not in repr(Settings.resolve({"token": "sk_secret"}, {"HOME": "/h"}))
    with pytest.raises(ValueError, match="characters that no key has") as refused:
        Settings.resolve({"token": "sk_secret\nsk_secret"}, {"HOME": "/h"})
    assert "sk_secret" not in str(refused.value)
    named = tmp_path / "token"
    named.write_text("sk_secret of mine")
    environ = {"STEPCLOCK_TOKEN": "sk_secret\x00", "STEPCLOCK_TOKEN_FILE": str(named), "HOME": "/h"}
    assert Settings.resolve({}, environ).token is None
    assert caplog.text.count("characters that no key has") == 2
    assert "sk_secret" not in caplog.text


def test_what_stands_around_a_key_does_not_belong_to_it():
    assert Settings.resolve({}, {"STEPCLOCK_TOKEN": " sk_a_b\n", "HOME": "/h"}).token == "sk_a_b"


def test_the_spool_lies_in_the_state_folder_which_stays():
    assert str(default_spool_dir({"HOME": "/h"})) == "/h/.local/state/stepclock/spool"
    assert str(default_spool_dir({"XDG_STATE_HOME": "/s"})) == "/s/stepclock/spool"
    assert str(default_spool_dir({"XDG_STATE_HOME": "relative", "HOME": "/h"})).startswith("/h/")
    assert Settings.resolve({}, {"STEPCLOCK_SPOOL_DIR": "/x", "HOME": "/h"}).spool_dir == "/x"


def test_paths_stay_where_they_are_when_the_job_changes_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Settings.resolve({"spool_dir": "spool"}).spool_dir == str(tmp_path / "spool")
    assert Settings.resolve({"ca_file": Path("ca.pem")}).ca_file == str(tmp_path / "ca.pem")
    assert Settings.resolve({"spool_dir": "~/s"}).spool_dir == str(tmp_path / "s")


def test_a_user_without_a_home_gets_settings_all_the_same(monkeypatch):
    def nobody(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    assert Settings.resolve({}, {}).spool_dir == "/.local/state/stepclock/spool"


def test_the_environment_of_the_process_is_read_when_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(os.environ, "STEPCLOCK_MODE", "offline")
    assert Settings.resolve({}).mode == "offline"
