"""From what a job logged to lines: nested names, numbers of any library, one line a step."""

from __future__ import annotations

import logging
import math
import operator
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Callable

from stepclock.identity import Identity
from stepclock.record.lines import clean, escape, event_prefix, run_prefix, split_fields
from stepclock.record.scalars import number

_log = logging.getLogger("stepclock")

#: Largest step that the server takes: as milliseconds it is the largest time there.
MAX_STEP = 9_200_000_000_000

#: Longest name of a metric in characters, and how many names one run may have.
MAX_NAME_LENGTH = 250
MAX_NAMES = 10_000

#: Joins the names of nested mappings: {"train": {"loss": 1}} is the metric train/loss.
SEPARATOR = "/"

# Steps whose time is remembered, so that a later log of the same step is the same point.
_REMEMBERED_STEPS = 16_384

# A time that is earlier than the last one by less than this is moved behind it; by more, the
# clock was set, and is followed.
_CLOCK_SET_NS = 60 * 10**9


_are_floats = frozenset({float}).issuperset


class InvalidRow(Exception):
    """A row or value that can't be stored; says why."""


def problems(values: Mapping[str, Any], step: Any) -> None:
    """Raise InvalidRow for a row that would be left out, wholly or in part; for strict runs."""
    found: list[str] = []
    encoder = RowEncoder(
        Identity("x", "x", 0, 0), {}, lambda name, why: found.append(f"{name!r}: {why}")
    )
    encoder.add(0, step, values, exact=True)
    list(encoder.take())
    if found:
        raise InvalidRow("; ".join(found))


class RowEncoder:
    """Collects rows, those of one step into one, and makes lines of them.

    report(name, reason) is called for what can't be stored, once for each name. Not for
    several threads.
    """

    def __init__(
        self,
        identity: Identity,
        tags: Mapping[str, str],
        report: Callable[[str, str], None],
    ) -> None:
        self._prefix = run_prefix(identity, tags) + " "
        self._nonfinite = (identity, dict(tags))
        self._report = report
        #: Values that were left out of their rows so far, for whatever reason.
        self.ignored = 0
        #: Rows that made no line: their step can't be, or a value can't even be named.
        self.failed = 0
        #: Smallest and largest step so far; None before the first.
        self.first_step: int | None = None
        self.last_step: int | None = None
        self._next_step = 0
        self._rows: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
        self._times: dict[int, int] = {}
        self._remembered: deque[int] = deque()  # the first of a dict is dear once many are gone
        self._last_time = 0
        # name -> the name and = as they stand in a line; None for one that is left out
        self._names: dict[str, str | None] = {}
        self._taken: set[str] = set()
        self._reported: set[str] = set()

    def add(self, time_ns: int, step: Any, values: Mapping[str, Any], *, exact: bool) -> bool:
        """Take one row; False for one whose step can't be. exact: the time is the caller's."""
        try:
            number_of_step = self._step(step)
        except InvalidRow as exc:
            reason = str(exc)
            self._tell("step", reason, about=reason.partition(",")[0])
            self.failed += 1
            return False
        if not exact:
            time_ns = self._time_of(number_of_step, time_ns)
        self._rows.setdefault((number_of_step, time_ns), []).append(values)
        return True

    def take(self) -> Iterator[tuple[list[str], list[str]]]:
        """For each collected step its lines of class raw, and of class events."""
        rows, self._rows = self._rows, {}
        for (step, time_ns), logged in rows.items():
            try:
                lines = self._lines(step, time_ns, logged)
            except Exception as exc:
                # An object that can't even be named costs its row only.
                self.failed += len(logged)
                self._tell("", f"a row of step {step} is lost: {exc!r}")
            else:
                yield lines

    def _lines(
        self, step: int, time_ns: int, logged: list[Mapping[str, Any]]
    ) -> tuple[list[str], list[str]]:
        odd: list[tuple[str, float]] = []
        fields = self._plain_fields(logged[0]) if len(logged) == 1 else None
        if fields is None:
            fields = self._fields(logged, odd)
        tail = f"step={step}i {time_ns}"
        if not fields:
            return [self._prefix + tail], self._odd_lines(odd, tail)
        lines = [f"{self._prefix}{part},{tail}" for part in split_fields(fields)]
        return lines, self._odd_lines(odd, tail) if odd else []

    def _plain_fields(self, values: Mapping[str, Any]) -> list[str] | None:
        """The fields of finite floats under known names, as nearly all rows are; else None."""
        # Of a value that is not finite the sum is not either.
        if not _are_floats(map(type, values.values())) or not math.isfinite(sum(values.values())):
            return None
        names: Mapping[str, Any] = self._names
        try:
            return [names[name] + repr(value) for name, value in values.items()]
        except (KeyError, TypeError):  # a new name, or one that is left out
            return None

    def _fields(self, logged: list[Mapping[str, Any]], odd: list[tuple[str, float]]) -> list[str]:
        """The fields of any rows; `odd` gets the values that are not finite."""
        found: dict[str, float] = {}
        for values in logged:
            self._collect("", values, found)
        fields: list[str] = []
        names = self._names
        for name, value in found.items():
            try:
                key = names[name]
            except KeyError:
                key = self._learn(name)
            if key is None:
                self.ignored += 1
            elif value - value == 0.0:  # finite
                fields.append(key + repr(value))
            else:
                odd.append((name, value))
        return fields

    def _collect(self, path: str, values: Mapping[Any, Any], found: dict[str, float]) -> None:
        """The numbers by their whole names; of one name the last."""
        for name, value in values.items():
            if path or type(name) is not str:
                name = f"{path}{name}"
            if type(value) is float:
                found[name] = value
            elif isinstance(value, Mapping):
                self._collect(f"{name}{SEPARATOR}", value, found)
            else:
                try:
                    found[name] = number(value)
                except (TypeError, ValueError, OverflowError) as exc:
                    self.ignored += 1
                    self._tell(name, str(exc))

    def _odd_lines(self, odd: list[tuple[str, float]], tail: str) -> list[str]:
        identity, tags = self._nonfinite
        lines = []
        for name, value in odd:
            kind = "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
            about = {**tags, "metric": name, "kind": kind}
            lines.append(f"{event_prefix('nonfinite', identity, about)} count=1,{tail}")
        return lines

    def _learn(self, name: str) -> str | None:
        """How a new name stands in a line; None, once told, if it can't."""
        key: str | None = None
        cleaned = clean(name)
        if not cleaned:
            self._tell(name, "the name is empty")
        elif len(name) > MAX_NAME_LENGTH:
            self._tell(name[:80], f"the name is longer than {MAX_NAME_LENGTH} characters")
        elif cleaned in {"step", "time"}:
            self._tell(name, "a metric can't be called so: rename it, or log with step=")
        elif cleaned in self._taken:
            self._tell(name, f"another metric is stored as {cleaned!r} already")
        elif len(self._taken) >= MAX_NAMES:
            # Not remembered: names without end would fill the memory.
            self._tell("", f"a run has at most {MAX_NAMES} names; {name!r} and later are left out")
            return None
        else:
            self._taken.add(cleaned)
            key = escape(cleaned) + "="
        if len(self._names) < 2 * MAX_NAMES:
            self._names[name] = key
        return key

    def _step(self, step: Any) -> int:
        if step is None:
            step = self._next_step  # the one behind the largest so far
        else:
            try:
                step = operator.index(step)
            except TypeError:
                try:
                    as_number = number(step)
                    step = int(as_number)
                    whole = step == as_number
                except (TypeError, ValueError, OverflowError):
                    whole = False
                if not whole:
                    raise InvalidRow(f"a step is a whole number, not {step!r:.80}") from None
        if not 0 <= step <= MAX_STEP:
            raise InvalidRow(f"a step is between 0 and {MAX_STEP}, not {step}")
        if self.last_step is None or self.first_step is None:
            self.first_step = self.last_step = step
        elif step > self.last_step:
            self.last_step = step
        elif step < self.first_step:
            self.first_step = step
        self._next_step = max(self._next_step, step + 1)
        return int(step)

    def _time_of(self, step: int, logged_ns: int) -> int:
        """The time of a step: that of its first log, or one that no other step has."""
        known = self._times.get(step)
        if known is not None:
            return known
        time_ns = logged_ns
        if self._last_time - _CLOCK_SET_NS < time_ns <= self._last_time:
            time_ns = self._last_time + 1
        self._last_time = time_ns
        if len(self._remembered) >= _REMEMBERED_STEPS:
            del self._times[self._remembered.popleft()]
        self._remembered.append(step)
        self._times[step] = time_ns
        return time_ns

    def _tell(self, name: str, reason: str, *, about: str = "") -> None:
        """Report it once for each name, or for what it is about."""
        about = about or name
        if about not in self._reported and len(self._reported) < 2 * MAX_NAMES:
            self._reported.add(about)
            self._report(name, reason)
