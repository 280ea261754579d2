"""What a trainer tells about itself: a small file, replaced as a whole a few times a second."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Progress:
    """One trainer's state. steps is the number of steps trained; loss and accuracy may be NaN."""

    steps: int = 0
    loss: float = float("nan")
    accuracy: float = float("nan")
    accepted: int = 0
    rejected: int = 0
    limited: int = 0
    limited_s: float = 0.0
    retried: int = 0
    last_fault: str | None = None
    done: bool = False
    problem: str | None = None

    def write(self, path: Path) -> None:
        """Replace the file, such that a reader sees the old state or the new one."""
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(asdict(self)), "utf-8")
        unfinished.replace(path)


def read(path: Path) -> Progress:
    """The state in a file; that of a trainer that has not begun where there is none yet."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return Progress()
    return Progress(**json.loads(text))
