"""How InfluxDB is reached: where, as whom, and whom to believe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class InfluxConnection:
    """Where the store is and how it is spoken to; `InfluxSettings` explains each part."""

    url: str
    token: str = field(repr=False)
    org: str
    ca_file: Path | None = None

    def client(self, timeout_s: float) -> Any:
        """A client that sends each request once, waits at most timeout_s, and compresses nothing.

        Compression costs the sender ten times what the bytes cost on a local network, and
        repeating a write is the worker's decision.
        """
        # Settings load this file, also those of processes that have no InfluxDB.
        from influxdb_client.client.influxdb_client import InfluxDBClient  # noqa: PLC0415

        return InfluxDBClient(
            url=self.url,
            token=self.token,
            org=self.org,
            timeout=round(timeout_s * 1000),
            enable_gzip=False,
            ssl_ca_cert=None if self.ca_file is None else str(self.ca_file),
        )
