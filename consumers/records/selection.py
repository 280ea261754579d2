"""What of the log is written again: the chosen lines of the chosen blocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from consumers.batches.batch import PlacedBlock
from consumers.records.intake import Intake, take_in
from consumers.views import StepsView, WallView, block_lines
from schemas.line_protocol.codec import Refused, parse
from schemas.line_protocol.series import series_of
from schemas.log.block import Block
from schemas.log.protocols import Record
from schemas.retention import RESERVED

#: Every view that workers write; which of them a block is for is no reason to refuse it.
VIEWS = (WallView.name, StepsView.name)

_RESERVED = frozenset(name.encode() for name in RESERVED)

_MAX_REMEMBERED_SERIES = 100_000

#: The place of a record: topic, partition, offset.
Place = tuple[str, int, int]


class Selection:
    """Reads records as `take_in` does, and keeps what is chosen. Empty means all.

    views: those that will be written. experiments, runs: of lines; what class events says of an
    experiment names it in a tag. without: lines to leave out, by the record that holds them.

    Deliveries stay where every view is written and every line of them is kept: else their lines
    would say less of what is dead than those that stand.
    """

    def __init__(
        self,
        views: Collection[str] = VIEWS,
        *,
        namespaces: Collection[str] = (),
        experiments: Collection[str] = (),
        runs: Collection[str] = (),
        without: Mapping[Place, Collection[bytes]] | None = None,
    ) -> None:
        self._views = frozenset(views)
        self._namespaces = frozenset(namespaces)
        self._experiments = {name.encode() for name in experiments}
        self._runs = {name.encode() for name in runs}
        self._without = without or {}
        self._series: dict[bytes, bool] = {}
        #: Lines that were left out because of `without`.
        self.left_out = 0

    def __call__(self, record: Record) -> Intake:
        """What of the record is chosen."""
        intake = take_in(record, VIEWS)
        refused = tuple(letter for letter in intake.refused if self._has(letter.namespace))
        placed = intake.placed
        if placed is None or not self._has(placed.block.namespace):
            return Intake(None, refused)
        block = placed.block
        if block.view is not None and block.view not in self._views:
            return Intake(None, refused)
        if not self._views.issuperset(VIEWS):
            block = replace(block, deliveries=())
        without = self._without.get((record.topic, record.partition, record.offset), ())
        if self._experiments or self._runs or without:
            block = self._cut(block, without)
        if not block.lines:
            return Intake(None, refused)
        return Intake(
            PlacedBlock(block, placed.partition, placed.offset, len(block.lines)), refused
        )

    def _has(self, namespace: str) -> bool:
        return not self._namespaces or namespace in self._namespaces

    def _cut(self, block: Block, without: Collection[bytes]) -> Block:
        """The block with its chosen lines, and the deliveries of which no line is missing."""
        kept: list[bytes] = []
        before = [0]  # for each line of the block, how many of those before it are kept
        for _number, line in block_lines(block):
            if line in without:
                self.left_out += 1
            elif self._is_chosen(line):
                kept.append(line)
            before.append(len(kept))
        deliveries = tuple(
            replace(delivery, first=before[delivery.first])
            for delivery in block.deliveries
            if (end := delivery.first + delivery.points) < len(before)
            and before[end] - before[delivery.first] == delivery.points
        )
        return replace(block, lines=b"\n".join(kept), points=len(kept), deliveries=deliveries)

    def _is_chosen(self, line: bytes) -> bool:
        if not (self._experiments or self._runs):
            return True
        series = series_of(line.lstrip(b" "))
        chosen = self._series.get(series)
        if chosen is None:
            if len(self._series) >= _MAX_REMEMBERED_SERIES:
                self._series.clear()
            chosen = self._series[series] = self._is_chosen_series(series)
        return chosen

    def _is_chosen_series(self, series: bytes) -> bool:
        try:
            parsed = parse(series + b" f=1")
        except Refused:
            return False  # nobody can say whose it is
        tags = dict(parsed.tags)
        named_by_tag = parsed.measurement in _RESERVED
        experiment = tags.get(b"experiment") if named_by_tag else parsed.measurement
        return (not self._experiments or experiment in self._experiments) and (
            not self._runs or tags.get(b"run") in self._runs
        )
