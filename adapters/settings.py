"""Settings that several processes share: where Kafka and InfluxDB are, and the files.

Every setting is an environment variable with the prefix STEPCLOCK_. A secret may be given
as a file instead: STEPCLOCK_INFLUX_TOKEN_FILE names the file that holds the token.
"""

from __future__ import annotations

import difflib
import os
import ssl
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import platformdirs
from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from adapters.influx.connection import InfluxConnection
from adapters.kafka.connection import KafkaConnection, SaslMechanism, SecurityProtocol
from schemas.retention import InvalidRetention, RetentionClass, default_text, parse

PREFIX = "STEPCLOCK_"


class CommonSettings(BaseSettings):
    """Root of every process's settings: frozen, from the environment or keyword arguments."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # it may be a secret
    )

    retention_file: Path | None = Field(
        default=None,
        description="retention.toml with the retention classes; unset: the one that ships. "
        "Set it to keep points longer or shorter.",
    )
    log_level: str = Field(
        default="INFO",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
        description="Least severe log line that is printed. DEBUG also shows clients' mistakes.",
    )
    audit_file: Path | None = Field(
        default=None,
        description="File that audit lines are appended to, beside standard error; unset: nowhere "
        "else. Set it where people run commands whose output nobody keeps.",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: Any) -> Any:
        """Fill each secret that is not set from the file that NAME_FILE points to."""
        if not isinstance(values, dict):
            return values
        for name, field in cls.model_fields.items():
            if "SecretStr" not in str(field.annotation) or values.get(name) is not None:
                continue
            variable = f"{PREFIX}{name.upper()}_FILE"
            path = os.environ.get(variable)
            if path:
                try:
                    values[name] = Path(path).read_text("utf-8").strip()
                except (OSError, UnicodeDecodeError) as exc:
                    raise ValueError(f"{variable} names a file that can't be read: {exc}") from exc
        return values


class KafkaSettings(CommonSettings):
    """Where the log is."""

    kafka_bootstrap_servers: str = Field(
        default="127.0.0.1:9092",
        description="Kafka brokers, comma-separated host:port. Name two or three of a cluster.",
    )
    consumer_group: str = Field(
        default="stepclock-workers",
        min_length=1,
        description="Consumer group of the workers, by which gateways tell what is stored. "
        "Another name reads everything again from the start.",
    )
    kafka_security_protocol: SecurityProtocol = Field(
        default="PLAINTEXT",
        description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL, as the brokers' listener has it. "
        "Set SASL_SSL for a cluster that others can reach.",
    )
    kafka_sasl_mechanism: SaslMechanism = Field(
        default="SCRAM-SHA-512",
        description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512. Set it to what the brokers offer.",
    )
    kafka_sasl_username: str = Field(
        default="", description="User at the brokers. Set it with a SASL_… protocol."
    )
    kafka_sasl_password: SecretStr = Field(
        default=SecretStr(""),
        description="Password of that user. Set it with a SASL_… protocol.",
    )
    kafka_tls_ca_file: Path | None = Field(
        default=None,
        description="PEM file of the authorities that may sign the brokers' certificates; unset: "
        "the system's. Set it for an authority of your own.",
    )
    kafka_tls_cert_file: Path | None = Field(
        default=None,
        description="PEM file of our certificate for the brokers, its chain included. "
        "Set it where brokers ask for one.",
    )
    kafka_tls_key_file: Path | None = Field(
        default=None,
        description="PEM file of that certificate's private key, without a passphrase. "
        "Set it with the certificate.",
    )

    @property
    def kafka(self) -> KafkaConnection:
        """All that clients of the brokers need to connect."""
        return KafkaConnection(
            self.kafka_bootstrap_servers,
            self.kafka_security_protocol,
            self.kafka_sasl_mechanism,
            self.kafka_sasl_username,
            self.kafka_sasl_password.get_secret_value(),
            self.kafka_tls_ca_file,
            self.kafka_tls_cert_file,
            self.kafka_tls_key_file,
        )

    @model_validator(mode="after")
    def _check_connection(self) -> Self:
        self.kafka.check()
        return self


class InfluxSettings(CommonSettings):
    """Where the store is."""

    influx_url: str = Field(default="http://127.0.0.1:8086", description="Base URL of InfluxDB 2.")
    influx_token: SecretStr = Field(
        default=SecretStr(""),
        description="InfluxDB token; consumers need write, the gateway's read routes need read, "
        "provision needs an all-access one.",
    )
    influx_org: str = Field(default="stepclock", description="InfluxDB organisation, by name.")
    influx_tls_ca_file: Path | None = Field(
        default=None,
        description="PEM file of the authorities that may sign InfluxDB's certificate; unset: "
        "the system's. Set it with an https URL and an authority of your own.",
    )

    @property
    def influx(self) -> InfluxConnection:
        """All that clients of InfluxDB need to connect."""
        return InfluxConnection(
            self.influx_url,
            self.influx_token.get_secret_value(),
            self.influx_org,
            self.influx_tls_ca_file,
        )

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if self.influx_tls_ca_file is None:
            return self
        if not self.influx_url.startswith("https://"):
            raise ValueError(
                "STEPCLOCK_INFLUX_TLS_CA_FILE is set, but STEPCLOCK_INFLUX_URL is not https"
            )
        try:
            ssl.create_default_context(cafile=self.influx_tls_ca_file)
        except OSError as exc:
            raise ValueError(f"STEPCLOCK_INFLUX_TLS_CA_FILE can't be read: {exc}") from exc
        return self


class ProbeSettings(CommonSettings):
    """Where a process without an HTTP side of its own answers probes."""

    probe_host: str = Field(
        default="127.0.0.1",
        description="Address of the probe and metrics port; default 127.0.0.1. "
        "Set 0.0.0.0 in a container.",
    )
    probe_port: int = Field(
        default=8788,
        ge=0,
        le=65535,
        description="Port of /livez, /readyz, /health and /metrics; default 8788. "
        "0 takes a free one, which is logged.",
    )
    probe_address_file: Path | None = Field(
        default=None,
        description="File that receives the base URL of that port once it listens; default "
        "unset. Set it with PROBE_PORT=0, so that others find the port.",
    )
    live_after_s: float = Field(
        default=60.0,
        gt=0,
        description="Seconds without progress of the loop after which /livez fails; default 60. "
        "Keep it well above the store's timeout.",
    )


def default_data_dir() -> Path:
    """Where serve keeps its files unless STEPCLOCK_DATA_DIR says otherwise (XDG data home)."""
    return platformdirs.user_data_path("stepclock")


def default_keys_file() -> Path:
    """The keys file of commands that are given none: keys.toml in the data folder."""
    data_dir = os.environ.get(f"{PREFIX}DATA_DIR")
    return (Path(data_dir) if data_dir else default_data_dir()) / "keys.toml"


def problems(error: ValidationError) -> Iterator[tuple[str, str]]:
    """What is wrong by variable, or for the settings as a whole ("settings"); never a value."""
    for one in error.errors(include_input=False, include_url=False):
        name = PREFIX + ".".join(map(str, one["loc"])).upper() if one["loc"] else "settings"
        yield name, one["msg"].removeprefix("Value error, ")


#: What the client reads, for which the environment of a server may be set up as well.
_OF_CLIENT = frozenset(
    [
        "ATTEMPT",
        "CAPTURE",
        "CA_FILE",
        "ENDPOINT",
        "FINISH_TIMEOUT",
        "FLUSH_INTERVAL",
        "FSYNC",
        "HEARTBEAT_INTERVAL",
        "MAX_MEMORY",
        "MAX_SPOOL",
        "MODE",
        "RANKS",
        "RUN_ID",
        "SEND_INTERVAL",
        "SPOOL_DIR",
        "STRICT",
        "SYSTEM_INTERVAL",
        "TOKEN",
        "TOKEN_FILE",
    ]
)


def unknown_variables(
    environ: Mapping[str, str], known: Iterable[type[BaseSettings]]
) -> list[tuple[str, str | None]]:
    """STEPCLOCK_ variables that nothing reads, each with the nearest known name or None."""
    names = {PREFIX + name for name in _OF_CLIENT}
    for settings in known:
        for name, field in settings.model_fields.items():
            names.add(PREFIX + name.upper())
            if "SecretStr" in str(field.annotation):
                names.add(f"{PREFIX}{name.upper()}_FILE")
    unknown = sorted(
        v
        for v in environ
        if v.startswith(PREFIX) and v not in names and not v.startswith(PREFIX + "TEST_")
    )
    found = []
    for variable in unknown:
        near = difflib.get_close_matches(variable, sorted(names), n=1, cutoff=0.6)
        found.append((variable, near[0] if near else None))
    return found


def load_retention(path: Path | None) -> Mapping[str, RetentionClass]:
    """The classes of a file, or of the one that ships. Raises InvalidRetention, OSError."""
    text = default_text() if path is None else path.read_text("utf-8")
    try:
        return parse(text)
    except InvalidRetention as exc:
        raise InvalidRetention(f"{path or 'retention.toml'}: {exc}") from exc
