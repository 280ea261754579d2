"""`POST /api/v1/metrics`: rows of JSON, NaN and infinities included."""

from __future__ import annotations

import json
import time
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.types import Receive, Scope

from ingest.errors import BadRequest, BodyTooLarge, GatewayError, RowsRefused, Unavailable
from ingest.http.body import Bounds, read_body
from ingest.keys.auth import KeyStore, key_in_headers
from ingest.limits.series import Series
from ingest.write.endpoint import Response
from ingest.write.intake import Intake
from ingest.write.judge import Steps
from ingest.write.lines import count_accepted
from schemas.admission.admission import MAX_LISTED, Part
from schemas.admission.body import admit
from schemas.line_protocol.precision import Precision
from schemas.metrics import EncodedRow, MetricsRow, encode_row, excess
from schemas.retention import DEFAULT_CLASS, EVENTS_CLASS
from telemetry import metrics

#: Rows of one request: judging one takes tens of microseconds, and {} is a row in three bytes.
_MAX_ROWS = 100_000

#: Rows and values of one step (`ingest.write.judge`).
_STEP_SIZE = 500

#: Characters of a member's name that are repeated: it may be as long as the body.
_MAX_FIELD_CHARS = 200


class MetricsRoute:
    """Judges rows one by one: a bad row or value is named, everything else is stored."""

    def __init__(self, keys: KeyStore, intake: Intake, bounds: Bounds) -> None:
        self._keys = keys
        self._intake = intake
        self._bounds = bounds

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """202 with what became of each row, or an error of `ingest.errors`."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        key = self._keys.authenticate(key_in_headers(scope["headers"]))
        declared = headers.get(b"content-length")
        self._intake.open(key, declared)
        origin = self._intake.origin(headers)

        try:
            body, read_s = await read_body(
                receive,
                declared,
                headers.get(b"content-encoding", b""),
                self._bounds,
                key.tenant.name,
            )
            began_s = time.thread_time()
            rows = _rows_of(body)
            read_s += time.thread_time() - began_s
        except GatewayError as exc:
            exc.paced = key.tenant.name
            raise

        count = rows_sent = len(rows)
        charged = await self._intake.charge(key.tenant, count, read_s)
        judged = _Judged(self._intake, self._bounds.decompressed)
        steps = judged.steps(rows)
        try:
            series = await self._intake.judge(key.tenant, len(body), steps, receive, read_s)
        except Unavailable:
            await self._intake.refund(key.tenant, count, charged)
            raise
        if judged.points > count:  # a value that is not finite is a line of its own
            count = judged.points
            charged = await self._intake.charge_instead(key.tenant, charged, count, read_s)
        self._intake.charge_series(key.tenant, series, count)
        del body, rows, series  # only what was admitted may wait for the log
        receipt = None
        if judged.parts:
            try:
                receipt = await self._intake.publish(key.tenant, judged.parts, origin)
            except GatewayError:
                await self._intake.refund(key.tenant, count, charged)
                raise
            count_accepted(key, judged.accepted, judged.stamped)
        refused = rows_sent - judged.accepted
        if refused:
            metrics.points(key.tenant.name, "refused").inc(refused)
        if not judged.accepted:
            raise RowsRefused(judged.rejected, judged.rejected_total)
        answer = {
            "accepted": judged.accepted,
            "stamped": judged.stamped,
            "rejected": judged.rejected,
            "rejected_total": judged.rejected_total,
            "receipt": receipt,
        }
        response = [(b"content-type", b"application/json")]
        if receipt is not None:
            response.append((b"stepclock-receipt", receipt.encode()))
        return 202, response, json.dumps(answer).encode()


class _Judged:
    """What became of the rows of one request, and the parts to publish.

    max_bytes: what all rows may be as lines.
    """

    def __init__(self, intake: Intake, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._stamp = intake.stamp
        self._series_of = intake.series_of
        classes = [intake.route_class(name) for name in (DEFAULT_CLASS, EVENTS_CLASS)]
        self._rules = {c.name: intake.rules(c) for c in classes}
        self._lines: dict[str, list[bytes]] = {DEFAULT_CLASS: [], EVENTS_CLASS: []}
        self.accepted = 0
        self.stamped = 0
        self.rejected: list[dict[str, Any]] = []
        self.rejected_total = 0

    @property
    def parts(self) -> list[tuple[str, Part]]:
        return [
            (name, Part(b"\n".join(lines), len(lines), Precision.NS, multiline=False))
            for name, lines in self._lines.items()
            if lines
        ]

    @property
    def points(self) -> int:
        """How many lines the parts hold."""
        return sum(map(len, self._lines.values()))

    def steps(self, rows: list[Any]) -> Steps[Series]:
        """Judge the rows; yields how many rows and values were refused so far."""
        size = 0
        for index, row in enumerate(rows):
            size += 1 + self.take(index, row)
            if size >= _STEP_SIZE:
                yield self.rejected_total
                size = 0
        yield self.rejected_total
        return self._series_of(part for _, part in self.parts)

    def take(self, index: int, data: object) -> int:
        """Judge a row; how many values were looked at."""
        if (found := excess(data)) is not None:
            self._reject(index, *found)
            return 0
        try:
            row = MetricsRow.model_validate(data)
        except ValidationError as exc:
            for error in exc.errors(include_url=False, include_context=False):
                field = ".".join(map(str, error["loc"])) or "row"
                self._reject(index, field, error["msg"].removeprefix("Value error, "))
            return 0
        encoded = encode_row(row)
        for field, reason in encoded.rejected:
            self._reject(index, field, reason)
        time_ns = row.time if row.time is not None else self._stamp()
        if self._admit(index, encoded, b" %d" % time_ns):
            self.accepted += 1
            self.stamped += row.time is None
        return len(row.values)

    def _admit(self, index: int, encoded: EncodedRow, suffix: bytes) -> bool:
        """Put the row's lines to the others, if the admission tier agrees with the encoder."""
        line = encoded.line + suffix
        size = self._size + len(line)
        events: list[bytes] = []
        for event in encoded.events:
            if size > self._max_bytes:
                break
            events.append(event + suffix)
            size += len(event) + len(suffix)
        if size > self._max_bytes:
            reason = f"as lines the rows are over {self._max_bytes} bytes: send fewer at once"
            self._reject(index, "row", reason)
            return False
        for name, lines in ((DEFAULT_CLASS, line), (EVENTS_CLASS, b"\n".join(events))):
            if not lines:
                continue
            admission = admit(lines, Precision.NS, self._rules[name], self._stamp)
            if admission.refused_total:
                refusal = admission.refusals[0]
                # Names and step were judged above. What is left is the time, and what is too
                # long all together.
                field = "time" if refusal.reason.startswith("time ") else "row"
                self._reject(index, field, refusal.reason.partition(";")[0])
                return False
        self._lines[DEFAULT_CLASS].append(line)
        self._lines[EVENTS_CLASS] += events
        self._size = size
        return True

    def _reject(self, index: int, field: str, reason: str) -> None:
        self.rejected_total += 1
        if len(self.rejected) < MAX_LISTED:
            named = field[:_MAX_FIELD_CHARS]
            self.rejected.append({"index": index, "field": named, "reason": reason})


def _rows_of(body: bytes) -> list[Any]:
    began_s = time.thread_time()
    try:
        return _parse(body)
    except GatewayError as exc:
        exc.spent_s = time.thread_time() - began_s
        raise


def _parse(body: bytes) -> list[Any]:
    # Before parsing: millions of containers would hold the event loop for seconds. A row takes
    # about three; brackets inside strings count as well, so there is room for them.
    if body.count(b"[") + body.count(b"{") > 8 * _MAX_ROWS:
        raise BodyTooLarge(f"at most {_MAX_ROWS} rows are taken in one request")
    try:
        document = from_json(body, allow_inf_nan=True)
    except ValueError as exc:
        raise BadRequest(f"the body is not valid JSON: {exc}") from exc
    # No other member: it would be read for nothing, at any size.
    rows = document.get("rows") if isinstance(document, dict) and len(document) == 1 else None
    if not isinstance(rows, list) or not rows:
        raise BadRequest(
            'expected {"rows": [{"experiment": …, "run": …, "step": …, "values": {…}}]}'
        )
    if len(rows) > _MAX_ROWS:
        raise BodyTooLarge(f"{len(rows)} rows; at most {_MAX_ROWS} are taken in one request")
    return rows
