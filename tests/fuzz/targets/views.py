"""Views: the step clock equals parse, swap, encode for every line that can be in the log."""

from __future__ import annotations

import itertools
import zlib
from dataclasses import replace

from consumers.views import StepsView, WallView
from schemas.admission.admission import Part
from schemas.admission.body import admit
from schemas.line_protocol.codec import encode, parse, split
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block
from tests.fuzz.targets import admission

VOLATILE = ("node", "host", "pod", "slurm_job_id")
TOKENS = (*admission.TOKENS, b",host=n1", b",step=12i", b'="a,step=1i "', b"nonfinite,run=a ")


def check(data: bytes) -> None:
    precision = list(Precision)[zlib.crc32(data) % len(Precision)]
    found = admit(data, precision, admission.OPEN, itertools.count(admission.NOW_NS).__next__)
    for part in found.parts:
        block = Block(
            "vision", "lab", part.precision, part.points, 0, part.lines, multiline=part.multiline
        )
        _check_steps(block, part)
        _check_wall(block, part)


def _check_steps(block: Block, part: Part) -> None:
    view = StepsView(VOLATILE, max_series=4)
    for retention_class, only in (("raw", None), ("events", b"nonfinite")):
        shown = [at_step(text, only) for _, text in split(part.lines)]
        expected = b"\n".join(text for text in shown if text is not None)
        for _ in range(2):  # the second time from what the view remembers
            assert view.render(block, retention_class, Precision.MS) == expected
        one_by_one = list(view.lines(block, retention_class, Precision.MS))
        assert all(line.refused is None for line in one_by_one)
        assert b"\n".join(line.sent for line in one_by_one) == expected


def _check_wall(block: Block, part: Part) -> None:
    view = WallView()
    parsed = [parse(text) for _, text in split(part.lines)]
    assert view.render(block, "raw", part.precision) == part.lines
    in_ns = [replace(line, time=(line.time or 0) * part.precision.ns) for line in parsed]
    rendered = [parse(text) for _, text in split(view.render(block, "raw", Precision.NS))]
    assert rendered == in_ns
    assert [parse(one.sent) for one in view.lines(block, "raw", Precision.NS)] == in_ns


def at_step(text: bytes, only: bytes | None) -> bytes | None:
    """Parse, swap, encode; None for a line that the view does not show."""
    line = parse(text)
    token = dict(line.fields).get(b"step")
    if token is None or (only is not None and line.measurement != only):
        return None
    tags = tuple(tag for tag in line.tags if tag[0].decode() not in VOLATILE)
    return encode(replace(line, tags=tags, time=int(token[:-1])))
