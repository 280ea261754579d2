"""What to do when retention deleted records before they were read."""

from __future__ import annotations

import logging

from consumers.errors import ConsumerStopped, LossAccepted, RecordsLost
from schemas.log.protocols import OffsetsLost, Source
from telemetry.metrics import LOST_OFFSETS

_log = logging.getLogger("stepclock.consumer")


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
