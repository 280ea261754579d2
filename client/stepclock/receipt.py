"""What became of everything that a run logged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Receipt:
    """The account of a run, in lines: one line is one step, or one thing told beside.

    logged: calls of `log` (rows of `log_many`). lines: what they and the run's own lines made.
    stored: lines of which the store says that it holds them. The others, exactly:
    refused: by the gateway, kept in `folder` with reasons. dead: by the store, kept there as
    dead letters. dropped: given up where memory and disk were full, or damaged there. unsent:
    still in `folder`, for `stepclock sync`. unsettled: durable in the server's log, not seen in
    the store in time.
    rows_dropped: calls of `log` that were given up before they became lines. ignored: values
    that were no numbers. recovered: lines beside all these, which earlier starts of the run had
    left in the spool and the gateway took from this one.
    """

    run: str
    logged: int = 0
    lines: int = 0
    stored: int = 0
    refused: int = 0
    dead: int = 0
    dropped: int = 0
    unsent: int = 0
    unsettled: int = 0
    rows_dropped: int = 0
    ignored: int = 0
    recovered: int = 0
    folder: str = ""
    state: str = "finished"

    @property
    def ok(self) -> bool:
        """Whether all that was logged is stored."""
        return self.lines == self.stored and not self.rows_dropped

    @property
    def missing(self) -> dict[str, int]:
        """What is not stored, by where it is; empty if all is."""
        named = {
            "refused": self.refused,
            "dead": self.dead,
            "dropped": self.dropped,
            "unsent": self.unsent,
            "unsettled": self.unsettled,
            "rows_dropped": self.rows_dropped,
        }
        return {name: count for name, count in named.items() if count}

    def __str__(self) -> str:
        told = f"{self.run}: {self.logged} logged, {self.stored} of {self.lines} lines stored"
        if self.missing:
            told += "".join(f", {count} {name}" for name, count in self.missing.items())
        if self.ignored:
            told += f", {self.ignored} values left out"
        if self.recovered:
            told += f"; {self.recovered} lines of earlier starts recovered"
        return told


@dataclass(frozen=True)
class Stats:
    """A run at this moment. Counts are since its start; lines unless said otherwise.

    logged, queued, rows_dropped: rows. ignored: values left out. requests: tries, repeated ones
    included; limited: those that were answered 429. retry_after_s: how long the gateway last
    said to wait, 0 once it took more. recovered: as in the receipt. cpu_s: seconds of CPU that
    the client's threads took, beside the calls themselves.
    """

    logged: int = 0
    queued: int = 0
    spooled: int = 0
    acknowledged: int = 0
    stored: int = 0
    refused: int = 0
    dropped: int = 0
    rows_dropped: int = 0
    ignored: int = 0
    requests: int = 0
    limited: int = 0
    recovered: int = 0
    retry_after_s: float = 0.0
    cpu_s: float = 0.0
    last_error: str = ""
