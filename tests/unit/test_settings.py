from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from adapters.settings import unknown_variables
from admin.__main__ import app
from admin.settings import all_settings, markdown
from consumers.settings import ConsumerSettings
from ingest.settings import GatewaySettings

README = Path(__file__).parents[2] / "README.md"


def test_the_table_in_the_readme_is_what_the_settings_say():
    text = README.read_text("utf-8")
    table = text.split("<!-- settings -->\n")[1].split("\n<!-- /settings -->")[0]
    assert table == markdown(), "put the output of `stepclock-server settings --markdown` there"


def test_every_setting_says_what_it_means():
    for setting in all_settings():
        assert setting.description.endswith("."), setting.variable


def test_settings_come_from_the_environment_and_flags_win(monkeypatch):
    monkeypatch.setenv("STEPCLOCK_PORT", "9999")
    monkeypatch.setenv("STEPCLOCK_HOST", "127.0.0.2")
    settings = GatewaySettings(port=1234)
    assert (settings.host, settings.port) == ("127.0.0.2", 1234)


def test_a_secret_may_be_a_file_and_is_never_shown(monkeypatch, tmp_path):
    (tmp_path / "token").write_text("hush\n")
    monkeypatch.setenv("STEPCLOCK_INFLUX_TOKEN_FILE", str(tmp_path / "token"))
    settings = ConsumerSettings()
    assert settings.influx_token.get_secret_value() == "hush"
    assert "hush" not in repr(settings)


def test_an_unknown_variable_is_named_with_its_nearest_neighbour():
    environ = {"STEPCLOCK_INFLUX_ULR": "x", "STEPCLOCK_PORT": "1", "STEPCLOCK_TEST_KAFKA": "x"}
    assert unknown_variables(environ, [GatewaySettings]) == [
        ("STEPCLOCK_INFLUX_ULR", "STEPCLOCK_INFLUX_URL")
    ]


def test_settings_can_not_be_changed():
    with pytest.raises(ValidationError):
        GatewaySettings().port = 1


def test_a_setting_that_can_not_be_is_a_usage_error(monkeypatch):
    monkeypatch.setenv("STEPCLOCK_PORT", "many")
    result = CliRunner().invoke(app, ["gateway"])
    assert result.exit_code == 2
    assert "STEPCLOCK_PORT" in result.stderr


@pytest.mark.parametrize(
    "command",
    ["serve", "gateway", "consumer", "provision", "demo", "settings", "keys create", "dlq list"],
)
def test_every_command_has_help_with_an_example(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "stepclock-server" in result.stdout.split("Example", 1)[-1]
