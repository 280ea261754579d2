"""InfluxDB without us between: ready lines over one keep-alive connection, and a count."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote, urlencode

from native.influxd import InfluxDB
from native.ports import LOOPBACK
from schemas.line_protocol.precision import Precision

_WRITTEN = re.compile(rb"^storage_writer_ok_points_sum{[^}]*} (\S+)$", re.MULTILINE)


class WriteFailed(Exception):
    """InfluxDB did not answer as expected; the message holds status and body."""


@dataclass(frozen=True, slots=True)
class Address:
    """What another process needs to reach a database of ours."""

    port: int
    org: str
    token: str


class DirectWriter:
    """As little as a client can do; its speed is what anything else is compared with."""

    def __init__(self, database: InfluxDB | Address) -> None:
        self._org = quote(database.org, safe="")
        self._headers = {"Authorization": f"Token {database.token}"}
        self._connection = http.client.HTTPConnection(LOOPBACK, database.port, timeout=60.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def write(self, bucket: str, lines: bytes, precision: Precision) -> None:
        """One request. Raises WriteFailed unless the answer is a 204."""
        query = f"org={self._org}&bucket={quote(bucket, safe='')}&precision={precision.value}"
        self._ask("POST", f"/api/v2/write?{query}", lines, expected=204)

    def count(self, namespace: str, retention_class: str, measurement: str, field: str) -> int:
        """Points of a measurement that have a field. Raises WriteFailed."""
        query = f'SELECT count("{field}") FROM "{measurement}"'
        found = self._query(namespace, retention_class, query)
        return int(found[0]["values"][0][1]) if found else 0

    def counts(self, namespace: str, retention_class: str, runs: Iterable[str]) -> dict[str, int]:
        """Points that can be read of each run that has any. Raises WriteFailed."""
        names = "|".join(runs)
        query = f"""SELECT count("step") FROM metric WHERE run =~ /^({names})$/ GROUP BY run"""
        found = self._query(namespace, retention_class, query)
        return {series["tags"]["run"]: int(series["values"][0][1]) for series in found}

    def written(self) -> int:
        """Points of all writes that it has taken since its start. Raises WriteFailed."""
        page = self._ask("GET", "/metrics", None, expected=200)
        found = _WRITTEN.search(page)
        return int(float(found[1])) if found else 0

    def _query(self, namespace: str, retention_class: str, query: str) -> list[dict[str, Any]]:
        parameters = urlencode({"db": namespace, "rp": retention_class, "q": query})
        answer = json.loads(self._ask("GET", f"/query?{parameters}", None, expected=200))
        (result,) = answer["results"]
        if "error" in result:
            raise WriteFailed(f"InfluxDB refused a query: {result['error']}")
        return cast("list[dict[str, Any]]", result.get("series", []))

    def _ask(self, method: str, path: str, body: bytes | None, *, expected: int) -> bytes:
        self._connection.request(method, path, body, self._headers)
        response = self._connection.getresponse()
        text = response.read()
        if response.status != expected:
            raise WriteFailed(f"{method} {path}: {response.status} {text[:300]!r}")
        return text
