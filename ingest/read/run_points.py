"""Every point of one run as lines of JSON, streamed as the store gives them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypedDict

from schemas.line_protocol.precision import Precision
from schemas.retention import DEFAULT_CLASS, EVENTS_CLASS, STEP_CLASS
from schemas.store.protocols import Clock, FieldValue, StoredPoint, StoreReader, StoreUnavailable

NDJSON = "application/x-ndjson"

#: Points that are not finite, and what names the value that each stands for.
_NONFINITE = "nonfinite"
_NAMING = frozenset({"experiment", "metric", "kind"})

#: Lines travel in pieces of about this many bytes: each costs a turn of a thread.
_PIECE_BYTES = 64 * 1024


class PointRow(TypedDict):
    """One point as a line says it. t: step or Unix ns."""

    t: int
    tags: dict[str, str]
    values: dict[str, FieldValue]


def run_points(
    reader: StoreReader, namespace: str, experiment: str, run: str, clock: Clock
) -> Iterator[PointRow]:
    """Each point of a run; a value that is not finite is text. Raises StoreUnavailable."""
    steps = clock is Clock.STEP
    unit_ns = Precision.MS.ns if steps else 1
    for point in reader.points(namespace, STEP_CLASS if steps else DEFAULT_CLASS, experiment, run):
        values = {name: value for name, value in point.fields.items() if name != "step"}
        yield _line(point, unit_ns, values, frozenset())
    nonfinite_class = STEP_CLASS if steps else EVENTS_CLASS
    for point in reader.points(namespace, nonfinite_class, _NONFINITE, run):
        tags = point.tags
        if tags.get("experiment") == experiment and "metric" in tags and "kind" in tags:
            yield _line(point, unit_ns, {tags["metric"]: tags["kind"]}, _NAMING)


def ndjson(first: PointRow | None, rest: Iterator[PointRow]) -> Iterator[bytes]:
    """The lines in pieces, and how they end. first: None for no points."""
    piece: list[str] = []
    size = count = 0
    point = first
    try:
        while point is not None:
            count += 1
            piece.append(json.dumps(point, separators=(",", ":")) + "\n")
            size += len(piece[-1])
            if size >= _PIECE_BYTES:
                yield "".join(piece).encode()
                piece, size = [], 0
            point = next(rest, None)
        end: dict[str, int | str] = {"end": count}
    except StoreUnavailable as exc:
        end = {"error": f"the store does not answer: {exc}"}
    yield "".join([*piece, json.dumps(end), "\n"]).encode()


def _line(
    point: StoredPoint, unit_ns: int, values: dict[str, FieldValue], left_out: frozenset[str]
) -> PointRow:
    tags = {key: value for key, value in point.tags.items() if key not in left_out}
    return {"t": point.time_ns // unit_ns, "tags": tags, "values": values}
