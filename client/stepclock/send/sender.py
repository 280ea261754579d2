"""The thread that sends: the run's own stream, those of its worker processes, and leftovers."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Callable

from stepclock.journal.tally import Totals
from stepclock.send.delivery import StreamDelivery
from stepclock.send.leftovers import Leftovers
from stepclock.send.transport import GatewayConnection
from stepclock.settings import Settings
from stepclock.spool.chunk import MAX_LINES
from stepclock.spool.segment import remove
from stepclock.spool.stream import Stream
from stepclock.spool.writer import SpoolWriter

_log = logging.getLogger("stepclock")

#: Seconds between two looks for streams of worker processes, and between two for receipts.
_LOOK_S = 1.0
_SETTLE_S = 5.0

_LONGEST_INTERVAL_S = 16.0


class Sender:
    """Sends until it is stopped. `turn` is one round; the thread does nothing else."""

    def __init__(
        self,
        stream: Stream,
        writer: SpoolWriter,
        settings: Settings,
        *,
        now: Callable[[], float] = time.monotonic,
        gateway: GatewayConnection | None = None,
    ) -> None:
        self._settings = settings
        self._writer = writer
        self._now = now
        self._gateway = gateway or GatewayConnection(
            settings.endpoint, settings.token, settings.ca_file
        )
        self._durable = settings.fsync > 0
        self._own = StreamDelivery(
            writer.folder,
            stream,
            self._gateway,
            writer.memory,
            acked=writer.acked,
            now=now,
            durable=self._durable,
        )
        self._deliveries = {stream.name: self._own}
        #: Of earlier starts of the run; they wait for all of the above.
        self.leftovers = Leftovers(
            stream, writer.folder.parent, self._gateway, now=now, durable=self._durable
        )
        self._children = False
        self._interval_s = settings.send_interval
        self._not_before = 0.0
        self._next_cut = 0.0
        self._next_look = 0.0
        self._next_settle = 0.0
        self._urgent_until = 0.0
        self._hurried = 0
        self._wake = threading.Event()
        self._changed = threading.Condition()
        self._stopped = False
        self._past = Totals()  # of streams that are done
        self.idle = False
        #: Seconds of CPU that the thread took, as of its last round.
        self.cpu_s = 0.0
        self.thread = threading.Thread(target=self._run, name="stepclock-sender", daemon=True)

    @property
    def totals(self) -> Totals:
        """Lines of all streams by what became of them."""
        total = Totals()
        for each in (self._past, *(d.journal.totals for d in list(self._deliveries.values()))):
            for name, value in vars(each).items():
                setattr(total, name, getattr(total, name) + value)
        return total

    @property
    def own_totals(self) -> Totals:
        """The same of the run's own stream."""
        return self._own.journal.totals

    @property
    def caught_up(self) -> bool:
        """Whether the gateway has answered for all that is in the run's own spool."""
        totals = self.own_totals
        return totals.acknowledged + totals.refused + totals.lost >= self._writer.lines

    @property
    def last_error(self) -> str:
        """What the gateway or the network last said against us."""
        return self._own.last_error or ""

    @property
    def limited(self) -> int:
        """Answers 429 so far."""
        return sum(each.limited for each in list(self._deliveries.values()))

    @property
    def recovered(self) -> int:
        """Lines that earlier starts of the run had left, taken from this one."""
        return self.leftovers.sent

    @property
    def retry_after_s(self) -> float:
        """How long the gateway last said to wait; 0 once it takes more."""
        return self._own.retry_after_s

    def expect_children(self) -> None:
        """Look for streams of worker processes from now on."""
        self._children = True

    def hurry(self, within_s: float) -> None:
        """Send and settle without waiting for more, for so long."""
        self._hurried += 1
        self._urgent_until = self._now() + within_s
        self._next_look = self._next_settle = 0.0
        self.leftovers.hurry()
        self.idle = False
        self._wake.set()

    def calm(self) -> None:
        """No hurry any more."""
        self._urgent_until = 0.0

    def rush(self, within_s: float) -> None:
        """The same from a signal handler: no lock is taken, the next round notices."""
        self._urgent_until = self._now() + within_s

    def wait_until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Whether the condition comes true in time; looked at after each round."""
        with self._changed:
            return self._changed.wait_for(condition, within_s)

    def stop(self) -> None:
        """End the thread after its request."""
        self._stopped = True
        self._wake.set()

    def relock(self) -> None:
        """Hold the lock of the run's own folder, where it was made anew. Raises OSError."""
        self._own.journal.relock()
        self._wake.set()  # its journal is to be written again

    def abandon(self) -> None:
        """In a forked child: let go of what belongs to the parent."""
        self._gateway.abandon()
        for each in self._deliveries.values():
            each.journal.close()
        self.leftovers.close()

    def turn(self) -> float:
        """Send what is due; seconds until the next round."""
        now = self._now()
        hurried, left_s = self._hurried, self._urgent_until - now
        urgent = left_s > 0
        if self._children and now >= self._next_look:
            self._next_look = now + _LOOK_S
            self._find_children()
        try:
            self._own.journal.renew()
        except OSError as exc:
            self._own.journal.fault = exc
        if now < self._not_before:
            return self._not_before - now
        waiting = False
        due = now >= self._next_cut
        if due:  # what comes during the requests of this round is not due with it
            self._next_cut = now + self._interval_s
        for delivery in list(self._deliveries.values()):
            journal = delivery.journal
            full = delivery is self._own and self._writer.lines - journal.totals.cut >= MAX_LINES
            if not (journal.pending or journal.more or urgent or full or due):
                continue
            limited = delivery.limited
            wait_s = delivery.send_one()
            if wait_s is None:
                continue
            waiting = True
            if wait_s > 0:
                self._not_before = self._now() + wait_s
                if delivery.limited > limited:
                    self._interval_s = min(_LONGEST_INTERVAL_S, 2 * self._interval_s)
                    self.leftovers.slow_down()
                return min(wait_s, _LOOK_S)
            self._interval_s = max(self._settings.send_interval, 0.8 * self._interval_s)
        if waiting:
            self.idle = False
            return 0.0
        wait_s = self._settle(now, left_s)
        settled = not any(each.journal.unsettled for each in self._deliveries.values())
        if settled or not urgent:
            wait_s = min(wait_s, self.leftovers.turn(urgent=urgent))
        # Only a round that looked everywhere since it was asked can tell that nothing is left.
        self.idle = urgent and hurried == self._hurried and settled and self.leftovers.done
        return min(wait_s, 0.05) if urgent and not self.idle else wait_s

    def _settle(self, now: float, left_s: float) -> float:
        urgent = left_s > 0
        if urgent or now >= self._next_settle:
            self._next_settle = now + _SETTLE_S
            for delivery in list(self._deliveries.values()):
                if delivery.journal.unsettled and not self._stopped:
                    wait_s = max(0.0, min(2.0, left_s))
                    if delivery.settle(wait_s) and delivery.journal.unsettled:
                        self._next_settle = 0.0
                        return 0.0
                elif delivery is not self._own and delivery.journal.finished():
                    self._forget(delivery)
        return max(0.01, min(self._next_cut - now, _LOOK_S))

    def _find_children(self) -> None:
        prefix = f"{self._own.stream.name}.w"
        spool = self._writer.folder.parent
        try:
            names = [name for name in os.listdir(spool) if name.startswith(prefix)]
        except OSError:
            return
        for name in names:
            if name in self._deliveries:
                continue
            folder = spool / name
            try:
                stream = Stream.read(folder)
                self._deliveries[name] = StreamDelivery(
                    folder,
                    stream,
                    self._gateway,
                    now=self._now,
                    durable=self._durable,
                )
            except (OSError, ValueError):  # not whole yet, or sent by another
                continue

    def _forget(self, delivery: StreamDelivery) -> None:
        for name, value in vars(delivery.journal.totals).items():
            setattr(self._past, name, getattr(self._past, name) + value)
        del self._deliveries[delivery.stream.name]
        delivery.journal.close()
        remove(delivery.folder)

    def _run(self) -> None:
        while not self._stopped:
            try:
                wait_s = self.turn()
            except Exception:
                _log.exception("stepclock: sending failed, it is tried again")
                wait_s = 5.0
            self.cpu_s = time.thread_time()
            with self._changed:
                self._changed.notify_all()
            if wait_s > 0:
                self._wake.wait(wait_s)
                self._wake.clear()
        self._gateway.close()
        self.leftovers.close()
        for each in self._deliveries.values():
            each.journal.close()
