"""Admission: both tiers say the same of every body, and what they admit is good for ever."""

from __future__ import annotations

import itertools
import zlib

from schemas.admission.admission import MAX_LISTED, Admission, Part
from schemas.admission.body import _BodyAdmission, admit
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.bounds import check as check_bounds
from schemas.line_protocol.codec import encode, scan, split
from schemas.line_protocol.precision import BLOCK_PRECISIONS, Precision
from schemas.retention import reserved_in
from tests.fuzz.targets import lines

HOUR_NS = 3600 * 10**9
NOW_NS = 1_795_277_400 * 10**9
RAW = Rules(NOW_NS - 90 * 24 * HOUR_NS, NOW_NS + HOUR_NS, "90d", reserved_in("raw"))
OPEN = Rules(None, 2**63 - 2, "forever", frozenset())

TOKENS = (*lines.TOKENS, b" 1795277400000000000", b" 1795277400", b"\n", b"nonfinite", b"=9" * 5)


class _ExactTier(_BodyAdmission):
    """Admission without the patterns: every line goes to the exact parser."""

    def _take_run(self, start: int, stop: int) -> int:
        return 0


def check(data: bytes) -> None:
    # One of the precisions, by the bytes alone, so that a finding can be repeated.
    precision = list(Precision)[zlib.crc32(data) % len(Precision)]
    for rules in (RAW, OPEN):
        found = admit(data, precision, rules, itertools.count(NOW_NS).__next__)
        exact = _ExactTier(data, precision, rules, itertools.count(NOW_NS).__next__).admit()
        assert found == exact
        _check_refusals(data, found)
        for part in found.parts:
            check_part(part, rules)


def check_part(part: Part, rules: Rules) -> None:
    assert part.precision in BLOCK_PRECISIONS
    texts = [text for _, text in split(part.lines)]
    assert len(texts) == part.points
    assert b"\n".join(texts) == part.lines
    assert all((b"\n" in text) is part.multiline for text in texts)
    for text in texts:
        scanned = scan(text, 0)
        assert scanned.end == len(text)
        assert scanned.line.time is not None
        assert encode(scanned.line) == text
        check_bounds(scanned, part.precision, rules)
    again = admit(part.lines, part.precision, rules, itertools.count(NOW_NS).__next__)
    assert (again.parts, again.stamped, again.refused_total) == ((part,), 0, 0)


def _check_refusals(body: bytes, found: Admission) -> None:
    all_lines = body.split(b"\n")
    assert found.points == sum(part.points for part in found.parts)
    assert found.points + found.refused_total <= len(all_lines)
    assert len(found.refusals) == min(found.refused_total, MAX_LISTED)
    last = 0
    for refusal in found.refusals:
        assert last < refusal.line <= len(all_lines)
        # A line may go on behind a newline in a string.
        rest = all_lines[refusal.line - 1 :]
        assert 1 <= refusal.column <= len(b"\n".join(rest)) + 1
        assert b'"' in rest[0] or refusal.column <= len(rest[0]) + 1
        assert refusal.reason.partition(": ")[2]
        last = refusal.line
