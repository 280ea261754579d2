"""Whose a folder of the spool is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from stepclock.identity import Identity


@dataclass(frozen=True)
class Stream:
    """Whose a stream is. start_ns: when it began, Unix time; endpoint: where it goes."""

    name: str
    start_ns: int
    experiment: str
    run: str
    rank: int
    attempt: int
    endpoint: str

    @classmethod
    def of(cls, name: str, start_ns: int, identity: Identity, endpoint: str) -> Stream:
        """The stream of a run."""
        return cls(
            name,
            start_ns,
            identity.experiment,
            identity.run,
            identity.rank,
            identity.attempt,
            endpoint,
        )

    @classmethod
    def read(cls, folder: Path) -> Stream:
        """What a folder says. Raises OSError, ValueError."""
        try:
            return cls(**json.loads((folder / "stream.json").read_text("utf-8")))
        except TypeError as exc:
            raise ValueError(f"{folder} holds no stream: {exc}") from exc

    def write(self, folder: Path) -> None:
        """Say whose the folder is. Raises OSError."""
        draft = folder / ".stream.json"
        draft.write_text(json.dumps(asdict(self)), "utf-8")
        draft.replace(folder / "stream.json")
