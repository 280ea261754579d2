"""Rollups: a derived class whose points sum up those of an ingest class, window by window."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SECONDS = {"m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"([1-9][0-9]{0,4})([mhd])")


@dataclass(frozen=True, slots=True)
class Rollup:
    """How a class is filled by a task in the database; all spans are whole minutes in seconds."""

    #: The class whose points are summed up.
    source: str
    #: One point of each series for each window; windows begin at multiples of this since 1970.
    window_s: int
    #: How often the task runs.
    every_s: int
    #: How long after the end of a window it runs.
    delay_s: int
    #: How far back each run computes windows again.
    look_back_s: int

    @property
    def reach_s(self) -> int:
        """How old the oldest point can be that a run reads."""
        return self.look_back_s + self.delay_s + self.window_s


def parse(table: object) -> Rollup:
    """The rollup of a class's table in retention.toml. Raises ValueError.

    Reach and rhythm of the task are multiples of the window, so that a run sees each window
    whole or not at all.
    """
    expected = ("from", "window", "every", "delay", "look_back")
    if not isinstance(table, Mapping):
        raise ValueError(f"is not a table with {', '.join(expected)}")
    for key in (*table, *expected):
        if key not in expected:
            raise ValueError(f"unknown key {key!r}")
        if key not in table:
            raise ValueError(f"{key} is missing")
        if not isinstance(table[key], str):
            raise ValueError(f"{key} must be a string")
    window_s, every_s, delay_s, look_back_s = (_span(key, table[key]) for key in expected[1:])
    for key, span_s in (("every", every_s), ("look_back", look_back_s)):
        if span_s % window_s:
            raise ValueError(f"{key} must be a multiple of window, so that no window is cut")
    if look_back_s < every_s:
        raise ValueError("look_back must not be shorter than every, or windows would be left out")
    return Rollup(table["from"], window_s, every_s, delay_s, look_back_s)


def _span(key: str, text: str) -> int:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ValueError(f'{key}: {text!r} is no span; write "5m", "1h" or "1d"')
    return int(match[1]) * _SECONDS[match[2]]
