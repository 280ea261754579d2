"""JSON rows: each is stored as it says, or refused by name, and the answer can be written.

Row by row they are the same as parsed at once, wherever windows of text end.
"""

from __future__ import annotations

import itertools
import json

from pydantic_core import from_json

from ingest.errors import BadRequest, BodyTooLarge
from ingest.limits.byte_budget import ByteBudget, Held
from ingest.write.ingest_classes import IngestClasses
from ingest.write.row_decoder import RowDecoder
from schemas.admission.body import admit
from schemas.json_rows import PAUSE, InvalidRows, Unrepresentable, decode_rows
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.codec import field_value, parse
from schemas.line_protocol.precision import Precision
from schemas.retention import reserved_in
from tests.fuzz.targets.admission import NOW_NS, RAW, check_part

RULES = {"raw": RAW, "events": Rules(None, 2**63 - 2, "400d", reserved_in("events"))}
TOKENS = (
    *(b'{"rows":[', b'"experiment":"e"', b'"run":"r"', b'"step":1', b'"values":{', b'"rank":0'),
    *(b'"attempt":2', b'"tags":{"a":"b"}', b'"time":1795277400000000000', b"NaN", b"Infinity"),
    *(b'"NaN"', b"\\ud800", b"1e999", b"1E-400", b"true", b"null", b"[[[[", b"\\u0000", b'\\"'),
    *(b"},{", b"}],[{", b"1e400", b"]}", b"9" * 200),
)


class Classes(IngestClasses):
    """At one moment, with the rules of this target."""

    def __init__(self) -> None:
        super().__init__({}, itertools.count(NOW_NS).__next__)

    def rules(self, class_name: str) -> Rules:
        return RULES[class_name]


def check(data: bytes) -> None:
    _check_decoding(data)
    budget = ByteBudget("reading", "read buffer", 64 * 1024 * 1024)
    held = Held(budget, "fuzz")
    decoder = RowDecoder(1024 * 1024)
    work = decoder.decode(data, decoder.target(b""), Classes(), held)
    try:
        while True:
            next(work)
    except StopIteration as done:
        admitted = done.value
    except (BadRequest, BodyTooLarge):
        return
    rows = [row for row in decode_rows(data) if row is not PAUSE]
    json.dumps(admitted.rejected).encode()
    assert 0 <= admitted.stamped <= admitted.accepted <= len(rows)
    assert admitted.refused == len(rows) - admitted.accepted
    named = {rejection["index"] for rejection in admitted.rejected}
    assert named <= set(range(len(rows)))
    assert admitted.accepted + len(named) >= len(rows) or admitted.rejected_total > 1000
    for rejection in admitted.rejected:
        assert rejection["field"]
        assert rejection["reason"]
        assert rejection["field"] != "time" or "time" in rows[rejection["index"]]
    for name, part in admitted.parts:
        check_part(part, RULES[name])
    assert budget.held_bytes >= sum(len(part.lines) for _, part in admitted.parts)
    [raw] = [part for name, part in admitted.parts if name == "raw"] or [None]
    assert (raw.points if raw else 0) == admitted.accepted
    for text in raw.lines.split(b"\n") if raw else []:
        _check_says_the_same(text, rows)


def _check_decoding(data: bytes) -> None:
    expected = _parsed_at_once(data)
    for window_bytes in (1, 32, 16 * 1024):
        try:
            rows = [
                row for row in decode_rows(data, _window_bytes=window_bytes) if row is not PAUSE
            ]
        except InvalidRows as exc:
            assert expected is None
            assert len(str(exc)) < 250
        else:
            assert _spelled(rows) == _spelled(expected)


def _parsed_at_once(data: bytes) -> list[object] | None:
    try:
        document = from_json(data, allow_inf_nan=True)
    except ValueError:
        return None
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        return None
    # A name that comes twice is one member for from_json.
    return document["rows"] if len(json.loads(data, object_pairs_hook=list)) == 1 else None


def _spelled(value: object) -> object:
    """The value with its types, NaN like itself, and what is beyond a float as an infinity."""
    if isinstance(value, Unrepresentable):
        return "-inf" if value.startswith("-") else "inf"
    if isinstance(value, list):
        return [_spelled(member) for member in value]
    if isinstance(value, dict):
        return [(name, _spelled(member)) for name, member in value.items()]
    return repr(value)


def _check_says_the_same(text: bytes, rows: list[dict[str, object]]) -> None:
    """The line says what one of the rows does."""
    line = parse(text)
    fields = {key.decode(): field_value(token) for key, token in line.fields}
    step = fields.pop("step")
    assert all(isinstance(value, float) for value in fields.values())
    tags = {key.decode(): value.decode() for key, value in line.tags}
    candidates = [
        row
        for row in rows
        if isinstance(row, dict)
        and row.get("experiment") == line.measurement.decode()
        and (row.get("run"), row.get("step")) == (tags["run"], step)
    ]
    assert any(_has_values(row.get("values"), fields) for row in candidates)
    assert admit(text, Precision.NS, RAW, itertools.count().__next__).points == 1


def _has_values(values: object, fields: dict[str, object]) -> bool:
    return isinstance(values, dict) and all(
        isinstance(values.get(metric), bool | int | float) and float(values[metric]) == value
        for metric, value in fields.items()
    )
