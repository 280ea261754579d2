"""The ledger files: what a trainer logs, written down before the client is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """The metrics of one step."""

    run: str
    rank: int
    step: int
    values: Mapping[str, float]

    def encode(self) -> bytes:
        """One JSON object on one line; NaN and ±Infinity stand as such, as Python writes them."""
        document = {
            "run": self.run,
            "rank": self.rank,
            "step": self.step,
            "values": dict(self.values),
        }
        return json.dumps(document, separators=(",", ":")).encode()


def decode(line: bytes) -> LoggedRow:
    """The row that `encode` wrote. Raises ValueError or TypeError for anything else."""
    return LoggedRow(**json.loads(line))


def append(file: BinaryIO, row: LoggedRow) -> None:
    """Add a row to a ledger file and hand it to the kernel: a killed process loses none."""
    file.write(row.encode() + b"\n")
    file.flush()


def read(path: Path) -> Iterator[LoggedRow]:
    """The rows of a ledger file. A torn last line was never logged, and is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield decode(line)
