"""How much was simulated in this session, for the line at its end."""

from __future__ import annotations

from collections import Counter

SIMULATED: Counter[str] = Counter()
