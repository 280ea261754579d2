"""Delivery lines: what workers write into class events about each request that they stored.

Measurement ``delivery``, one point for each block that holds lines of a request of a named
stream. Its time is the stream's start plus the request's sequence number, so a delivery that
is written again overwrites itself, and a sum over deliveries is the distinct truth.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.line_protocol.codec import Line, encode
from schemas.store.protocols import StoredPoint

MEASUREMENT = "delivery"

#: The class that holds deliveries.
CLASS = "events"


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One request's lines in one block, after a worker had written every view of them.

    sequence: number of the request in its stream, from 0. part, parts: which piece of the
    request. lines: how many it holds; dead: those of them that some view lacks, kept as dead
    letters. first_ns, last_ns: earliest and latest time of its lines.
    """

    experiment: str
    run: str
    stream: str
    topic: str
    start_ns: int
    sequence: int
    part: int
    parts: int
    lines: int
    dead: int
    first_ns: int
    last_ns: int

    def line(self) -> bytes:
        """The line that says it, its time in ns. Raises ValueError for names that no line holds."""
        tags = {
            "experiment": self.experiment,
            "part": str(self.part),
            "run": self.run,
            "stream": self.stream,
            "topic": self.topic,
        }
        # Counts are floats as everywhere; times would not be exact as such.
        counts = {
            "dead": self.dead,
            "parts": self.parts,
            "points": self.lines,
            "sequence": self.sequence,
        }
        times = {"first": self.first_ns, "last": self.last_ns}
        return encode(
            Line(
                MEASUREMENT.encode(),
                tuple((key.encode(), value.encode()) for key, value in tags.items() if value),
                (
                    *((name.encode(), b"%d" % count) for name, count in counts.items()),
                    *((name.encode(), b"%di" % time_ns) for name, time_ns in times.items()),
                ),
                self.start_ns + self.sequence,
            )
        )


def decode(point: StoredPoint) -> DeliveryRecord:
    """What a stored delivery line says. Raises ValueError for a point that is none."""
    tags, fields = point.tags, point.fields
    try:
        sequence = _whole(fields["sequence"])
        return DeliveryRecord(
            experiment=tags.get("experiment", ""),
            run=tags.get("run", ""),
            stream=tags["stream"],
            topic=tags["topic"],
            start_ns=point.time_ns - sequence,
            sequence=sequence,
            part=int(tags["part"]),
            parts=_whole(fields["parts"]),
            lines=_whole(fields["points"]),
            dead=_whole(fields["dead"]),
            first_ns=_whole(fields["first"]),
            last_ns=_whole(fields["last"]),
        )
    except (KeyError, OverflowError, ValueError) as exc:
        raise ValueError(f"a point of {MEASUREMENT!r} can't be read: {exc!r}") from exc


def _whole(value: float | str) -> int:
    return int(value)
