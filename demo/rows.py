"""Rows as the JSON route takes them, and the ledger files that keep them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Row:
    """The metrics of one step.

    time_ns, since 1970, is given by the trainer: a row that is sent twice is the same point.
    """

    experiment: str
    run: str
    rank: int
    step: int
    time_ns: int
    values: Mapping[str, float]

    def encode(self) -> bytes:
        """One JSON object on one line; NaN and ±Infinity stand as such, as Python writes them."""
        document = {
            "experiment": self.experiment,
            "run": self.run,
            "rank": self.rank,
            "step": self.step,
            "time": self.time_ns,
            "values": dict(self.values),
        }
        return json.dumps(document, separators=(",", ":")).encode()


def decode(line: bytes) -> Row:
    """The row that `encode` wrote. Raises ValueError or KeyError for anything else."""
    document = json.loads(line)
    return Row(
        experiment=document["experiment"],
        run=document["run"],
        rank=document["rank"],
        step=document["step"],
        time_ns=document["time"],
        values=document["values"],
    )


def append(file: BinaryIO, encoded: list[bytes]) -> None:
    """Add rows to a ledger file and hand them to the kernel: a killed process loses none."""
    file.write(b"".join(line + b"\n" for line in encoded))
    file.flush()


def read(path: Path) -> Iterator[Row]:
    """The rows of a ledger file. A torn last line was never sent, and is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield decode(line)
