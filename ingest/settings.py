"""Settings of the gateway."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from adapters.settings import CommonSettings, InfluxSettings, KafkaSettings, default_data_dir
from ingest.limits.series_limit import Mode

_MIB = 1024 * 1024

#: What a request holds at most beside its text: a window of zstd, or the objects of some rows.
_SLACK_BYTES = 8 * _MIB


class HttpSettings(CommonSettings):
    """Settings of the HTTP side, shared by `gateway` and `serve`."""

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on. Other than loopback needs a keys file of your own.",
    )
    port: int = Field(
        default=8787, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    address_file: Path | None = Field(
        default=None,
        description="File that receives the base URL once the server is ready. "
        "Set it with PORT=0, so that others find the port.",
    )
    tls_cert_file: Path | None = Field(
        default=None,
        description="PEM file of the server's certificate, its chain included: https instead of "
        "http. Set it where keys cross a network that others can read.",
    )
    tls_key_file: Path | None = Field(
        default=None,
        description="PEM file of that certificate's private key, without a passphrase. "
        "Set it with the certificate.",
    )
    keys_file: Path | None = Field(
        default=None,
        description="keys.toml with keys, tenants and limits; unset: keys.toml in the data folder, "
        "made with one key on the first start.",
    )
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Folder for the keys file and, with `serve`, the databases. "
        "Set it to a disk with room.",
    )
    rate_points_per_s: int = Field(
        default=2_000_000,
        ge=1,
        description="Points/s of a tenant without a rate in the keys file. Lower it where "
        "strangers may write.",
    )
    burst_points: int = Field(
        default=4_000_000,
        ge=1,
        description="Points a rested tenant may send at once, unless the keys file says.",
    )
    dry_run: bool = Field(
        default=False,
        description="Limits of all tenants are counted and logged only. Set it to try limits out; "
        "dry_run = true in the keys file does it for one tenant.",
    )
    series_mode: Mode = Field(
        default=Mode.OBSERVE,
        description="Limit on new series: off, observe (count and log what is over it) or enforce "
        "(429). Enforce it once the figures of observe fit your tenants.",
    )
    series_per_hour: int = Field(
        default=10_000,
        ge=1,
        description="New series an hour of a tenant, unless the keys file says. Raise it for many "
        "short runs with many ranks.",
    )
    series_learn_s: float = Field(
        default=900.0,
        ge=0,
        description="Seconds after the start in which series are remembered and not counted, since "
        "all of them look new. Raise it where series are written seldom.",
    )
    max_known_series: int = Field(
        default=1_000_000,
        ge=1000,
        description="Series that are remembered, some 80 bytes each, a quarter of them of one "
        "tenant; what finds no room counts as new each time. Raise it with more active series.",
    )
    replicas: int = Field(
        default=1,
        ge=1,
        description="Number of gateways behind the load balancer; each grants its share of a "
        "limit that is not shared over Redis. Set it when you scale gateways.",
    )
    max_body_bytes: int = Field(
        default=10 * _MIB,
        ge=1024,
        description="Largest body as sent, in bytes. Raise it for bulk imports.",
    )
    max_decompressed_bytes: int = Field(
        default=32 * _MIB,
        ge=1024,
        description="Largest body after decompression, in bytes. Protects against decompression "
        "bombs.",
    )
    max_reading_bytes: int = Field(
        default=128 * _MIB,
        ge=_MIB,
        description="Bytes of all bodies, decompressed, that are read and validated, and of what "
        "is made of them; beyond it requests get 503, a tenant alone at two thirds. At least 1.5 "
        "times (MAX_BODY_BYTES + 2 * MAX_DECOMPRESSED_BYTES + 8 MiB), to which the default grows: "
        "else the largest body would never be taken. Raise it with memory to spare.",
    )
    max_pending_bytes: int = Field(
        default=64 * _MIB,
        ge=_MIB,
        description="Bytes that may wait for the log's acknowledgement; beyond it writes get 503, "
        "a tenant alone at two thirds. Raise it with memory to spare and a slow log.",
    )
    max_connections: int = Field(
        default=10_000,
        ge=1,
        description="Open connections; beyond it new ones get 503. Raise it with memory to spare "
        "(some 10 KiB each) and with the process's limit of open files.",
    )
    max_request_line_bytes: int = Field(
        default=8 * 1024,
        ge=256,
        description="Largest target of a request in bytes; beyond it 414. Seldom worth changing.",
    )
    max_headers: int = Field(
        default=100,
        ge=8,
        description="Headers of one request; beyond it 431. Seldom worth changing.",
    )
    max_header_bytes: int = Field(
        default=64 * 1024,
        ge=1024,
        description="Bytes of all headers of one request; beyond it 431. Seldom worth changing.",
    )
    header_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds in which a request's headers must be here; after it 408. Raise it "
        "for very slow links.",
    )
    body_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="Seconds without a byte of a body, or with an answer that nobody reads, after "
        "which the connection is closed. Raise it for very slow links.",
    )
    canary_s: float = Field(
        default=5.0,
        ge=0,
        description="Seconds between two points of Stepclock's own, which show that the whole "
        "chain is alive; 0 sends none. Raise it for many gateways.",
    )
    drain_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds that requests in flight get to end after SIGTERM.",
    )

    @property
    def reading_bytes(self) -> int:
        """The bound on what all bodies hold; without one that was set, what the largest needs."""
        return max(self.max_reading_bytes, self._needed_reading_bytes())

    def _needed_reading_bytes(self) -> int:
        # A request is held as sent, as decompressed and as lines. Two thirds of the bound must
        # hold the largest one, or it would be told to come back and always in vain.
        largest = self.max_body_bytes + 2 * self.max_decompressed_bytes + _SLACK_BYTES
        return -(-3 * largest // 2)

    def tls_context(self) -> ssl.SSLContext | None:
        """TLS 1.2 or later with our certificate; None without one. Raises ValueError."""
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("STEPCLOCK_TLS_CERT_FILE and STEPCLOCK_TLS_KEY_FILE go together")
        if self.tls_cert_file is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # Without a password here, OpenSSL would ask the terminal for one.
            context.load_cert_chain(self.tls_cert_file, self.tls_key_file, password="")
        except OSError as exc:
            raise ValueError(
                f"STEPCLOCK_TLS_CERT_FILE and STEPCLOCK_TLS_KEY_FILE can't be used: {exc}"
            ) from exc
        return context

    @model_validator(mode="after")
    def _check_reading_bytes(self) -> Self:
        needed = self._needed_reading_bytes()
        if "max_reading_bytes" in self.model_fields_set and self.max_reading_bytes < needed:
            raise ValueError(
                f"STEPCLOCK_MAX_READING_BYTES is {self.max_reading_bytes}, and the largest body "
                f"that may come needs {needed}: raise it, or lower STEPCLOCK_MAX_BODY_BYTES "
                "or STEPCLOCK_MAX_DECOMPRESSED_BYTES"
            )
        return self

    @model_validator(mode="after")
    def _check_tls_files(self) -> Self:
        self.tls_context()
        return self


class GatewaySettings(HttpSettings, KafkaSettings, InfluxSettings):
    """Settings of `stepclock-server gateway`."""

    # A URL that is refused may hold a password: errors never repeat what was set.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    redis_url: SecretStr = Field(
        default=SecretStr(""),
        description="Redis that keeps limits in points for all gateways together, as in "
        "redis://:password@host:6379/0; unset: each gateway grants 1/replicas. Set it with several "
        "gateways.",
    )
    redis_timeout_s: float = Field(
        default=0.05,
        gt=0,
        description="Seconds that Redis has for a charge; after it the charge is local, and after "
        "three in a row all are until it answers again. Raise it for a Redis that is far away.",
    )
    ack_deadline_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds that Kafka has to acknowledge before a write gets 503 and the circuit "
        "opens. Raise it for brokers with long elections.",
    )

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, url: SecretStr) -> SecretStr:
        """Refuse at the start what the client would refuse at the first charge."""
        value = url.get_secret_value()
        if value and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return url
