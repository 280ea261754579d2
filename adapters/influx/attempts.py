"""Attempts of runs in InfluxDB: which there are, what they said last, deleting their steps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from adapters.influx import influxql
from adapters.influx.connection import InfluxConnection
from adapters.influx.errors import translated
from adapters.influx.influxql_answers import attempt_states, attempt_steps, time_ns
from adapters.influx.reader import InfluxReader
from schemas import canary
from schemas.retention import EVENTS_CLASS, STEP_CLASS
from schemas.store.attempts import AttemptState, AttemptSteps, StaleSteps
from schemas.store.protocols import LinesRefused, StoreMisconfigured

#: After every step that there can be.
_END = "2262-01-01T00:00:00Z"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class InfluxAttempts:
    """Implements `schemas.store.attempts.AttemptStore`. The token needs read and write.

    A namespace that has no buckets has no attempts. timeout_s bounds each request.
    """

    def __init__(self, at: InfluxConnection, *, timeout_s: float = 30.0) -> None:
        self._reader = InfluxReader(at, timeout_s=timeout_s)
        self._client = at.client(timeout_s)
        self._org = at.org

    def attempt_steps(self, namespace: str) -> list[AttemptSteps]:
        """Both ends of each attempt: the server reads no more than the ends of its series."""
        source = f"{influxql.identifier(STEP_CLASS)}./.*/"
        of_attempts = ("\"run\" != ''", "\"attempt\" != ''", influxql.within(None, None))
        by_attempt = 'GROUP BY "experiment", "run", "attempt"'
        first, last = self._reader.tables(
            namespace,
            [STEP_CLASS],
            influxql.select('first("step")', source, *of_attempts, tail=by_attempt),
            influxql.select('last("step")', source, *of_attempts, tail=by_attempt),
        )
        return attempt_steps(first, last)

    def attempt_states(self, namespace: str, since_ns: int) -> list[AttemptState]:
        """The newest line of each series, with what else stands in it."""
        (tables,) = self._reader.tables(namespace, [EVENTS_CLASS], influxql.newest_states(since_ns))
        return attempt_states(tables)

    def canary_ns(self, retention_class: str) -> int | None:
        """The time of the newest one; what workers write beside them has another field."""
        (tables,) = self._reader.tables(
            canary.NAMESPACE,
            [retention_class],
            influxql.select(
                'last("gateway")',
                influxql.measurement(retention_class, canary.MEASUREMENT.decode()),
                influxql.within(None, None),
            ),
        )
        return time_ns(tables[0]) if tables else None

    def delete_steps(self, namespace: str, stale: StaleSteps) -> None:
        """One deletion. It takes the server time even where it finds nothing: look before."""
        body = {
            "start": _time_of(stale.from_step),
            "stop": _END,
            "predicate": _predicate(stale),
        }
        try:
            with translated():
                self._client.api_client.call_api(
                    "/api/v2/delete",
                    "POST",
                    query_params=[("org", self._org), ("bucket", f"{namespace}/{STEP_CLASS}")],
                    body=body,
                )
        except LinesRefused as exc:
            raise StoreMisconfigured(str(exc)) from exc

    def ping(self) -> None:
        """Return if the server answers this token. Raises StoreUnavailable."""
        self._reader.ping()

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._reader.close()
        self._client.close()


def _predicate(stale: StaleSteps) -> str:
    """The condition of a deletion. Never empty, which would delete all: a StaleSteps has names."""
    tags = {"_measurement": stale.measurement, "run": stale.run, "attempt": stale.attempt}
    if stale.measurement != stale.experiment:
        tags["experiment"] = stale.experiment
    return " AND ".join(f"{key}={influxql.identifier(value)}" for key, value in tags.items())


def _time_of(step: int) -> str:
    """The time of a step in class steps, as the server reads it."""
    at = _EPOCH + timedelta(milliseconds=step)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"
