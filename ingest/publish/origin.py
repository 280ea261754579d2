"""Where the lines of a request come from, as its headers say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ingest.errors import BadRequest
from schemas.line_protocol.scanner import ENGINE_SEPARATOR
from schemas.log.block import Delivery, number

#: A name is part of a header of each of its blocks.
_MAX_NAME = 250

_HOUR_NS = 3600 * 10**9

_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\\]")

# W3C Trace Context, 3.2: version, trace id, parent id, flags.
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Piece:
    """Lines of one request that travel in one block: number `part` of its `parts`."""

    lines: bytes
    points: int
    part: int = 0
    parts: int = 1


@dataclass(frozen=True, slots=True)
class StreamHeaders:
    """How a client names what it delivers (headers Stepclock-Stream, -Sequence, …).

    sequence counts the stream's requests from 0. start is when the stream began, in ns; 0
    where the client does not say: then its deliveries are not recorded.
    """

    name: str
    sequence: int
    start: int
    experiment: str
    run: str

    @classmethod
    def from_headers(
        cls, headers: Mapping[bytes, bytes], oldest_ns: int, newest_ns: int
    ) -> StreamHeaders | None:
        """The stream of a request, None without Stepclock-Stream. Raises BadRequest.

        oldest_ns, newest_ns: between them lie start, and start and sequence together, which is
        the time of the record of a delivery.
        """
        name = _name(headers, b"stepclock-stream") if b"stepclock-stream" in headers else ""
        if not name:
            return None
        numbers = []
        for header in (b"stepclock-sequence", b"stepclock-start"):
            try:
                numbers.append(number(headers.get(header, b"0")))
            except ValueError:
                title = header.decode().title()
                raise BadRequest(f"header {title} must be a whole number") from None
        sequence, start = numbers
        if start and not oldest_ns <= start <= start + sequence <= newest_ns:
            raise BadRequest(
                "header Stepclock-Start must be the time at which the stream began, in "
                f"nanoseconds since 1970: {oldest_ns} or later, and with Stepclock-Sequence "
                "added no more than an hour ahead"
            )
        experiment = _name(headers, b"stepclock-experiment")
        run = _name(headers, b"stepclock-run")
        return cls(name, sequence, start, experiment, run)

    def delivery(self, piece: Piece, first: int) -> Delivery:
        """What one block, from its line `first` on, holds of the request."""
        return Delivery(
            self.name,
            self.sequence,
            self.start,
            self.experiment,
            self.run,
            piece.part,
            piece.parts,
            first,
            piece.points,
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """One request: when it came (Unix time in ns), its stream and its trace, if it names them."""

    received_ns: int
    stream: StreamHeaders | None = None
    traceparent: str | None = None

    @classmethod
    def from_headers(
        cls, headers: Mapping[bytes, bytes], received_ns: int, oldest_ns: int = 0
    ) -> Origin:
        """The origin that the headers tell. Raises BadRequest for a stream that can't be read.

        oldest_ns: the earliest time at which a stream may have begun.
        """
        trace = headers.get(b"traceparent")
        return cls(
            received_ns,
            StreamHeaders.from_headers(headers, oldest_ns, received_ns + _HOUR_NS),
            trace.decode() if trace and _TRACEPARENT.fullmatch(trace) else None,
        )

    def delivery(self, piece: Piece, first: int) -> Delivery | None:
        """What one block holds of the request; None if it belongs to no stream."""
        return None if self.stream is None else self.stream.delivery(piece, first)


def _name(headers: Mapping[bytes, bytes], header: bytes) -> str:
    """A name as a tag can hold it: cut, and without control bytes and backslashes; or empty."""
    text = _UNWRITABLE.sub("", headers.get(header, b"")[:_MAX_NAME].decode("utf-8", "ignore"))
    return "" if ENGINE_SEPARATOR.decode() in text else text
