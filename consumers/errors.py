"""What stops a worker. Each message says what to do; a restart goes on from what is committed."""

from __future__ import annotations


class ConsumerStopped(Exception):
    """Root of the named ends of a worker; the process exits with 1 and is started again."""


class DeadLettersUnwritable(ConsumerStopped):
    """Refused lines could not be kept, so nothing may be committed past them."""


class RecordsLost(ConsumerStopped):
    """Retention deleted records before they were read, and nobody said to accept that."""

    def __init__(self, what: str, records: int) -> None:
        super().__init__(
            f"{what}. {records} records can't be read any more. "
            "To go on from what is left, start once with STEPCLOCK_ACCEPT_LOSS=true; "
            "to lose nothing next time, add workers or keep the topic longer"
        )


class LossAccepted(ConsumerStopped):
    """The loss is counted and committed away: open the source anew and go on."""
