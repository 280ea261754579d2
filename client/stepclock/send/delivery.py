"""Sends what one stream holds, in order, and follows what the gateway answers.

204 taken · 400 the lines it names are set aside, the others are taken · 413 the half of it ·
429 when it says · 401, 403, 404 it is for a person to mend: told once a minute, kept · all
else: the same bytes again, later and later.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable

from stepclock.journal.body import Body
from stepclock.journal.journal import Journal
from stepclock.send.transport import Answer, GatewayConnection
from stepclock.spool.chunk import MAX_BYTES, MAX_LINES
from stepclock.spool.stream import Stream

_log = logging.getLogger("stepclock")

_FIRST_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 60.0
_TELL_AGAIN_S = 60.0
_READ_AGAIN_S = 1.0

_MORE = "'stepclock doctor' says more"

#: Receipts that are asked for in one request, and how long the gateway may wait for them.
_RECEIPTS = 32


class StreamDelivery:
    """One stream on its way: its journal, and the next request."""

    def __init__(
        self,
        folder: Path,
        stream: Stream,
        gateway: GatewayConnection,
        memory: dict[int, bytes] | None = None,
        *,
        acked: dict[int, int] | None = None,
        now: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] | None = None,
        durable: bool = False,
    ) -> None:
        """Raises OSError if another process sends this stream.

        durable: what a number means is on the disk before it is sent.
        """
        self.stream = stream
        self.folder = folder
        self.journal = Journal(folder, memory)
        self.last_error: str | None = None
        self.limited = 0
        self.retry_after_s = 0.0
        self._acked = acked
        self._durable = durable
        self._gateway = gateway
        self._now = now
        self._jitter = jitter or _chance
        self._max_lines = MAX_LINES
        self._missed: int | None = None
        self._failures = 0
        self._told: dict[str, float] = {}

    def send_one(self) -> float | None:
        """Send the next request, if any: seconds to wait before the next one; None for nothing."""
        journal = self.journal
        lost = journal.totals.lost
        try:
            if not journal.pending and not journal.cut(self._max_lines, MAX_BYTES):
                self._tell_lost(lost)
                return None
            body = journal.pending[0]
            lines = journal.read(body)
        except OSError as exc:
            self.last_error = f"the spool can't be read: {exc}"
            self._tell("unread", self.last_error)
            return _READ_AGAIN_S
        if self._missed != body.sequence and journal.is_gone(body):
            # A folder that was removed under the job is about to be made anew by it.
            self._missed = body.sequence
            return _READ_AGAIN_S
        if len(lines) < body.lines:
            journal.lose(body, len(lines))
            body = body.with_only(len(lines))
        self._tell_lost(lost)
        if not lines:
            return 0.0
        if self._durable:
            self._force_journal()
        journal.totals.requests += 1
        answer = self._post(body, lines)
        return self._follow(body, lines, answer)

    def settle(self, wait_s: float) -> bool:
        """Ask for the oldest receipts; whether the store has them all. Waits up to wait_s."""
        unsettled = self.journal.unsettled
        sequences = list(unsettled)[:_RECEIPTS]
        if not sequences:
            return True
        receipt = _joined([unsettled[sequence][0] for sequence in sequences])
        path = f"/api/v1/receipts/{receipt}?wait_s={max(0.0, wait_s):.1f}"
        answer = self._gateway.get(path, wait_s + 5.0)
        try:
            verdict = json.loads(answer.body) if answer.status == 200 else {}
            settled, stored = verdict.get("settled"), verdict.get("stored")
            dead = _dead_lines(verdict.get("rejected", ()))
        except (ValueError, AttributeError, TypeError, KeyError):
            settled, stored, dead = False, None, 0
        if answer.status != 200:
            self.last_error = f"{answer.status or 'no answer'}: {answer.text}"
        if not settled:
            return False
        if stored is None:  # so long ago that the dead letters of then are forgotten
            self.journal.forget(sequences)
            return True
        if dead:
            self._tell("dead", f"the store refused {dead} lines; dead letters keep them")
        self.journal.settle(sequences, dead)
        return True

    def _force_journal(self) -> None:
        from stepclock.spool.durable import force

        try:
            force(self.folder / "journal.jsonl")
            force(self.folder)
        except OSError as exc:
            self._tell("fsync", f"the journal can't be forced to the disk: {exc}")

    def _post(self, body: Body, lines: list[bytes]) -> Answer:
        data = b"\n".join(lines)
        headers = {
            "Content-Type": b"text/plain; charset=utf-8",
            "Stepclock-Stream": self.stream.name.encode(),
            "Stepclock-Sequence": b"%d" % body.sequence,
            "Stepclock-Experiment": self.stream.experiment.encode(),
            "Stepclock-Run": self.stream.run.encode(),
        }
        if self.journal.trusted:  # without it what is sent is no part of the ledger
            headers["Stepclock-Start"] = b"%d" % self.stream.start_ns
        if len(data) > 1000:
            import gzip

            data = gzip.compress(data, 1, mtime=0)
            headers["Content-Encoding"] = b"gzip"
        return self._gateway.post(f"/api/v2/write?bucket={body.class_name}", data, headers)

    def _follow(self, body: Body, lines: list[bytes], answer: Answer) -> float:
        """What an answer means; seconds to wait."""
        status = answer.status
        if 200 <= status < 300:
            self._taken(body, 0, answer)
            return 0.0
        if status == 400:
            self._set_aside(body, lines, answer)
            return 0.0
        if status == 413:
            if body.lines == 1:
                self._set_aside(body, lines, answer)
            else:
                self._max_lines = max(1, min(self._max_lines, body.lines) // 2)
                self.journal.split(body)
            return 0.0
        self._failures += 1
        if status == 429:
            self.limited += 1
            wait_s = answer.retry_after_s or 1.0
            self.retry_after_s = wait_s
            return wait_s * (1 + 0.25 * self._jitter())
        self.last_error = f"{status or 'no answer'}: {answer.text}"
        backoff_s = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 12))
        backoff_s *= 0.5 + 0.5 * self._jitter()
        if status in (401, 403, 404, 405) or 300 <= status < 400:
            self._tell(
                str(status),
                f"the gateway at {self._gateway.endpoint} does not take this run's metrics; they "
                f"are kept in {self.folder}: {self.last_error}; {_MORE}",
            )
            return max(1.0, backoff_s)
        self._tell(
            "away",
            f"the gateway at {self._gateway.endpoint} can't be reached, the metrics are kept in "
            f"{self.folder} meanwhile: {self.last_error}; {_MORE}",
        )
        return max(backoff_s, (answer.retry_after_s or 0.0) * (1 + 0.25 * self._jitter()))

    def _taken(self, body: Body, refused: int, answer: Answer) -> None:
        self._failures = 0
        self.retry_after_s = 0.0
        if self._acked is not None:
            self._acked[body.segment] = self._acked.get(body.segment, 0) + body.lines
        self.journal.acknowledge(body, refused, answer.headers.get("stepclock-receipt"))

    def _set_aside(self, body: Body, lines: list[bytes], answer: Answer) -> None:
        """Keep the lines that were refused, each with its reason, beside the spool."""
        reasons = _reasons(answer, len(lines))
        path = self.folder / "refused.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                for index, reason in reasons.items():
                    entry = {
                        "sequence": body.sequence,
                        "class": body.class_name,
                        "line": lines[index].decode("utf-8", "replace"),
                        "reason": reason,
                    }
                    file.write(json.dumps(entry) + "\n")
        except OSError as exc:
            self._tell("aside", f"refused lines can't be kept: {exc}")
        first = next(iter(reasons.values()))
        self.last_error = f"{len(reasons)} lines refused: {first}"
        self._tell("refused", f"{len(reasons)} lines were refused, see {path}: {first}")
        self._taken(body, len(reasons), answer)

    def _tell_lost(self, before: int) -> None:
        missing = self.journal.totals.lost - before
        if missing:
            self._tell("lost", f"{missing} lines are not in the spool any more, or damaged there")

    def _tell(self, about: str, message: str) -> None:
        """Warn, once a minute about the same."""
        now = self._now()
        if now - self._told.get(about, -_TELL_AGAIN_S) >= _TELL_AGAIN_S:
            self._told[about] = now
            _log.warning("stepclock: %s", message)


def _chance() -> float:
    import random  # dear to import, and seldom needed

    return random.random()  # noqa: S311 -- so that not all clients come back at once


def _reasons(answer: Answer, lines: int) -> dict[int, str]:
    """The refused lines by index, with what the gateway says of each; all, if it names none."""
    try:
        document: Any = json.loads(answer.body)
        named = {
            int(each["line"]) - 1: str(each["reason"])
            for each in document["rejected"]
            if 0 < int(each["line"]) <= lines
        }
        if named:
            return named
    except (ValueError, KeyError, TypeError):
        pass
    return dict.fromkeys(range(lines), f"{answer.status}: {answer.text}")


def _joined(receipts: Iterable[str]) -> str:
    """One receipt of the blocks of several; they are all of the first one's version."""
    version = ""
    blocks: dict[str, None] = {}
    for receipt in receipts:
        its_version, _, rest = receipt.partition(".")
        if version and its_version != version:
            break
        version = its_version
        blocks.update(dict.fromkeys(rest.split(".")))
    return ".".join([version, *blocks])


def _dead_lines(rejected: Iterable[Any]) -> int:
    """Lines that some view lacks: the same ones may be dead in both."""
    by_view: dict[str, int] = {}
    for each in rejected:
        by_view[each["view"]] = by_view.get(each["view"], 0) + int(each["lines"])
    return max(by_view.values(), default=0)
