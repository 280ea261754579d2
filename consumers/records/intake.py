"""What a record holds: a block to store, and what can't be stored whatever the store says."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from consumers.batches.batch import PlacedBlock
from consumers.records.foreign import admit
from schemas.log.block import ForeignRecord, UnknownBlock, decode
from schemas.log.dead_letter import DeadLetter, Reason
from schemas.log.protocols import Record


@dataclass(frozen=True, slots=True)
class Intake:
    """placed is None if the record has nothing to store."""

    placed: PlacedBlock | None
    refused: tuple[DeadLetter, ...]


def take_in(record: Record, view_names: Collection[str]) -> Intake:
    """Read a record: a known `v` is trusted, none is validated, an unknown one is refused.

    So is a block for a view that is none of `view_names`: nobody would write it.
    """
    refused: tuple[DeadLetter, ...] = ()
    try:
        block = decode(record.headers, record.value)
    except ForeignRecord:
        admitted = admit(record)
        block, refused = admitted.block, admitted.refused
    except UnknownBlock as exc:
        return Intake(None, (_unknown(record, str(exc)),))
    if block.view is not None and block.view not in view_names:
        detail = f"view {block.view!r} is not known to this worker"
        return Intake(None, (_unknown(record, detail, block.view),))
    if not block.lines:
        return Intake(None, refused)
    placed = PlacedBlock(block, record.topic_partition, record.offset, len(record.value))
    return Intake(placed, refused)


def _unknown(record: Record, detail: str, view: str = "wall") -> DeadLetter:
    headers = dict(record.headers)
    return DeadLetter(
        lines=record.value,
        reason=Reason.UNKNOWN_BLOCK,
        detail=detail,
        tenant=headers.get("tenant", b"unknown")[:250].decode(errors="replace"),
        namespace=headers.get("namespace", b"unknown")[:250].decode(errors="replace"),
        view=view,
        precision=headers.get("precision", b"ns")[:8].decode(errors="replace"),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
    )
