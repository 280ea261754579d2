"""How many points a batch may hold, by the time that the store takes for an answer."""

from __future__ import annotations

#: The points' part of an answer is too long above this many times the target. Not above 2:
#: a step at most doubles a size, so that it never jumps over the band.
_SLOW = 2.0

#: Growing pays while the fixed part of an answer is more than this share of it ...
_WORTH_GROWING = 1 / 4
#: ... and batches larger than the first size pay no more below this one.
_WORTH_NOTHING = 1 / 16

#: Every so many full batches one is of half the size, to tell the fixed part from the points'.
_PROBE_EVERY = 10
#: Sizes of two batches that tell them apart: the smaller one is at most this share.
_PAIR = 0.6
#: Weight of a new estimate of the fixed part: single answers vary.
_WEIGHT = 0.3

#: Full batches for which a size that was too large is not tried again.
_PATIENCE = 100


class BatchSize:
    """Additive increase, multiplicative decrease of the size of batches; no clock.

    A write of n points takes about a + b·n, so that larger batches always give more points/s,
    but less and less more, while others wait longer and a bad line is harder to find. So the
    size grows while a is a good part of the answer (the store is far away) and b·n is below
    target_s, stays in a band behind that, and is halved when b·n is above twice the target,
    when the store does not answer, or finds a write too large. Where a is next to nothing it
    falls back to start by quarters. Only full batches count: those of an idle worker say
    nothing about larger ones. What is learned of a comes from a probe, every tenth or so.

    It begins at start, never exceeds most, nor falls below a fifth of start.
    """

    def __init__(self, start: int, most: int, *, target_s: float) -> None:
        self._start = start
        self._least = self._step = max(1, start // 5)
        self._most = max(start, most)
        self._target_s = target_s
        #: What batches may hold, probes aside.
        self.size = start
        #: Estimate of a in seconds; None before the first pair of sizes.
        self._fixed_s: float | None = None
        self._last: tuple[int, float] | None = None
        #: The size that was too large, and for how many batches it is remembered.
        self._too_large = self._most + 1
        self._patience = 0
        self._until_probe = 1

    @property
    def points(self) -> int:
        """What the next batch may hold."""
        return max(self._least, self.size // 2) if self._until_probe == 0 else self.size

    def answered(self, points: int, seconds: float) -> None:
        """A full batch of so many points was stored; its slowest write took so many seconds."""
        self._learn(points, seconds)
        probe = self._until_probe == 0
        self._until_probe = _PROBE_EVERY if probe else self._until_probe - 1
        self._patience -= 1
        fixed_s = min(self._fixed_s or 0.0, seconds)
        own_s = seconds - fixed_s
        if own_s > _SLOW * self._target_s:
            self._shrink(points)
        elif probe:
            pass  # it tells about the fixed part, not about this size
        elif fixed_s > _WORTH_GROWING * seconds and own_s < self._target_s:
            self._grow(self._most)
        elif self.size < self._start and own_s < self._target_s:
            self._grow(self._start)
        elif fixed_s < _WORTH_NOTHING * seconds and self._until_probe == _PROBE_EVERY - 1:
            self.size = min(self.size, max(self._start, self.size * 3 // 4))

    def failed(self, points: int) -> None:
        """The store did not answer for a full batch of so many points, or found it too large.

        Repeating it with the same batch changes nothing more.
        """
        self._last = None
        self._shrink(points)

    def _learn(self, points: int, seconds: float) -> None:
        """Take a pair of a large batch and a small one behind it as an estimate of a."""
        last, self._last = self._last, (points, seconds)
        if last is None or points > _PAIR * last[0]:
            return
        each_s = max(0.0, (last[1] - seconds) / (last[0] - points))
        found_s = max(0.0, seconds - points * each_s)
        known_s = found_s if self._fixed_s is None else self._fixed_s
        self._fixed_s = known_s + _WEIGHT * (found_s - known_s)

    def _grow(self, most: int) -> None:
        size = min(most, self.size + self._step)
        if size < self._too_large or self._patience <= 0:
            self.size = max(self.size, size)

    def _shrink(self, points: int) -> None:
        size = max(self._least, points // 2)
        if size < self.size:
            self.size = size
            self._too_large, self._patience = points * 9 // 10, _PATIENCE
