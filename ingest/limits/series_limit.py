"""The limit on new series: a step or a uuid in a tag must not kill the database.

A series is new if this gateway has not seen it in this hour nor in the hour before. What was
seen is kept as 64-bit hashes, of a bounded number in all and for each tenant. docs/adr/0006
says why the limit answers 429, what happens after a restart, and what replicas do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from ingest.limits.dry_run import DryRun
from ingest.limits.token_bucket import Limit, TokenBucket
from schemas.admission.admission import Part
from schemas.line_protocol.series import MEASUREMENT, distinct_series, tags_of
from schemas.tenants.keys import Tenant
from telemetry import metrics

_log = logging.getLogger("stepclock.gateway")

_HOUR_S = 3600
_HOUR_NS = _HOUR_S * 10**9

# New series of one request whose tags are looked at, and values of one tenant that are counted,
# to name the tag that grows.
_LOOKED_AT = 1000
_MAX_VALUES = 20_000

# One tenant may fill this part of the memory.
_SHARE = 4

#: The series of a request by their hashes.
Series = Mapping[int, bytes]


class Mode(StrEnum):
    """What becomes of a request with more new series than its tenant may bring."""

    OFF = "off"  # nobody looks
    OBSERVE = "observe"  # it is taken, counted and logged
    ENFORCE = "enforce"  # 429


@dataclass(frozen=True, slots=True)
class SeriesRefusal:
    """New series over the limit: what the 429 says. grown: what grows, in words."""

    retry_after_s: float
    per_hour: int
    new: int
    grown: str


class _TenantSeries:
    """What one tenant has sent: hashes of this hour, and of the last one those not seen since."""

    __slots__ = ("bucket", "hour", "older", "recent", "told", "values", "values_of")

    def __init__(self, hour: int, bucket: TokenBucket) -> None:
        self.hour = hour
        self.bucket = bucket
        self.recent: set[int] = set()
        self.older: set[int] = set()
        # Distinct values in the new series of this hour: hashes of (key, value); how many by key.
        self.values: set[int] = set()
        self.values_of: dict[bytes, int] = {}
        self.told = False

    def __len__(self) -> int:
        return len(self.recent) + len(self.older) + len(self.values)

    def turn_to(self, hour: int) -> None:
        """Begin another hour: what was not seen in the last one is forgotten."""
        self.older = self.recent if hour == self.hour + 1 else set()
        self.recent, self.values, self.values_of = set(), set(), {}
        self.hour, self.told = hour, False

    def unseen(self, series: Series) -> set[int]:
        """Those of the hashes that are new. Known ones are seen again."""
        if self.recent.issuperset(series):
            return set()
        unseen = {found for found in series if found not in self.recent}
        if self.older:
            again = unseen & self.older
            self.older -= again
            self.recent |= again
            unseen -= again
        return unseen


class SeriesLimiter:
    """Counts the new series of all tenants. Belongs to one event loop; `of` to any thread.

    For learn_s after the start everything looks new: it is remembered and not counted. At
    most max_known hashes are kept, a quarter of them of one tenant; what finds no room counts
    as new each time it comes.
    """

    def __init__(
        self,
        mode: Mode,
        per_hour: int,
        dry_run: DryRun,
        *,
        replicas: int = 1,
        max_known: int = 1_000_000,
        learn_s: float = 900.0,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._mode = mode
        self._per_hour = per_hour
        self._dry_run = dry_run
        self._replicas = replicas
        self._max_known = max_known
        self._now_ns = now_ns
        self._learned_at_ns = now_ns() + int(learn_s * 1e9)
        self._tenants: dict[str, _TenantSeries] = {}
        self._held = 0

    def of(self, parts: Iterable[Part]) -> Series:
        """The series of what was admitted, to give to `charge`. Nothing while the mode is off."""
        if self._mode is Mode.OFF:
            return {}
        return {
            hash(series): series
            for part in parts
            for series in distinct_series(part.lines, part.points, multiline=part.multiline)
        }

    def charge(self, tenant: Tenant, series: Series) -> SeriesRefusal | None:
        """Count the new ones among the series of a request and remember them.

        A refusal means that nothing was counted or remembered, and the request is not taken.
        More new series than the limit are taken at once by a tenant that brought none for an
        hour, and leave it in debt. Known series are never refused.
        """
        if not series:
            return None
        now_ns = self._now_ns()
        hour = now_ns // _HOUR_NS
        known = self._tenants.get(tenant.name)
        if known is None:
            bucket = TokenBucket(self._limit(tenant), now_ns)
            known = self._tenants[tenant.name] = _TenantSeries(hour, bucket)
        elif known.hour != hour:
            self._held -= len(known)
            known.turn_to(hour)
            self._held += len(known)
        unseen = known.unseen(series)
        if not unseen:
            return None
        if now_ns < self._learned_at_ns:
            self._remember(known, unseen)
            return None
        limit = self._limit(tenant)
        if known.bucket.limit != limit:
            known.bucket.change_limit(limit, now_ns)
        wait_s = known.bucket.charge(len(unseen) * _HOUR_S, now_ns)
        self._count_values(known, (series[new] for new in islice(unseen, _LOOKED_AT)))
        if not wait_s:
            self._remember(known, unseen)
            metrics.NEW_SERIES.labels(metrics.tenant_label(tenant.name), "taken").inc(len(unseen))
            return None
        refusal = SeriesRefusal(wait_s, limit.rate, len(unseen), _grown(known.values_of))
        refuses = self._mode is Mode.ENFORCE and not self._dry_run.covers(tenant)
        outcome = "refused" if refuses else "over"
        metrics.NEW_SERIES.labels(metrics.tenant_label(tenant.name), outcome).inc(len(unseen))
        if not known.told:
            known.told = True
            _log.warning(
                "tenant %s brings more than %d new series an hour, the limit (%s): %s",
                tenant.name,
                limit.rate,
                "refused" if refuses else "only observed",
                refusal.grown,
            )
        if refuses:
            return refusal
        self._remember(known, unseen)
        return None

    def forget_idle(self) -> int:
        """Forget tenants of whom nothing is known any more; how many hashes are left."""
        hour = self._now_ns() // _HOUR_NS
        # Its bucket is full again as well: it fills within the hour, unless in debt.
        idle = [
            name
            for name, known in self._tenants.items()
            if known.hour < hour - 1 and known.bucket.full_at_ns() <= self._now_ns()
        ]
        for name in idle:
            self._held -= len(self._tenants.pop(name))
        return self._held

    def _limit(self, tenant: Tenant) -> Limit:
        """The limit in a bucket's terms, where a series costs as much as an hour has seconds."""
        per_hour = max(1, (tenant.series_per_hour or self._per_hour) // self._replicas)
        return Limit(per_hour, per_hour * _HOUR_S)

    def _remember(self, known: _TenantSeries, unseen: set[int]) -> None:
        room = self._room(known)
        if len(unseen) > room:
            unseen = set(islice(unseen, room))
        known.recent |= unseen
        self._held += len(unseen)

    def _count_values(self, known: _TenantSeries, series: Iterable[bytes]) -> None:
        before = len(known.values)
        room = min(self._room(known), _MAX_VALUES - before)
        for each in series:
            for key, value in tags_of(each):
                found = hash((key, value))
                if found not in known.values and len(known.values) - before < room:
                    known.values.add(found)
                    known.values_of[key] = known.values_of.get(key, 0) + 1
        self._held += len(known.values) - before

    def _room(self, known: _TenantSeries) -> int:
        return max(0, min(self._max_known - self._held, self._max_known // _SHARE - len(known)))


def _grown(values_of: Mapping[bytes, int]) -> str:
    """The tag with the most values this hour, in words; of very many, as many as were counted."""
    key, count = max(values_of.items(), key=lambda item: item[1], default=(MEASUREMENT, 0))
    if key == MEASUREMENT:
        return f"the experiment has {count:,} names this hour"
    return f"tag {key[:80].decode('utf-8', 'replace')} has {count:,} values this hour"
