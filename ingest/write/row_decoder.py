"""`POST /api/v1/metrics`: rows of JSON, NaN and infinities included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from pydantic import ValidationError
from starlette.types import Scope

from ingest import errors
from ingest.errors import BadRequest, BodyTooLarge, InputRefused
from ingest.keys.auth import key_in_headers
from ingest.limits.byte_budget import Held
from ingest.write.ingest_classes import IngestClasses, Target
from ingest.write.pipeline import Admitted, Response
from ingest.write.validation_queue import Work
from schemas.admission.admission import MAX_LISTED, Part
from schemas.admission.body import admit
from schemas.json_rows import (
    MAX_ROW_BYTES,
    PAUSE,
    WINDOW_BYTES,
    InvalidRows,
    RowTooLarge,
    decode_rows,
)
from schemas.line_protocol.precision import Precision
from schemas.metrics_row import EncodedRow, MetricsRow, encode_row, excess
from schemas.retention import DEFAULT_CLASS, EVENTS_CLASS

#: Rows of one request: validating one takes tens of microseconds, and {} is a row in three bytes.
_MAX_ROWS = 100_000

#: Bytes of a body that cost a point before they are decoded, and those in which rows are counted.
_POINT_BYTES = 4 * 1024
_COUNTED_BYTES = 1024 * 1024

#: Bytes of objects for a byte of JSON, at worst: {"":1} takes seven bytes and over two hundred.
_OBJECT_BYTES = 32

#: Rows, their members and what is wrong with them, or lines of one row, between two yields.
_STEP_SIZE = 100

#: Characters of a member's name that are repeated: it may be as long as the body.
_MAX_FIELD_CHARS = 200

_EXPECTED = 'expected {"rows": [{"experiment": …, "run": …, "step": …, "values": {…}}]}'

_TARGET = Target(None, DEFAULT_CLASS, Precision.NS)


class RowDecoder:
    """Validates rows one by one: a bad row or value is named, everything else is stored.

    max_bytes: what all rows of a request may be as lines.
    """

    dialect = staticmethod(errors.problem)
    inline_bytes = 8 * 1024  # some 40 rows

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    def key(self, scope: Scope) -> str | None:
        """The key of an Authorization header."""
        return key_in_headers(scope["headers"])

    def target(self, query: bytes) -> Target:  # noqa: ARG002 - nothing is asked there
        """The key's own namespace; each line has its class."""
        return _TARGET

    def points(self, body: bytes) -> int:
        """What the bytes cost before anybody knows what they hold; then rows are charged instead.

        Decoding _POINT_BYTES takes as long as validating a small row, so whatever is sent costs
        its tenant, valid or not. Rows are mostly smaller, so their number is looked for too: a
        good request is mostly charged right at once, and one over the limit is refused unread.
        """
        rows = body.count(b'"experiment"', 0, _COUNTED_BYTES)
        return max(rows, -(-len(body) // _POINT_BYTES), 1)

    def decode(
        self,
        body: bytes,
        target: Target,  # noqa: ARG002 - see `target`
        classes: IngestClasses,
        held: Held,
    ) -> Work[Admitted]:
        """Admit good rows, and name what is wrong with the others.

        The objects of the rows that are decoded at once are counted for as long as this goes on,
        at what they take at worst: those of WINDOW_BYTES, of MAX_ROW_BYTES where rows are large.
        There are no others, since nothing is decoded before it is asked for.
        """
        rows = _Rows(classes, self._max_bytes, held)
        try:
            yield from rows.take_all(body)
        except RowTooLarge as exc:
            raise BodyTooLarge(f"nothing was stored; {exc}") from exc
        except InvalidRows as exc:
            raise BadRequest(f"nothing was stored; {exc}") from exc
        return rows.admitted()

    def answer(self, admitted: Admitted, receipt: str | None) -> Response:
        """202 with what became of each row; a 400 if nothing was taken."""
        if not admitted.accepted:
            first = admitted.rejected[0]
            raise InputRefused(
                f"nothing was stored; row {first['index']}, {first['field']}: {first['reason']}",
                {
                    "accepted": 0,
                    "rejected": admitted.rejected,
                    "rejected_total": admitted.rejected_total,
                },
            )
        headers = [(b"content-type", b"application/json")]
        if receipt is not None:
            headers.append((b"stepclock-receipt", receipt.encode()))
        answer = {
            "accepted": admitted.accepted,
            "stamped": admitted.stamped,
            "rejected": admitted.rejected,
            "rejected_total": admitted.rejected_total,
            "receipt": receipt,
        }
        return 202, headers, json.dumps(answer).encode()


class _LineBuffer:
    """Lines of one class, joined by newline; handed over without a copy."""

    def __init__(self) -> None:
        self.text = BytesIO()
        self.count = 0

    def add(self, lines: bytes, count: int) -> None:
        if self.count:
            self.text.write(b"\n")
        self.text.write(lines)
        self.count += count


class _Rows:
    """What became of the rows of one request so far.

    max_bytes: what they may be as lines. held: where these are counted as they come.
    """

    def __init__(self, classes: IngestClasses, max_bytes: int, held: Held) -> None:
        self._max_bytes = max_bytes
        self._held = held
        self._objects = 0
        self._in_hand = 0  # lines of a row that is not taken yet
        self._counted = 0
        self._stamp = classes.stamp
        self._rules = {name: classes.rules(name) for name in (DEFAULT_CLASS, EVENTS_CLASS)}
        self._lines = {DEFAULT_CLASS: _LineBuffer(), EVENTS_CLASS: _LineBuffer()}
        self._count = 0
        self._accepted = 0
        self._stamped = 0
        self._rejected: list[dict[str, Any]] = []
        self._rejected_total = 0

    def take_all(self, body: bytes) -> Iterator[int]:
        """Take the rows of a body; yields, once at least, how many were refused so far.

        Raises InvalidRows, BodyTooLarge, Unavailable.
        """
        size = 0
        self._hold_objects_of(min(len(body), WINDOW_BYTES))
        for row in decode_rows(body):
            if row is PAUSE:
                self._hold_objects_of(min(len(body), MAX_ROW_BYTES))
                size = _STEP_SIZE
            else:
                size += 1 + (yield from self._take(row))
            if size >= _STEP_SIZE:
                self._hold()
                yield self._rejected_total
                size = 0
        if not self._count:
            raise BadRequest(f"nothing was stored; there are no rows: {_EXPECTED}")
        self._hold()
        yield self._rejected_total

    def _hold_objects_of(self, text_bytes: int) -> None:
        self._objects = _OBJECT_BYTES * text_bytes
        self._hold()

    def _hold(self) -> None:
        size = self._objects + self._in_hand + self._size()
        if size < self._counted:
            self._held.give_back(self._counted - size)
        else:
            self._held.take(size - self._counted)
        self._counted = size

    def _size(self) -> int:
        return sum([lines.text.tell() for lines in self._lines.values()])

    def admitted(self) -> Admitted:
        """What became of all of them. A value that is not finite is a line, and a point."""
        return Admitted(
            [
                (name, Part(lines.text.getvalue(), lines.count, Precision.NS, multiline=False))
                for name, lines in self._lines.items()
                if lines.count
            ],
            self._accepted,
            self._count - self._accepted,
            self._stamped,
            self._rejected,
            self._rejected_total,
            max(self._count, sum([lines.count for lines in self._lines.values()])),
        )

    def _take(self, data: object) -> Work[int]:
        """Validate a row; how many members were looked at, or faults found."""
        index = self._count
        if index >= _MAX_ROWS:
            raise BodyTooLarge(
                f"nothing was stored; at most {_MAX_ROWS} rows are taken in one request: "
                "send fewer at once"
            )
        self._count += 1
        if (found := excess(data)) is not None:
            self._reject(index, *found)
            return 0
        try:
            row = MetricsRow.model_validate(data)
        except ValidationError as exc:
            faults = exc.errors(include_url=False, include_context=False)
            for error in faults:
                field = ".".join(map(str, error["loc"])) or "row"
                self._reject(index, field, error["msg"].removeprefix("Value error, "))
            return len(faults)
        encoded = encode_row(row)
        for field, reason in encoded.rejected:
            self._reject(index, field, reason)
        time_ns = row.time if row.time is not None else self._stamp()
        if (yield from self._admit(index, encoded, b" %d" % time_ns)):
            self._accepted += 1
            self._stamped += row.time is None
        return len(row.values) + len(row.tags)

    def _admit(self, index: int, encoded: EncodedRow, suffix: bytes) -> Work[bool]:
        """Put the row's lines to the others, if the admission tier agrees with the encoder.

        With a line for each value that is not finite, a row may be over a hundred times its text.
        """
        line = encoded.line + suffix
        size = self._size() + len(line)
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
        texts = [(DEFAULT_CLASS, line, 1)]
        for start in range(0, len(events), _STEP_SIZE):
            some = events[start : start + _STEP_SIZE]
            texts.append((EVENTS_CLASS, b"\n".join(some), len(some)))
        del events
        for number, (name, text, _) in enumerate(texts):
            if number > 1:
                self._in_hand = size - self._size()
                self._hold()
                yield self._rejected_total
            admission = admit(text, Precision.NS, self._rules[name], self._stamp)
            if admission.refused_total:
                refusal = admission.refusals[0]
                # Names and step were validated above. What is left is the time, and what is too
                # long all together.
                field = "time" if refusal.reason.startswith("time ") else "row"
                self._reject(index, field, refusal.reason.partition(";")[0])
                self._in_hand = 0
                return False
        for name, text, count in texts:
            self._lines[name].add(text, count)
        self._in_hand = 0
        return True

    def _reject(self, index: int, field: str, reason: str) -> None:
        self._rejected_total += 1
        if len(self._rejected) < MAX_LISTED:
            named = field[:_MAX_FIELD_CHARS]
            self._rejected.append({"index": index, "field": named, "reason": reason})
