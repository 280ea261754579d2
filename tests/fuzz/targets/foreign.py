"""Whatever record lies in the log: the worker reads it, and every byte of it is accounted for."""

from __future__ import annotations

from collections import Counter

from consumers.records.intake import take_in
from consumers.views import StepsView, WallView
from consumers.writing.deliveries import delivery_lines
from schemas.line_protocol.codec import Refused, parse, split
from schemas.line_protocol.precision import Precision
from schemas.log import dead_letter
from schemas.log.protocols import Record
from tests.fuzz.head import record_headers, split_head
from tests.fuzz.targets import lines

VIEWS = {"wall": WallView(), "steps": StepsView(("host",))}
TOKENS = (
    *lines.TOKENS,
    *b"v:1 tenant: namespace:lab precision:ms points:1 received_ns:5 view:steps".split(),
    b"multiline: 1\n",
    b"\n\n",
)


def check(data: bytes) -> None:
    pairs, value = split_head(data)
    record = Record("stepclock.raw", 3, 41, value, record_headers(pairs), 1_795_277_400_000)
    intake = take_in(record, VIEWS)
    letters = Counter[bytes]()
    for letter in intake.refused:
        stored = Record("stepclock.dlq", 0, 0, letter.lines, dead_letter.encode_headers(letter), 0)
        again = dead_letter.decode(stored)
        assert (again.lines, again.reason, again.detail) == (
            letter.lines,
            letter.reason,
            letter.detail[:1000],
        )
        letters.update(text for _, text in split(letter.lines))
    is_trusted = "v" in dict(record.headers)
    if intake.placed is None:
        assert intake.refused or not any(split(value)) or is_trusted
        return
    block = intake.placed.block
    for view in VIEWS.values():
        precision = view.precision([block])
        try:
            rendered = view.render(block, "raw", precision)
        except Refused:
            rendered = None
        one_by_one = list(view.lines(block, "raw", precision))
        if rendered is None:
            assert any(line.refused for line in one_by_one)
        elif not is_trusted:
            assert b"\n".join(line.sent for line in one_by_one) == rendered
    for dead in (None, (), (1,)):
        assert all(delivery_lines(intake.placed, dead))
    if is_trusted:
        assert block.lines == value
        return
    good = [text for _, text in split(block.lines)]
    assert block.precision is Precision.NS
    assert len(good) == block.points
    assert all(parse(text).time is not None for text in good)
    assert len(good) + letters.total() == sum(1 for _ in split(value))
    assert letters <= Counter(text for _, text in split(value))
