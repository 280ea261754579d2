"""What /docs and /openapi.json say of the write routes, which pass by FastAPI, and of errors."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

from ingest import errors
from ingest.errors import GatewayError, RetryLater
from schemas.line_protocol.precision import BLOCK_PRECISIONS, REQUEST_PRECISIONS
from schemas.metrics_row import MetricsAnswer, MetricsRequest

_SCHEMAS = "#/components/schemas/"
_LINES = "resnet50,run=r12,rank=0 train/loss=0.31,lr=0.001,step=1200i 1795277400000000000"

_PRECISION = "Unit of times; ns if absent or empty."
_ENCODED = "May come with `Content-Encoding: gzip` or `zstd`."

_EVERYWHERE = (errors.BadRequest, errors.Unauthorized, errors.Unavailable, errors.Internal)
_WRITE = (
    *_EVERYWHERE,
    errors.Forbidden,
    errors.BodyStalled,
    errors.BodyTooLarge,
    errors.UnsupportedEncoding,
    errors.RateLimited,
)

_REFUSAL = {
    "type": "object",
    "required": ["line", "column", "reason"],
    "properties": {
        "line": {"type": "integer", "minimum": 1, "description": "Number of the line, from 1."},
        "column": {"type": "integer", "minimum": 1, "description": "Byte in the line, from 1."},
        "reason": {"type": "string", "description": "What is wrong and what is expected."},
    },
}
_LISTED = {"type": "array", "maxItems": 1000}
_TOTAL = {"type": "integer", "description": "How many were refused; `rejected` lists 1,000."}


class _AnswerShape(NamedTuple):
    """How a dialect's errors look."""

    name: str
    content_type: str
    schema: dict[str, Any]


_V2 = _AnswerShape(
    "WriteError",
    "application/json",
    {
        "type": "object",
        "required": ["code", "message"],
        "properties": {
            "code": {"type": "string"},
            "message": {"type": "string", "description": "What is wrong, what to change."},
            "rejected": _LISTED | {"items": _REFUSAL},
            "rejected_total": _TOTAL,
        },
    },
)
_V1 = _AnswerShape(
    "WriteErrorV1",
    "application/json",
    {
        "allOf": [
            {"$ref": f"{_SCHEMAS}WriteError"},
            {
                "type": "object",
                "required": ["error"],
                "properties": {"error": {"type": "string", "description": "The message again."}},
            },
        ]
    },
)
_PROBLEM = _AnswerShape(
    "Problem",
    "application/problem+json",
    {
        "type": "object",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "detail", "instance"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What is wrong, what to change."},
            "instance": {"type": "string"},
            "rejected": _LISTED | {"items": {"$ref": f"{_SCHEMAS}RejectedValue"}},
            "rejected_total": _TOTAL,
        },
    },
)

_SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of `stepclock-server keys create`. `Authorization: Token <key>`, as "
        "InfluxDB clients send it, says the same.",
    },
    "basic": {"type": "http", "scheme": "basic", "description": "The key is the password."},
    "password": {"type": "apiKey", "in": "query", "name": "p", "description": "InfluxDB 1 only."},
}


def document(schema: dict[str, Any]) -> None:
    """Complete what FastAPI makes: write routes, keys, and errors in the shapes they have."""
    components = schema["components"]
    components["securitySchemes"] = _SECURITY_SCHEMES
    schemas = components["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for shape in (_V2, _V1, _PROBLEM):
        schemas[shape.name] = shape.schema
    for model in (MetricsRequest, MetricsAnswer):
        parts = model.model_json_schema(ref_template=_SCHEMAS + "{model}")
        schemas |= parts.pop("$defs", {})
        schemas[model.__name__] = parts
    for path, operations in schema["paths"].items():
        if path.startswith("/api/v1/"):
            # No route has a name that holds a newline; a receipt may name an unknown class.
            found = (*_EVERYWHERE, errors.NotFound) if "{" in path else _EVERYWHERE
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["responses"] |= _refusals(found, _PROBLEM)
                operation["security"] = _keys(_PROBLEM)
    schema["paths"]["/readyz"]["get"]["responses"]["503"] = _says("Starting, or draining.")
    schema["paths"]["/health"]["get"]["responses"]["503"] = _says("Writes can't be taken now.")
    schema["paths"] |= {
        "/api/v2/write": {"post": _write_v2()},
        "/write": {"post": _write_v1()},
        "/api/v1/metrics": {"post": _metrics()},
    }


def _write_v2() -> dict[str, Any]:
    precisions = sorted(precision.value for precision in BLOCK_PRECISIONS)
    return _lines_route(
        "write_v2",
        "Write line protocol",
        "For InfluxDB 2 clients, Telegraf, and anything that can POST.",
        _V2,
        [
            _parameter(
                "bucket", "Retention class, or namespace/class.", required=True, examples=["raw"]
            ),
            _parameter("org", "Ignored."),
            _parameter("precision", _PRECISION, enum=["", *precisions]),
        ],
    )


def _write_v1() -> dict[str, Any]:
    return _lines_route(
        "write_v1",
        "Write line protocol as to InfluxDB 1",
        "For InfluxDB 1 clients. The key comes as a header, or as the password `p`.",
        _V1,
        [
            _parameter("db", "Namespace; the key's own if absent."),
            _parameter("rp", "Retention class; raw if absent.", examples=["raw"]),
            _parameter("precision", _PRECISION, enum=["", *REQUEST_PRECISIONS]),
            _parameter("u", "Ignored."),
        ],
    )


def _lines_route(
    operation: str,
    summary: str,
    description: str,
    shape: _AnswerShape,
    parameters: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "tags": ["write"],
        "summary": summary,
        "description": f"{description} A mixed body is a 400 that names the bad lines; the others "
        "are stored. Lines without a time get the gateway's.",
        "operationId": operation,
        "parameters": [*parameters, *_headers()],
        "requestBody": {
            "description": "Lines of UTF-8, separated by newlines, may be empty. " + _ENCODED,
            "content": {"text/plain": {"schema": {"type": "string"}, "example": _LINES}},
        },
        "responses": {
            "204": {
                "description": "Durable in the log.",
                "headers": {
                    "Stepclock-Receipt": _header("Ask for it at /api/v1/receipts."),
                    "Stepclock-Stamped": _header("How many lines got the gateway's time."),
                },
            },
            **_refusals((*_WRITE, errors.NotFound), shape),
        },
        "security": _keys(shape),
    }


def _metrics() -> dict[str, Any]:
    example = {
        "experiment": "resnet50",
        "run": "r12",
        "step": 1200,
        "values": {"train/loss": 0.31, "grad_norm": "NaN"},
    }
    return {
        "tags": ["write"],
        "summary": "Write rows of JSON",
        "description": "Rows are validated one by one: a 202 names what was not taken and "
        "stores the rest. NaN and infinities are data, bare or as strings.",
        "operationId": "write_metrics",
        "parameters": _headers(),
        "requestBody": {
            "required": True,
            "description": _ENCODED,
            "content": {
                "application/json": {
                    "schema": {"$ref": f"{_SCHEMAS}MetricsRequest"},
                    "example": {"rows": [example]},
                }
            },
        },
        "responses": {
            "202": {
                "description": "What was taken is durable in the log.",
                "headers": {"Stepclock-Receipt": _header("The member `receipt`.")},
                "content": {"application/json": {"schema": {"$ref": f"{_SCHEMAS}MetricsAnswer"}}},
            },
            **_refusals(_WRITE, _PROBLEM),
        },
        "security": _keys(_PROBLEM),
    }


def _headers() -> list[dict[str, Any]]:
    return [
        _parameter("Stepclock-Stream", "Sender; order is kept within it.", where="header"),
        _parameter("Stepclock-Sequence", "Its number in the stream, from 0.", where="header"),
        _parameter("Stepclock-Start", "Unix ns at which the stream began.", where="header"),
        _parameter("Stepclock-Experiment", "What the stream sends.", where="header"),
        _parameter("Stepclock-Run", "What the stream sends.", where="header"),
        _parameter("traceparent", "W3C Trace Context.", where="header"),
    ]


def _parameter(
    name: str, description: str, *, where: str = "query", required: bool = False, **schema: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": required,
        "description": description,
        "schema": {"type": "string", **schema},
    }


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


def _keys(shape: _AnswerShape) -> list[dict[str, list[str]]]:
    names = ["bearer", "basic", "password"] if shape is _V1 else ["bearer", "basic"]
    return [{name: []} for name in names]


def _says(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"type": "object"}}},
    }


def _refusals(found: Iterable[type[GatewayError]], shape: _AnswerShape) -> dict[str, Any]:
    """An answer for each error: its class says why."""
    answers: dict[str, Any] = {}
    for error in sorted(found, key=lambda error: error.status):
        answer = {
            "description": inspect.getdoc(error) or "",
            "content": {shape.content_type: {"schema": {"$ref": _SCHEMAS + shape.name}}},
        }
        if issubclass(error, RetryLater):
            answer["headers"] = {"Retry-After": _header("Whole seconds.")}
        answers[str(error.status)] = answer
    return answers
