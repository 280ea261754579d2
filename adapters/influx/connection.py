"""The connection to InfluxDB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from influxdb_client.client.influxdb_client import InfluxDBClient


def connect(url: str, token: str, org: str, timeout_s: float, ca_file: Path | None) -> Any:
    """A client that sends each request once, waits at most timeout_s, and compresses nothing.

    Compression costs the sender ten times what the bytes cost on a local network, and
    repeating a write is the worker's decision. ca_file: who may sign the certificate of an
    https URL, instead of well-known authorities.
    """
    return InfluxDBClient(
        url=url,
        token=token,
        org=org,
        timeout=round(timeout_s * 1000),
        enable_gzip=False,
        ssl_ca_cert=None if ca_file is None else str(ca_file),
    )
