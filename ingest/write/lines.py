"""The write routes for InfluxDB clients.

The way of a request stands in `WriteRoute.answer`: cheap refusals first, then the body, then
the charge, then validation, then the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from starlette.types import Receive, Scope

from ingest.errors import BadRequest, Dialect, GatewayError, LinesRefused, Unavailable
from ingest.http.body import Bounds, read_body
from ingest.keys.auth import KeyStore, key_in_headers, key_in_query
from ingest.limits.series import Series
from ingest.write.endpoint import Response
from ingest.write.intake import Intake
from ingest.write.judge import Steps
from schemas.admission.admission import Admission
from schemas.admission.body import admit_in_steps
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.precision import REQUEST_PRECISIONS, Precision
from schemas.retention import DEFAULT_CLASS
from schemas.tenants.keys import KeyRecord
from telemetry import metrics

#: Clients send the same few query strings again and again; longer ones are nobody's habit.
_MAX_REMEMBERED_BYTES = 256


@dataclass(frozen=True, slots=True)
class Target:
    """What the query string says: namespace None means the key's own."""

    namespace: str | None
    class_name: str
    precision: Precision


class WriteRoute:
    """`POST /api/v2/write` in dialect V2, `POST /write` in dialect V1."""

    def __init__(
        self,
        dialect: Dialect,
        keys: KeyStore,
        intake: Intake,
        bounds: Bounds,
    ) -> None:
        self._dialect = dialect
        self._keys = keys
        self._intake = intake
        self._bounds = bounds

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """204, or an error of `ingest.errors`. The order of the checks stands here."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        key = self._authenticate(scope)
        declared = headers.get(b"content-length")
        self._intake.open(key, declared)
        target = _remembered(self._dialect, scope["query_string"])
        retention_class = self._intake.route(key.tenant, target.namespace, target.class_name)
        origin = self._intake.origin(headers)

        try:
            body, read_s = await read_body(
                receive,
                declared,
                headers.get(b"content-encoding", b""),
                self._bounds,
                key.tenant.name,
            )
        except GatewayError as exc:
            exc.paced = key.tenant.name
            raise

        lines = body.count(b"\n") + (not body.endswith(b"\n"))
        charged = await self._intake.charge(key.tenant, lines, read_s)
        steps = self._steps(body, target.precision, self._intake.rules(retention_class))
        try:
            admission, series = await self._intake.judge(
                key.tenant, len(body), steps, receive, read_s
            )
        except Unavailable:
            await self._intake.refund(key.tenant, lines, charged)
            raise
        self._intake.charge_series(key.tenant, series, lines)
        del body, series  # only what was admitted may wait for the log, where it is counted
        receipt = None
        if admission.parts:
            try:
                receipt = await self._intake.publish(
                    key.tenant,
                    [(retention_class.name, part) for part in admission.parts],
                    origin,
                )
            except GatewayError:
                await self._intake.refund(key.tenant, lines, charged)
                raise
            count_accepted(key, admission.points, admission.stamped)
        if admission.refused_total:
            metrics.points(key.tenant.name, "refused").inc(admission.refused_total)
            raise LinesRefused(
                admission.points, admission.refusals, admission.refused_total, receipt
            )
        return 204, _accepted_headers(receipt, admission.stamped), b""

    def _steps(
        self, body: bytes, precision: Precision, rules: Rules
    ) -> Steps[tuple[Admission, Series]]:
        admission = yield from admit_in_steps(body, precision, rules, self._intake.stamp)
        return admission, self._intake.series_of(admission.parts)

    def _authenticate(self, scope: Scope) -> KeyRecord:
        key = key_in_headers(scope["headers"])
        if key is None and self._dialect is Dialect.V1:
            key = key_in_query(scope["query_string"])
        return self._keys.authenticate(key)


def _remembered(dialect: Dialect, query: bytes) -> Target:
    """What a query string says, remembered unless it is long or may hold a key."""
    if len(query) > _MAX_REMEMBERED_BYTES or dialect is Dialect.V1:
        return target_of(dialect, query)
    return _target_of_short(dialect, query)


def target_of(dialect: Dialect, query: bytes) -> Target:
    """What a query string says. Raises BadRequest."""
    parameters = parse_qs(query.decode("latin-1"))
    if dialect is Dialect.V1:
        namespace = _one(parameters, "db")
        class_name = _one(parameters, "rp") or DEFAULT_CLASS
    else:
        bucket = _one(parameters, "bucket")
        if bucket is None:
            raise BadRequest("parameter bucket is missing; use bucket=raw")
        namespace, _, class_name = bucket.rpartition("/")
    spelled = _one(parameters, "precision") or "ns"
    precision = REQUEST_PRECISIONS.get(spelled)
    if precision is None or (dialect is Dialect.V2 and spelled in _V1_ONLY):
        raise BadRequest(f"precision {spelled[:20]!r} is not known; use ns, us, ms or s")
    return Target(namespace or None, class_name, precision)


_target_of_short = lru_cache(maxsize=1024)(target_of)

_V1_ONLY = frozenset({"m", "h", "n", "u", "µ"})


def _one(parameters: dict[str, list[str]], name: str) -> str | None:
    values: list[Any] | None = parameters.get(name)
    return values[-1] if values else None


def count_accepted(key: KeyRecord, points: int, stamped: int) -> None:
    """Count what the log has taken for a key's tenant."""
    metrics.points(key.tenant.name, "accepted").inc(points)
    if stamped:
        metrics.STAMPED.labels(metrics.tenant_label(key.tenant.name)).inc(stamped)


def _accepted_headers(receipt: str | None, stamped: int) -> list[tuple[bytes, bytes]]:
    headers = []
    if receipt is not None:
        headers.append((b"stepclock-receipt", receipt.encode()))
    if stamped:
        headers.append((b"stepclock-stamped", b"%d" % stamped))
    return headers
