"""Writing lines to InfluxDB."""

from __future__ import annotations

from influxdb_client.client.write_api import SYNCHRONOUS

from adapters.influx.connection import InfluxConnection
from adapters.influx.errors import translated
from schemas.line_protocol.precision import Precision


class InfluxWriter:
    """Writes lines to the bucket ``<namespace>/<class>`` (a `schemas.store.protocols.LineWriter`).

    timeout_s bounds a whole request; the server itself gives up a write after 10 s. A write
    that timed out may still be stored: repeat the same bytes.
    """

    def __init__(self, at: InfluxConnection, *, timeout_s: float = 30.0) -> None:
        self._client = at.client(timeout_s)
        self._api = self._client.write_api(write_options=SYNCHRONOUS)

    def write(
        self, namespace: str, retention_class: str, lines: bytes, precision: Precision
    ) -> None:
        """Store lines with one request. Returns once the server answered 204.

        Raises LinesRefused (400: nothing was stored; 422: the good lines were),
        WriteTooLarge (413), StoreMisconfigured (401, 403, 404), StoreUnavailable (429,
        5xx, timeout, lost connection).
        """
        with translated():
            self._api.write(
                bucket=f"{namespace}/{retention_class}",
                record=lines,
                write_precision=precision.value,
            )

    def ping(self) -> None:
        """Return if the server answers. Raises StoreUnavailable; the token is not checked."""
        with translated():
            self._client.api_client.call_api("/ping", "GET")

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._client.close()
