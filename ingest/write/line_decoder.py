"""Line protocol as InfluxDB clients send it: `POST /api/v2/write` and `POST /write`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import parse_qs

from starlette.types import Scope

from ingest import errors
from ingest.errors import BadRequest, GatewayError, InputRefused
from ingest.keys.auth import key_in_headers, key_in_query
from ingest.limits.byte_budget import Held
from ingest.write.ingest_classes import IngestClasses, Target
from ingest.write.pipeline import Admitted, Response
from ingest.write.validation_queue import Work
from schemas.admission.body import admit_in_steps
from schemas.line_protocol.precision import REQUEST_PRECISIONS, Precision
from schemas.retention import DEFAULT_CLASS

#: Clients send the same few query strings again and again; longer ones are nobody's habit.
_MAX_REMEMBERED_BYTES = 256

_V2_PRECISIONS = {name: REQUEST_PRECISIONS[name] for name in ("ns", "us", "ms", "s")}


class LineDecoder:
    """The way in of InfluxDB 2 clients: a class is a bucket, the key is in a header."""

    dialect = staticmethod(errors.influx)
    inline_bytes = 256 * 1024  # 0.3 ms for 1,000 good lines

    def key(self, scope: Scope) -> str | None:
        """The key of an Authorization header."""
        return key_in_headers(scope["headers"])

    def target(self, query: bytes) -> Target:
        """Parameters bucket and precision; remembered unless the query string is long."""
        if len(query) > _MAX_REMEMBERED_BYTES:
            return _v2_target(query)
        return _short_v2_target(query)

    def points(self, body: bytes) -> int:
        """Lines, whatever they hold: a bad one costs more than a good one."""
        return body.count(b"\n") + (not body.endswith(b"\n"))

    def decode(
        self,
        body: bytes,
        target: Target,
        classes: IngestClasses,
        held: Held,  # noqa: ARG002 - what is made of lines is counted where it waits for the log
    ) -> Work[Admitted]:
        """Admit good lines, and name the others."""
        rules = classes.rules(target.class_name)
        found = yield from admit_in_steps(body, target.precision, rules, classes.stamp)
        return Admitted(
            [(target.class_name, part) for part in found.parts],
            found.points,
            found.refused_total,
            found.stamped,
            [{"line": r.line, "column": r.column, "reason": r.reason} for r in found.refusals],
            found.refused_total,
        )

    def answer(self, admitted: Admitted, receipt: str | None) -> Response:
        """204; a 400 if any line was refused, since a client reads no more than the status."""
        if admitted.rejected_total:
            raise _refused(admitted, receipt)
        headers = []
        if receipt is not None:
            headers.append((b"stepclock-receipt", receipt.encode()))
        if admitted.stamped:
            headers.append((b"stepclock-stamped", b"%d" % admitted.stamped))
        return 204, headers, b""


def influx_1(error: GatewayError, instance: str) -> tuple[bytes, bytes]:  # noqa: ARG001
    """As InfluxDB 1 says errors: {code, message, error}, where error is the message again."""
    says = {"code": error.code, "message": error.message, "error": error.message}
    return b"application/json", json.dumps(says | error.body()).encode()


class LineDecoderV1(LineDecoder):
    """The way in of InfluxDB 1 clients: a class is a retention policy, the key a password."""

    dialect = staticmethod(influx_1)

    def key(self, scope: Scope) -> str | None:
        """The key of an Authorization header, or the parameter p."""
        key = key_in_headers(scope["headers"])
        return key_in_query(scope["query_string"]) if key is None else key

    def target(self, query: bytes) -> Target:
        """Parameters db, rp and precision; never remembered, since it may hold a key."""
        return _v1_target(query)


def _v1_target(query: bytes) -> Target:
    parameters = parse_qs(query.decode("latin-1"))
    precision = _precision(parameters, REQUEST_PRECISIONS)
    return Target(_one(parameters, "db"), _one(parameters, "rp") or DEFAULT_CLASS, precision)


def _v2_target(query: bytes) -> Target:
    parameters = parse_qs(query.decode("latin-1"))
    bucket = _one(parameters, "bucket")
    if bucket is None:
        raise BadRequest("parameter bucket is missing; use bucket=raw")
    namespace, _, class_name = bucket.rpartition("/")
    return Target(namespace or None, class_name, _precision(parameters, _V2_PRECISIONS))


_short_v2_target = lru_cache(maxsize=1024)(_v2_target)


def _precision(parameters: dict[str, list[str]], known: Mapping[str, Precision]) -> Precision:
    spelled = _one(parameters, "precision") or "ns"
    if spelled not in known:
        raise BadRequest(f"precision {spelled[:20]!r} is not known; use ns, us, ms or s")
    return known[spelled]


def _one(parameters: dict[str, list[str]], name: str) -> str | None:
    values = parameters.get(name)
    return values[-1] if values else None


def _refused(admitted: Admitted, receipt: str | None) -> InputRefused:
    accepted, total = admitted.accepted, admitted.rejected_total
    if accepted:
        outcome = "the other one is stored" if accepted == 1 else f"the other {accepted} are stored"
    else:
        outcome = "nothing was stored"
    first = admitted.rejected[0]
    return InputRefused(
        f"{total} of {accepted + total} lines refused, {outcome}; "
        f"line {first['line']}, column {first['column']}: {first['reason']}",
        {"rejected": admitted.rejected, "rejected_total": total},
        receipt,
    )
