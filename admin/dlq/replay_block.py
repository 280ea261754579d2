"""From a dead letter to the blocks that carry its lines back, each line checked before."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from admin.dlq.letters import FoundLetter
from consumers.views import StepsView, describe
from schemas.line_protocol.bounds import MAX_TIME_NS, MIN_TIME_NS
from schemas.line_protocol.codec import Refused, encode, parse, split
from schemas.line_protocol.precision import BLOCK_PRECISIONS, Precision
from schemas.log.block import MAX_BLOCK_BYTES, Block
from schemas.log.dead_letter import DeadLetter, Reason
from schemas.log.protocols import class_of

#: Refused before any view saw them: such letters say "wall", and every view lacks the lines.
_SEEN_BY_NO_VIEW = frozenset({Reason.MALFORMED, Reason.UNKNOWN_BLOCK})

_PRECISIONS = frozenset(precision.value for precision in BLOCK_PRECISIONS)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line, a row or a letter that can't be sent, and why."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Examined:
    """What of a letter can be sent, and what can't."""

    blocks: tuple[Block, ...]
    bad: tuple[BadLine, ...]


def examine(
    found: FoundLetter, topics: Collection[str], views: Collection[str], *, received_ns: int
) -> Examined:
    """Blocks of the letter's good lines, and its bad lines by number.

    topics, views: where the log's workers look. Blocks keep tenant, namespace and precision;
    their view is the one that refused the lines, None for lines that no view has seen.
    """
    letter = found.letter
    unfit = _unfit(letter, topics, views)
    if unfit is not None:
        return Examined((), (BadLine(found.where, unfit),))
    view = None if letter.view == "wall" and letter.reason in _SEEN_BY_NO_VIEW else letter.view
    block = Block(
        tenant=letter.tenant,
        namespace=letter.namespace,
        precision=Precision(letter.precision),
        points=0,
        received_ns=received_ns,
        lines=b"",
        view=view,
    )
    good: list[bytes] = []
    bad: list[BadLine] = []
    for number, line in split(letter.lines):
        try:
            good.append(_checked(line, block, class_of(letter.topic)))
        except Refused as exc:
            bad.append(BadLine(f"{found.where} line {number}", describe(exc)))
    if not good and not bad:
        bad.append(BadLine(found.where, "no line in it"))
    return Examined(tuple(_filled(block, piece) for piece in _pieces(good)), tuple(bad))


def _unfit(letter: DeadLetter, topics: Collection[str], views: Collection[str]) -> str | None:
    if letter.topic not in topics:
        return f"topic {letter.topic!r} carries no class; expected one of {', '.join(topics)}"
    if letter.view not in views:
        return f"view {letter.view!r} is not written by this log's workers ({', '.join(views)})"
    if letter.precision not in _PRECISIONS:
        return f"precision {letter.precision!r} is none of ns, us, ms, s"
    if not letter.tenant or not letter.namespace:
        return "tenant and namespace can't be empty"
    return None


def _checked(line: bytes, block: Block, retention_class: str) -> bytes:
    """The line as it can stand in a block: it ends with its time. Raises Refused."""
    parsed = parse(line.removesuffix(b"\r"))
    if parsed.time is None:
        raise Refused(len(line) + 1, "no time: expected one, as in m f=1 1700000000000")
    if not MIN_TIME_NS <= parsed.time * block.precision.ns <= MAX_TIME_NS:
        raise Refused(len(line), "time out of range: expected the years 1677 to 2262")
    if line[:1] == b" " or not line.endswith(b" %d" % parsed.time):
        line = encode(parsed)
    if len(line) > MAX_BLOCK_BYTES:
        raise Refused(1, f"line too long: expected at most {MAX_BLOCK_BYTES} bytes")
    if block.view == StepsView.name:
        _check_shown(line, block, retention_class)
    return line


def _check_shown(line: bytes, block: Block, retention_class: str) -> None:
    """Raise Refused for a line that the steps view would leave out without a word."""
    view = StepsView(())
    lines = view.lines(_filled(block, [line]), retention_class, Precision.MS)
    shown = list(lines) if view.target(retention_class) is not None else []
    if not shown:
        raise Refused(1, "no step: view steps does not show this line")
    if shown[0].refused is not None:
        raise Refused(1, shown[0].refused)


def _pieces(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines in their order, in lists that fit into a block each."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > MAX_BLOCK_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(line)
        size += len(line) + 1
    if piece:
        yield piece


def _filled(block: Block, lines: list[bytes]) -> Block:
    return replace(
        block,
        lines=b"\n".join(lines),
        points=len(lines),
        multiline=any(b"\n" in line for line in lines),
    )
