"""How brokers are reached: where, over TLS or not, and as whom."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Where the brokers are and how they are spoken to; `KafkaSettings` explains each part."""

    bootstrap_servers: str
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism = "SCRAM-SHA-512"
    sasl_username: str = ""
    sasl_password: str = field(default="", repr=False)
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None

    @classmethod
    def to(cls, servers: KafkaConnection | str) -> KafkaConnection:
        """Addresses alone mean a connection without TLS or login."""
        return cls(servers) if isinstance(servers, str) else servers

    @property
    def uses_tls(self) -> bool:
        """Whether the brokers' certificate is checked and everything is encrypted."""
        return self.security_protocol in {"SSL", "SASL_SSL"}

    @property
    def uses_sasl(self) -> bool:
        """Whether a user and a password are sent."""
        return self.security_protocol in {"SASL_PLAINTEXT", "SASL_SSL"}

    def check(self) -> None:
        """Raise ValueError, which names the setting, for what no client could connect with."""
        if self.uses_sasl and not (self.sasl_username and self.sasl_password):
            raise ValueError(
                f"STEPCLOCK_KAFKA_SECURITY_PROTOCOL={self.security_protocol} needs "
                "STEPCLOCK_KAFKA_SASL_USERNAME and STEPCLOCK_KAFKA_SASL_PASSWORD"
            )
        if not self.uses_sasl and (self.sasl_username or self.sasl_password):
            raise ValueError(
                "STEPCLOCK_KAFKA_SASL_USERNAME and _PASSWORD are set, but "
                f"STEPCLOCK_KAFKA_SECURITY_PROTOCOL={self.security_protocol} sends neither"
            )
        files = (self.tls_ca_file, self.tls_cert_file, self.tls_key_file)
        if self.uses_tls:
            self.tls_context()
        elif any(files):
            raise ValueError(
                "STEPCLOCK_KAFKA_TLS_… files are set, but STEPCLOCK_KAFKA_SECURITY_PROTOCOL="
                f"{self.security_protocol} uses no TLS"
            )

    def tls_context(self) -> ssl.SSLContext:
        """TLS 1.2 or later, the broker's name and certificate checked. Raises ValueError."""
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError(
                "STEPCLOCK_KAFKA_TLS_CERT_FILE and STEPCLOCK_KAFKA_TLS_KEY_FILE go together"
            )
        try:
            context = ssl.create_default_context(cafile=self.tls_ca_file)
        except OSError as exc:
            raise ValueError(f"STEPCLOCK_KAFKA_TLS_CA_FILE can't be read: {exc}") from exc
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.tls_cert_file is not None:
            try:
                # Without a password here, OpenSSL would ask the terminal for one.
                context.load_cert_chain(self.tls_cert_file, self.tls_key_file, password="")
            except OSError as exc:
                raise ValueError(
                    "STEPCLOCK_KAFKA_TLS_CERT_FILE and STEPCLOCK_KAFKA_TLS_KEY_FILE can't be "
                    f"used: {exc}"
                ) from exc
        return context
