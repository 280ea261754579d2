"""Where the lines of a request come from, as its headers say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ingest.errors import BadRequest
from schemas.block import Delivery

# W3C Trace Context, 3.2: version, trace id, parent id, flags.
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Stream:
    """How a client names what it delivers (headers Stepclock-Stream, -Sequence, …)."""

    name: str
    sequence: int
    start: int
    experiment: str
    run: str

    @classmethod
    def from_headers(cls, headers: Mapping[bytes, bytes]) -> Stream | None:
        """The stream of a request, None without Stepclock-Stream. Raises BadRequest."""
        name = headers.get(b"stepclock-stream")
        if name is None:
            return None
        numbers = []
        for header in (b"stepclock-sequence", b"stepclock-start"):
            value = headers.get(header, b"0")
            if not value.isdigit() or len(value) > 19:
                raise BadRequest(f"header {header.decode().title()} must be a whole number")
            numbers.append(int(value))
        text = [
            value[:250].decode("utf-8", "ignore")
            for value in (
                name,
                headers.get(b"stepclock-experiment", b""),
                headers.get(b"stepclock-run", b""),
            )
        ]
        return cls(text[0], numbers[0], numbers[1], text[1], text[2])

    def delivery(self, part: int, points: int) -> Delivery:
        """What one block of the request holds of it."""
        return Delivery(
            self.name, self.sequence, self.start, self.experiment, self.run, part, points
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """One request: when it came (Unix time in ns), its stream and its trace, if it names them."""

    received_ns: int
    stream: Stream | None = None
    traceparent: str | None = None

    @classmethod
    def from_headers(cls, headers: Mapping[bytes, bytes], received_ns: int) -> Origin:
        """The origin that the headers tell. Raises BadRequest for a stream that can't be read."""
        trace = headers.get(b"traceparent", b"")
        return cls(
            received_ns,
            Stream.from_headers(headers),
            trace.decode() if _TRACEPARENT.fullmatch(trace) else None,
        )

    def delivery(self, part: int, points: int) -> Delivery | None:
        """What one block holds of the request; None if it belongs to no stream."""
        return None if self.stream is None else self.stream.delivery(part, points)
