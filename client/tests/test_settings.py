import os

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


@pytest.mark.parametrize(
    "given",
    [{"mode": "x"}, {"max_memory": -1}, {"endpoint": "ftp://h"}, {"flush_interval": "soon"}],
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


def test_the_key_is_never_shown(tmp_path):
    assert "sk_secret" not in repr(Settings.resolve({"token": "sk_secret"}, {"HOME": "/h"}))


def test_the_spool_lies_in_the_state_folder_which_stays():
    assert str(default_spool_dir({"HOME": "/h"})) == "/h/.local/state/stepclock/spool"
    assert str(default_spool_dir({"XDG_STATE_HOME": "/s"})) == "/s/stepclock/spool"
    assert str(default_spool_dir({"XDG_STATE_HOME": "relative", "HOME": "/h"})).startswith("/h/")
    assert Settings.resolve({}, {"STEPCLOCK_SPOOL_DIR": "/x", "HOME": "/h"}).spool_dir == "/x"


def test_the_environment_of_the_process_is_read_when_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(os.environ, "STEPCLOCK_MODE", "offline")
    assert Settings.resolve({}).mode == "offline"
