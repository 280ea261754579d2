"""What the workers see of the gateways' canaries: when the last one was stored, how late."""

from __future__ import annotations

from schemas.canary import TENANT
from telemetry.metrics import CANARY_SECONDS, CANARY_SENT


def is_canary(tenant: str) -> bool:
    """Whether a block is one of ours: no client's point, whatever becomes of it."""
    return tenant == TENANT


class CanaryWatch:
    """The newest canary that one worker has stored. Written by its thread, read by any."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None

    def stored(self, sent_ns: int, now_ns: int) -> None:
        """Note one that every view has."""
        latency_s = max(0.0, (now_ns - sent_ns) / 1e9)
        CANARY_SECONDS.observe(latency_s)
        if self._last is None or sent_ns > self._last[0]:
            self._last = (sent_ns, latency_s)
            CANARY_SENT.set(sent_ns / 1e9)

    def described(self, now_ns: int) -> str:
        """Age and latency of the newest one, for people."""
        if self._last is None:
            return "none stored by this worker yet"
        sent_ns, latency_s = self._last
        return f"sent {max(0, now_ns - sent_ns) / 1e9:.1f} s ago, stored within {latency_s:.2f} s"
