"""What stops a worker. Each message says what to do; a restart goes on from what is committed."""

from __future__ import annotations

import logging

from schemas.log.protocols import OffsetsLost, Source
from telemetry.metrics import LOST_OFFSETS

_log = logging.getLogger("stepclock.consumer")


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


def end_of_loss(loss: OffsetsLost, source: Source, *, accept: bool) -> ConsumerStopped:
    """Count the loss; how the worker ends. Accepted: the log's start is committed before.

    Raises LogUnavailable if that commit is not taken.
    """
    records = sum(max(0, start - committed) for committed, start in loss.lost.values())
    LOST_OFFSETS.inc(records)
    if not accept:
        return RecordsLost(str(loss), records)
    source.commit({partition: start for partition, (_, start) in loss.lost.items()})
    _log.error("going on from the log's start, as told: %s", loss)
    return LossAccepted(str(loss))
