"""Views: how the lines of a block are written to the store, by wall time and by step.

Both work on bytes. A line with a quote or a backslash takes the exact parser; for every
other admitted line the commas and spaces mean what they seem, and bytes methods do.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from schemas.line_protocol.bounds import MAX_STEP
from schemas.line_protocol.codec import Refused, encode, parse, split
from schemas.line_protocol.precision import Precision
from schemas.line_protocol.tokens import integer
from schemas.log.block import Block
from schemas.retention import DEFAULT_CLASS, EVENTS_CLASS, STEP_CLASS

_NONFINITE = b"nonfinite"
_MAX_STEP_DIGITS = len(str(MAX_STEP))

#: A step with nothing but the time behind it. Its groups, ",step=7i " and "7", are the end of
#: the line by step. Steps with as many digits as MAX_STEP are left to the exact parser.
_STEP_AND_TIME = re.compile(
    rb"(,step=(0|[1-9][0-9]{0,%d}+)i )-?[0-9]++$" % (_MAX_STEP_DIGITS - 2), re.MULTILINE
)

# Longer series are worked out each time: the memory is bounded in bytes, not in number alone.
_MAX_REMEMBERED_BYTES = 1024


@dataclass(frozen=True, slots=True)
class ViewLine:
    """A line of a block as a view sends it; `refused` says why it can't send it."""

    number: int
    original: bytes
    sent: bytes
    refused: str | None = None


class View(Protocol):
    """One way in which points are stored. The name stands in metrics and dead letters."""

    @property
    def name(self) -> str:
        """One word."""
        ...

    def target(self, retention_class: str) -> str | None:
        """The class that takes points of this class in this view; None if the view has none."""
        ...

    def precision(self, blocks: Sequence[Block]) -> Precision:
        """The one precision in which these blocks can be sent together."""
        ...

    def render(self, block: Block, retention_class: str, precision: Precision) -> bytes:
        """The lines to send, without a last newline; empty if the view shows none of them.

        Raises Refused if the view can't show a line that it should: then use `lines`.
        """
        ...

    def lines(self, block: Block, retention_class: str, precision: Precision) -> Iterator[ViewLine]:
        """The same line by line, each with its original, and those that can't be shown."""
        ...


class WallView:
    """Points at the time when they were measured: lines as they are."""

    name = "wall"

    def target(self, retention_class: str) -> str | None:
        """The class itself."""
        return retention_class

    def precision(self, blocks: Sequence[Block]) -> Precision:
        """The blocks' own if they agree, else ns: a batch never waits for a precision."""
        precisions = {block.precision for block in blocks}
        return precisions.pop() if len(precisions) == 1 else Precision.NS

    def render(self, block: Block, retention_class: str, precision: Precision) -> bytes:
        """Appends zeros where the precision is finer: every line ends with its time."""
        del retention_class  # every class is shown
        zeros = _zeros(block, precision)
        if not zeros or not block.lines:
            return block.lines
        if block.multiline:
            return b"\n".join(line + zeros for _number, line in split(block.lines))
        return block.lines.replace(b"\n", zeros + b"\n") + zeros

    def lines(self, block: Block, retention_class: str, precision: Precision) -> Iterator[ViewLine]:
        """Every line."""
        del retention_class  # every class is shown
        zeros = _zeros(block, precision)
        for number, line in block_lines(block):
            yield ViewLine(number, line, line + zeros)


class StepsView:
    """The step clock: lines with a step, at that step in ms, without volatile tags.

    Shows class raw, and the lines of measurement nonfinite of class events. Series without
    their volatile tags are remembered, at most `max_series` of them.
    """

    name = "steps"

    def __init__(self, volatile_tags: Collection[str], *, max_series: int = 100_000) -> None:
        self._volatile = frozenset(tag.encode() for tag in volatile_tags)
        names = b"|".join(map(re.escape, sorted(self._volatile)))
        self._volatile_tag = re.compile(b",(?:%b)=" % names if names else rb"\Z.")
        self._max_series = max_series
        self._series: dict[bytes, bytes] = {}

    def target(self, retention_class: str) -> str | None:
        """The class of the step clock, for the two classes that have steps."""
        return STEP_CLASS if retention_class in (DEFAULT_CLASS, EVENTS_CLASS) else None

    def precision(self, blocks: Sequence[Block]) -> Precision:
        """One step is one ms."""
        del blocks  # whatever theirs is
        return Precision.MS

    def render(self, block: Block, retention_class: str, precision: Precision) -> bytes:
        """The lines at their step. Raises Refused for a step that is no step."""
        del precision  # always ms
        lines = block.lines
        only = _NONFINITE if retention_class == EVENTS_CLASS else None
        if b"step=" not in lines or (only is not None and only not in lines):
            return b""
        if only is None and not (block.multiline or b'"' in lines or b"\\" in lines):
            swapped = self._plain_block(lines)
            if swapped is not None:
                return swapped
        shown = (self._any_line(line, only) for _number, line in block_lines(block))
        return b"\n".join(line for line in shown if line is not None)

    def lines(self, block: Block, retention_class: str, precision: Precision) -> Iterator[ViewLine]:
        """The lines that have a step, also those whose step can't be used."""
        del precision  # always ms
        only = _NONFINITE if retention_class == EVENTS_CLASS else None
        for number, line in block_lines(block):
            try:
                sent = self._any_line(line, only)
            except Refused as exc:
                yield ViewLine(number, line, b"", refused=describe(exc))
            else:
                if sent is not None:
                    yield ViewLine(number, line, sent)

    def _plain_block(self, lines: bytes) -> bytes | None:
        """Lines without quote and backslash, all at once; None if any is not as most are.

        Most have two spaces and their step last. Joining what the pattern splits gives the
        swapped lines: what lies between its matches, then its groups.
        """
        count = lines.count(b"\n") + 1
        # An admitted line has at least two spaces, so none has more.
        if lines.count(b" ") != 2 * count:
            return None
        parts = _STEP_AND_TIME.split(lines)
        if len(parts) != 3 * count + 1:
            return None
        if self._volatile_tag.search(lines):
            parts[:-1:3] = map(self._without_volatile, parts[:-1:3])
        return b"".join(parts)

    def _without_volatile(self, head: bytes) -> bytes:
        """A line up to its step, behind the newline of the one before it."""
        series, space, fields = head.partition(b" ")
        return (self._series.get(series) or self._remember(series)) + space + fields

    def _any_line(self, line: bytes, only: bytes | None) -> bytes | None:
        if b'"' in line or b"\\" in line:
            return self._exact_line(line, only)
        return self._plain_line(line, only)

    def _plain_line(self, line: bytes, only: bytes | None) -> bytes | None:
        """A line without quote and backslash: commas and spaces are delimiters."""
        series, _, rest = line.partition(b" ")
        fields, _, _time = rest.rpartition(b" ")
        at = fields.rfind(b",step=")
        if at >= 0:
            step = fields[at + 6 :].partition(b",")[0]
        elif fields.startswith(b"step="):
            step = fields[5:].partition(b",")[0]
        elif b" " in fields:  # several spaces between the parts
            return self._exact_line(line, only)
        else:
            return None
        digits = step[:-1]
        if (
            not digits.isdigit()
            or step[-1:] != b"i"
            or len(digits) >= _MAX_STEP_DIGITS
            or (digits[:1] == b"0" and len(digits) > 1)
            or b" " in fields
        ):
            return self._exact_line(line, only)
        shown = self._series.get(series)
        if shown is None:
            shown = self._remember(series)
        if only is not None and series.partition(b",")[0] != only:
            return None
        return b"%b %b %b" % (shown, fields, digits)

    def _exact_line(self, line: bytes, only: bytes | None) -> bytes | None:
        """Parse, swap, encode. Raises Refused."""
        parsed = parse(line)
        steps = [token for name, token in parsed.fields if name == b"step"]
        if not steps or (only is not None and parsed.measurement != only):
            return None
        token = steps[-1]
        digits = token[:-1]
        if token[-1:] != b"i" or not digits.isdigit() or integer(digits) > MAX_STEP:
            raise Refused(line.rfind(b"step=") + 1, f"step is not an integer of 0 to {MAX_STEP}")
        tags = tuple(tag for tag in parsed.tags if tag[0] not in self._volatile)
        return encode(replace(parsed, tags=tags, time=integer(digits)))

    def _remember(self, series: bytes) -> bytes:
        measurement, *tags = series.split(b",")
        kept = [tag for tag in tags if tag.partition(b"=")[0] not in self._volatile]
        shown = b",".join((measurement, *kept))
        if len(series) <= _MAX_REMEMBERED_BYTES:
            if len(self._series) >= self._max_series:
                self._series.clear()
            self._series[series] = shown
        return shown


def describe(refused: Refused) -> str:
    """The parser's reason as it stands in a dead letter."""
    return f"column {refused.column}: {refused.reason}"


def _zeros(block: Block, precision: Precision) -> bytes:
    if block.precision is precision:
        return b""
    if precision is not Precision.NS:
        raise ValueError(f"BUG: {block.precision} lines sent as {precision}")
    return b"0" * block.precision.digits


def block_lines(block: Block) -> Iterator[tuple[int, bytes]]:
    """Lines by number from 1. Only the exact splitter knows which newline ends a line."""
    if block.multiline:
        return iter(split(block.lines))
    return enumerate(block.lines.split(b"\n"), 1) if block.lines else iter(())
