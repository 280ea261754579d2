"""Settings that several processes share: where Kafka and InfluxDB are, and the files.

Every setting is an environment variable with the prefix STEPCLOCK_. A secret may be given
as a file instead: STEPCLOCK_INFLUX_TOKEN_FILE names the file that holds the token.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "STEPCLOCK_"


class CommonSettings(BaseSettings):
    """Root of every process's settings: frozen, from the environment or keyword arguments."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

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


class InfluxSettings(CommonSettings):
    """Where the store is."""

    influx_url: str = Field(default="http://127.0.0.1:8086", description="Base URL of InfluxDB 2.")
    influx_token: SecretStr = Field(
        default=SecretStr(""),
        description="InfluxDB token; consumers need write, the gateway's read routes need read, "
        "provision needs an all-access one.",
    )
    influx_org: str = Field(default="stepclock", description="InfluxDB organisation, by name.")


def default_data_dir() -> Path:
    """Where serve keeps its files unless STEPCLOCK_DATA_DIR says otherwise (XDG data home)."""
    return platformdirs.user_data_path("stepclock")


def default_keys_file() -> Path:
    """The keys file of commands that are given none: keys.toml in the data folder."""
    data_dir = os.environ.get(f"{PREFIX}DATA_DIR")
    return (Path(data_dir) if data_dir else default_data_dir()) / "keys.toml"


def unknown_variables(
    environ: Mapping[str, str], known: Iterable[type[BaseSettings]]
) -> list[tuple[str, str | None]]:
    """STEPCLOCK_ variables that no setting reads, each with the nearest known name or None."""
    names: set[str] = set()
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
