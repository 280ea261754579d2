"""What a batch delivered, request by request, once every view of it is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from consumers.batches.batch import PlacedBlock
from consumers.views import block_lines
from consumers.writing.attempt import Refusal
from consumers.writing.isolate import TRIES
from schemas.log.block import Block
from schemas.store.delivery import DeliveryRecord
from schemas.store.protocols import LinesRefused
from telemetry.metrics import DELIVERIES


class Deliveries:
    """A Search over delivery lines on their way into the store, those of one batch.

    What the store refuses is counted and left: the points themselves are settled by then.
    """

    def __init__(self, lines: list[bytes]) -> None:
        self._todo = [lines] if lines else []
        self._failures = 0

    def next(self, _now: float) -> bytes | None:
        """The lines to write next; None once nothing is left."""
        return b"\n".join(self._todo[-1]) if self._todo else None

    def answered(self, error: Refusal | None) -> None:
        """The lines are stored; or refused, and tried again by halves."""
        lines = self._todo.pop()
        outcome, count = "stored", len(lines)
        if error is not None:
            stored_others = isinstance(error, LinesRefused) and error.stored_others
            if len(lines) > 1 and not stored_others:
                middle = len(lines) // 2
                self._todo += [lines[middle:], lines[:middle]]
                return
            outcome, count = "refused", getattr(error, "dropped", None) or 1
        DELIVERIES.labels(outcome).inc(count)

    def mark_failed(self, _detail: str, _now: float) -> None:
        """The store failed on the lines and is well: at the third time leave them."""
        self._failures += 1
        if self._failures == TRIES:
            self._failures = 0
            DELIVERIES.labels("refused").inc(len(self._todo.pop()))

    def give_up(self) -> None:
        """Leave what is left, counted."""
        DELIVERIES.labels("misconfigured").inc(sum(map(len, self._todo)))
        self._todo.clear()


def delivery_lines(placed: PlacedBlock, dead: Iterable[int] | None) -> Iterator[bytes]:
    """A line for each delivery of a block whose client says when its stream began.

    dead: numbers of the lines that some view lacks, as `block_lines` counts; None means all.
    """
    block = placed.block
    if not any(delivery.start for delivery in block.deliveries):
        return
    try:
        numbers, times_ns = _times(block)
    except ValueError:  # a block that no gateway of ours made: all of its lines are refused
        DELIVERIES.labels("refused").inc(len(block.deliveries))
        return
    dead_numbers = set(numbers if dead is None else dead)
    for delivery in block.deliveries:
        lines = slice(delivery.first, delivery.first + delivery.points)
        if not delivery.start or not times_ns[lines]:
            continue
        record = DeliveryRecord(
            experiment=delivery.experiment,
            run=delivery.run,
            stream=delivery.stream,
            topic=placed.partition.topic,
            start_ns=delivery.start,
            sequence=delivery.sequence,
            part=delivery.part,
            parts=delivery.parts,
            lines=delivery.points,
            dead=sum(number in dead_numbers for number in numbers[lines]) if dead_numbers else 0,
            first_ns=min(times_ns[lines]),
            last_ns=max(times_ns[lines]),
        )
        try:
            yield record.line()
        except ValueError:  # likewise
            DELIVERIES.labels("refused").inc()


def _times(block: Block) -> tuple[list[int], list[int]]:
    """Number and time in ns of each line, which ends with its time. Raises ValueError."""
    numbers, times_ns = [], []
    unit_ns = block.precision.ns
    for number, line in block_lines(block):
        digits = line[line.rfind(b" ") + 1 :]
        numbers.append(number)
        times_ns.append(int(digits) * unit_ns)
    return numbers, times_ns
