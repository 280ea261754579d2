"""What a trainer tells about itself: a small file, replaced as a whole a few times a second."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from stepclock import Receipt


@dataclass(frozen=True, slots=True)
class TrainerProgress:
    """One trainer's state. steps is the number of steps trained; loss and accuracy may be NaN.

    acknowledged: lines that the gateway has taken. limited: its answers 429. done: it trains no
    more, and sends no more. receipt: of the run that is finished.
    """

    steps: int = 0
    loss: float = float("nan")
    accuracy: float = float("nan")
    acknowledged: int = 0
    limited: int = 0
    last_error: str = ""
    done: bool = False
    receipt: Receipt | None = None

    def write(self, path: Path) -> None:
        """Replace the file, such that a reader sees the old state or the new one."""
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(asdict(self)), "utf-8")
        unfinished.replace(path)


def read(path: Path) -> TrainerProgress:
    """The state in a file; that of a trainer that has not begun where there is none yet."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return TrainerProgress()
    document = json.loads(text)
    receipt = document.pop("receipt")
    return TrainerProgress(**document, receipt=Receipt(**receipt) if receipt else None)
