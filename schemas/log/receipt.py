"""Receipts: where in the log the blocks of one request lie.

A receipt holds everything it says, so any gateway can answer for it:
``1.raw-3-1207.events-1-77`` is version 1, offset 1207 of partition 3 of class raw, and
offset 77 of partition 1 of class events.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_BLOCK = re.compile(r"([a-z][a-z0-9_]{0,62})-([0-9]{1,9})-([0-9]{1,18})")
_VERSION = "1"


class InvalidReceipt(Exception):
    """Not a receipt of this release."""


@dataclass(frozen=True, slots=True, order=True)
class BlockPosition:
    """One block of the request."""

    retention_class: str
    partition: int
    offset: int


def encode(blocks: Iterable[BlockPosition]) -> str:
    """The receipt of these blocks; safe in a header and in a URL path."""
    return ".".join([_VERSION, *(f"{b.retention_class}-{b.partition}-{b.offset}" for b in blocks)])


def decode(receipt: str) -> tuple[BlockPosition, ...]:
    """The blocks that a receipt names. Raises InvalidReceipt."""
    version, *blocks = receipt.split(".")
    if version != _VERSION or not blocks:
        raise InvalidReceipt(f"receipt {receipt[:80]!r} is not of version {_VERSION}")
    positions = []
    for block in blocks:
        match = _BLOCK.fullmatch(block)
        if match is None:
            raise InvalidReceipt(f"receipt has a block {block[:80]!r} that can't be read")
        positions.append(BlockPosition(match[1], int(match[2]), int(match[3])))
    return tuple(positions)
