import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import stepclock.settings
from pydantic import ValidationError
from typer.testing import CliRunner

import adapters.settings
from adapters.influx.connection import InfluxConnection
from adapters.settings import InfluxSettings, KafkaSettings, problems, unknown_variables
from admin.__main__ import app
from admin.settings import all_settings, markdown
from consumers.settings import ConsumerSettings
from ingest.settings import GatewaySettings, HttpSettings
from tests.certificates import Authority

README = Path(__file__).parents[3] / "README.md"


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


def test_the_url_of_redis_is_a_secret_and_is_checked_at_the_start(monkeypatch, tmp_path):
    (tmp_path / "url").write_text("redis://:hush@cache:6379/0\n")
    monkeypatch.setenv("STEPCLOCK_REDIS_URL_FILE", str(tmp_path / "url"))
    settings = GatewaySettings()
    assert settings.redis_url.get_secret_value() == "redis://:hush@cache:6379/0"
    assert "hush" not in repr(settings)
    with pytest.raises(ValidationError, match="must begin with redis://") as wrong:
        GatewaySettings(redis_url="cache:hush")
    assert "hush" not in str(wrong.value)


def test_an_unknown_variable_is_named_with_its_nearest_neighbour():
    environ = {"STEPCLOCK_INFLUX_ULR": "x", "STEPCLOCK_PORT": "1", "STEPCLOCK_TEST_KAFKA": "x"}
    assert unknown_variables(environ, [GatewaySettings]) == [
        ("STEPCLOCK_INFLUX_ULR", "STEPCLOCK_INFLUX_URL")
    ]


def test_no_variable_of_the_server_is_taken_for_a_slip_by_the_client(caplog):
    """Both may share an environment; `serve` and a job on one machine do."""
    variables = [setting.variable for setting in all_settings()]
    environ = dict.fromkeys([*variables, *(f"{name}_FILE" for name in variables)], "x")
    stepclock.settings.Settings.resolve({}, {"HOME": "/h", **environ})
    assert caplog.messages == []


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


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    authority = Authority.new(tmp_path_factory.mktemp("authority"))
    return authority, authority.sign("ours"), authority.sign("another")


def refused(kind, **values):
    with pytest.raises(ValidationError) as caught:
        kind(**values)
    return "; ".join(map(": ".join, problems(caught.value)))


def test_a_connection_to_kafka_that_can_not_work_is_refused_before_anything_starts(signed):
    authority, ours, another = signed
    login = {"kafka_sasl_username": "u", "kafka_sasl_password": "hush"}
    assert "KAFKA_SASL_PASSWORD" in refused(KafkaSettings, kafka_security_protocol="SASL_SSL")
    assert "SECURITY_PROTOCOL=PLAINTEXT" in refused(KafkaSettings, **login)
    assert "KAFKA_SECURITY_PROTOCOL: " in refused(KafkaSettings, kafka_security_protocol="TLS")
    assert "KAFKA_SASL_MECHANISM: " in refused(KafkaSettings, kafka_sasl_mechanism="GSSAPI")
    assert "uses no TLS" in refused(KafkaSettings, kafka_tls_ca_file=authority.file)
    ssl = {"kafka_security_protocol": "SSL"}
    assert "TLS_CA_FILE can't be read" in refused(KafkaSettings, **ssl, kafka_tls_ca_file="/none")
    assert "TLS_CA_FILE can't be read" in refused(KafkaSettings, **ssl, kafka_tls_ca_file=ours.key)
    cert = {"kafka_tls_cert_file": ours.certificate}
    assert "go together" in refused(KafkaSettings, **ssl, **cert)
    wrong = refused(KafkaSettings, **ssl, **cert, kafka_tls_key_file=another.key)
    assert "KAFKA_TLS_KEY_FILE can't be used" in wrong
    settings = KafkaSettings(**ssl, **cert, kafka_tls_key_file=ours.key)
    assert settings.kafka.uses_tls
    settings = KafkaSettings(kafka_security_protocol="SASL_PLAINTEXT", **login)
    assert settings.kafka.sasl_password == "hush"
    assert "hush" not in repr(settings.kafka) + repr(settings)


def test_a_certificate_of_the_gateway_that_can_not_be_used_is_refused(signed, tmp_path):
    _, ours, another = signed
    assert "go together" in refused(HttpSettings, tls_cert_file=ours.certificate)
    pair = {"tls_cert_file": ours.certificate, "tls_key_file": another.key}
    assert "STEPCLOCK_TLS_KEY_FILE can't be used" in refused(HttpSettings, **pair)
    locked = tmp_path / "locked.key"
    command = ["openssl", "ec", "-aes128", "-passout", "pass:x", "-in", ours.key, "-out", locked]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    pair = {"tls_cert_file": ours.certificate, "tls_key_file": locked}
    assert "can't be used" in refused(HttpSettings, **pair), "and nobody is asked for a passphrase"
    assert HttpSettings(tls_cert_file=ours.certificate, tls_key_file=ours.key).tls_context()
    assert HttpSettings().tls_context() is None


def test_an_authority_for_influxdb_needs_an_https_url(signed):
    authority, ours, _ = signed
    assert "is not https" in refused(InfluxSettings, influx_tls_ca_file=authority.file)
    https = {"influx_url": "https://127.0.0.1:1"}
    wrong = refused(InfluxSettings, **https, influx_tls_ca_file=ours.key)
    assert "INFLUX_TLS_CA_FILE can't be read" in wrong
    settings = InfluxSettings(
        **https, influx_token="hush", influx_org="acme", influx_tls_ca_file=authority.file
    )
    at = InfluxConnection("https://127.0.0.1:1", "hush", "acme", authority.file)
    assert settings.influx == at
    assert "hush" not in repr(at) + str(at) + repr(settings)


def test_settings_load_no_client_of_influxdb():
    """It is slow to load, and a server with a store of its own would do so for nothing."""
    code = "import sys, adapters.settings; sys.exit('influxdb_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_what_is_wrong_with_settings_never_repeats_them(monkeypatch):
    monkeypatch.setenv("STEPCLOCK_KAFKA_SASL_PASSWORD", "hush")
    monkeypatch.setenv("STEPCLOCK_INFLUX_TOKEN", "hush")
    with pytest.raises(ValidationError) as caught:
        GatewaySettings()
    assert "hush" not in str(caught.value)
    result = CliRunner().invoke(app, ["gateway"])
    assert result.exit_code == 2
    assert "STEPCLOCK_KAFKA_SECURITY_PROTOCOL=PLAINTEXT" in result.stderr
    assert "hush" not in result.output + result.stderr


def test_servers_know_the_variables_of_the_client_and_no_others():
    """The server is installed without the client, so it has a list of its own."""
    of_client = {each.name.upper() for each in fields(stepclock.settings.Settings)}
    of_client |= stepclock.settings._BESIDE
    assert of_client == adapters.settings._OF_CLIENT
    assert unknown_variables({f"STEPCLOCK_{name}": "" for name in of_client}, []) == []


def test_a_bound_below_what_the_largest_body_needs_is_refused_and_says_how_much(monkeypatch):
    mib = 1024 * 1024
    monkeypatch.setenv("STEPCLOCK_MAX_READING_BYTES", str(123 * mib - 1))
    with pytest.raises(ValidationError, match=f"{123 * mib - 1}, .* needs {123 * mib}: raise it"):
        HttpSettings()
    monkeypatch.setenv("STEPCLOCK_MAX_READING_BYTES", str(123 * mib))
    assert HttpSettings().reading_bytes == 123 * mib
    monkeypatch.setenv("STEPCLOCK_MAX_DECOMPRESSED_BYTES", str(33 * mib))
    with pytest.raises(ValidationError, match="lower STEPCLOCK_MAX_BODY_BYTES"):
        HttpSettings()


def test_a_bound_that_nobody_set_grows_with_the_largest_body():
    mib = 1024 * 1024
    assert HttpSettings().reading_bytes == 128 * mib
    assert HttpSettings(max_decompressed_bytes=100 * mib).reading_bytes == 327 * mib
