"""What may be written where, at this moment: retention classes and the times they admit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ingest.errors import BadRequest, Forbidden, NotFound
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.precision import Precision
from schemas.retention import Kind, RetentionClass, reserved_in
from schemas.tenants.keys import Tenant

_HOUR_NS = 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request wants its points. namespace: None means the key's own."""

    namespace: str | None
    class_name: str
    precision: Precision


class Stamper:
    """Times for lines that have none: strictly increasing ns within this process."""

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._last = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """The next time: the clock's, or one ns more than the last. Safe from any thread."""
        with self._lock:
            self._last = max(self._last + 1, self._now_ns())
            return self._last


class IngestClasses:
    """The retention classes that clients may write to. Safe from any thread."""

    def __init__(
        self, retention: Mapping[str, RetentionClass], now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._retention = retention
        self.now_ns = now_ns
        self.stamp = Stamper(now_ns)

    def check(self, tenant: Tenant, target: Target) -> None:
        """Raise Forbidden, NotFound or BadRequest for what the tenant may not write to."""
        if target.namespace is not None and target.namespace != tenant.namespace:
            raise Forbidden(
                f"the key belongs to namespace {tenant.namespace!r} and may not write to "
                f"{target.namespace[:80]!r}; leave the namespace out or use your own",
                reason="namespace",
                actor=f"tenant:{tenant.name}",
            )
        retention_class = self._retention.get(target.class_name)
        if retention_class is not None and retention_class.kind is Kind.INGEST:
            return
        ingest = sorted(c.name for c in self._retention.values() if c.kind is Kind.INGEST)
        name = target.class_name[:80]
        if retention_class is None:
            raise NotFound(
                f"retention class {name!r} does not exist; there are {', '.join(ingest)}"
            )
        raise BadRequest(
            f"class {name!r} is filled by Stepclock itself; write to {' or '.join(ingest)}"
        )

    def oldest_ns(self, class_name: str, now_ns: int) -> int | None:
        """The earliest time that a class keeps; None: it keeps all."""
        keep_s = self._retention[class_name].keep_s
        return None if keep_s is None else now_ns - keep_s * 10**9

    def rules(self, class_name: str) -> Rules:
        """What a class that exists admits now."""
        now_ns = self.now_ns()
        keep_s = self._retention[class_name].keep_s
        return Rules(
            oldest_ns=self.oldest_ns(class_name, now_ns),
            newest_ns=now_ns + _HOUR_NS,
            keep="forever" if keep_s is None else f"{keep_s // 86_400}d",
            reserved=reserved_in(class_name),
        )
