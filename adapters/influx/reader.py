"""Reading from InfluxDB with InfluxQL: experiments, runs, downsampled series, points.

The answers of ``/query`` differ from those of the rest of the API: an error of a statement
arrives within a 200, and numbers don't say whether they are integer or float.
Reference: https://docs.influxdata.com/influxdb/v2/api-guide/influxdb-1x/query/
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import urllib3

from adapters.influx import influxql
from adapters.influx.connection import InfluxConnection
from adapters.influx.errors import store_error, translated
from adapters.influx.influxql_answers import (
    Table,
    attempt_states,
    field_types,
    results_of,
    run_series,
    step_by_run,
    stored_points,
    time_by_run,
    time_ns,
)
from schemas.line_protocol.precision import Precision
from schemas.retention import DEFAULT_CLASS, EVENTS_CLASS, STEP_CLASS, is_reserved
from schemas.store.protocols import (
    Clock,
    RunSeries,
    RunSummary,
    SeriesQuery,
    StoredPoint,
    StoreError,
    StoreUnavailable,
)
from schemas.store.run_state import asked_since_ns, with_states
from schemas.store.windows import cut

#: Connections that are kept; more threads than these open their own for a while.
_KEPT_CONNECTIONS = 8

#: Types of fields of which a mean can be taken.
_NUMERIC = frozenset({"float", "integer", "unsigned"})


class InfluxReader:
    """Answers the read routes from InfluxDB 2 (a `schemas.store.protocols.StoreReader`).

    A namespace or class that has no bucket reads as empty. timeout_s bounds connecting and
    each wait for bytes. Safe to call from several threads.
    """

    def __init__(self, at: InfluxConnection, *, timeout_s: float = 30.0) -> None:
        self._url = f"{at.url.rstrip('/')}/query"
        self._org = at.org
        self._pool = urllib3.PoolManager(
            maxsize=_KEPT_CONNECTIONS,
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s),
            retries=False,
            ca_certs=None if at.ca_file is None else str(at.ca_file),
            # Not Bearer: /query answers that with 401.
            headers={"Authorization": f"Token {at.token}"},
        )

    def ping(self) -> None:
        """Return if the server answers this token. Raises StoreUnavailable."""
        self.tables("", (), "SHOW DATABASES")

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._pool.clear()

    def experiments(self, namespace: str) -> list[str]:
        """Measurements of class raw, sorted; reserved names left out."""
        (tables,) = self.tables(
            namespace, [DEFAULT_CLASS], influxql.show_measurements(namespace, DEFAULT_CLASS)
        )
        names = [row[0] for table in tables for row in table["values"]]
        return sorted(name for name in names if not is_reserved(name))

    def runs(self, namespace: str, experiment: str) -> list[RunSummary]:
        """Runs sorted by name.

        The last time is that of class raw. First and last step are read from class steps,
        whose order they are the ends of; over raw the server would read every point. States are
        asked for once it is known how old the runs are.
        """
        raw = influxql.measurement(DEFAULT_CLASS, experiment)
        steps = influxql.measurement(STEP_CLASS, experiment)
        any_run, by_run = influxql.of_runs(()), 'GROUP BY "run"'
        latest, first, last = self.tables(
            namespace,
            [DEFAULT_CLASS, STEP_CLASS],
            influxql.select("*::field", raw, any_run, tail=f"{by_run} ORDER BY time DESC LIMIT 1"),
            influxql.select('first("step")', steps, any_run, tail=by_run),
            influxql.select('last("step")', steps, any_run, tail=by_run),
        )
        first_step, last_step = step_by_run(first), step_by_run(last)
        summaries = [
            RunSummary(run, first_step.get(run), last_step.get(run), last_ns)
            for run, last_ns in time_by_run(latest).items()
        ]
        if not summaries:
            return []
        (said,) = self.tables(
            namespace,
            [EVENTS_CLASS],
            influxql.newest_states(asked_since_ns(summaries), experiment),
        )
        summaries.sort(key=lambda summary: summary.run)
        return with_states(summaries, experiment, attempt_states(said))

    def metrics(self, namespace: str, experiment: str, clock: Clock) -> list[str]:
        """Numeric fields of an experiment, sorted, without `step`."""
        retention_class = STEP_CLASS if clock is Clock.STEP else DEFAULT_CLASS
        (keys,) = self.tables(
            namespace,
            [retention_class],
            influxql.show_field_keys(namespace, retention_class, experiment),
        )
        types = field_types(keys)
        return sorted(name for name in types if types[name] in _NUMERIC and name != "step")

    def series(self, query: SeriesQuery) -> list[RunSeries]:
        """The series, downsampled by the server. Fields that hold no numbers have none."""
        steps = query.clock is Clock.STEP
        retention_class = STEP_CLASS if steps else DEFAULT_CLASS
        unit_ns = Precision.MS.ns if steps else Precision.NS.ns
        source = influxql.measurement(retention_class, query.experiment)
        metric = influxql.identifier(query.metric)
        runs = influxql.of_runs(query.runs)
        given = influxql.within(_scaled(query.start, unit_ns), _scaled(query.end, unit_ns))
        keys, first, last = self.tables(
            query.namespace,
            [retention_class],
            influxql.show_field_keys(query.namespace, retention_class, query.experiment),
            influxql.select(f"first({metric})", source, given, runs),
            influxql.select(f"last({metric})", source, given, runs),
        )
        if field_types(keys).get(query.metric) not in _NUMERIC or not first or not last:
            return []
        buckets = cut(
            query,
            time_ns(first[0]) // unit_ns,
            time_ns(last[0]) // unit_ns,
        )
        if buckets is None:
            return []
        start_ns, end_ns = buckets.start * unit_ns, buckets.end * unit_ns
        (tables,) = self.tables(
            query.namespace,
            [retention_class],
            influxql.select(
                f"mean({metric}), min({metric}), max({metric}), count({metric})",
                source,
                influxql.within(start_ns, end_ns),
                runs,
                tail=influxql.group_by(buckets.width * unit_ns, start_ns),
            ),
        )
        return sorted((run_series(table, unit_ns) for table in tables), key=lambda s: s.run)

    def points(
        self, namespace: str, retention_class: str, experiment: str, run: str | None = None
    ) -> Iterator[StoredPoint]:
        """Every point, by series and ascending time, streamed as the server sends it."""
        (keys,) = self.tables(
            namespace,
            [retention_class],
            influxql.show_field_keys(namespace, retention_class, experiment),
        )
        types = field_types(keys)
        if not types:
            return
        source = influxql.measurement(retention_class, experiment)
        of_run = [] if run is None else [influxql.of_runs([run])]
        wanted = influxql.select("*::field", source, *of_run, tail="GROUP BY *")
        with self._answer(namespace, wanted, chunked="true") as response:
            for line in response:
                for result in results_of(line):
                    if "error" in result:
                        raise StoreUnavailable(f"InfluxDB broke off: {result['error']}")
                    for table in result.get("series", ()):
                        yield from stored_points(table, types)

    def tables(
        self, namespace: str, classes: Collection[str], *statements: str
    ) -> list[list[Table]]:
        """The tables of each statement; none for one about a class that has no bucket.

        classes: those that the statements name.
        """
        with self._answer(namespace, "; ".join(statements)) as response:
            results = results_of(response.data)
        for result in results:
            if "error" in result and self._has_buckets(namespace, classes):
                raise StoreUnavailable(f"InfluxDB refused a query: {result['error']}")
        tables = [result.get("series", []) for result in results]
        # The server does not go on after a statement that failed.
        return tables + [[] for _ in range(len(statements) - len(tables))]

    def _has_buckets(self, namespace: str, classes: Collection[str]) -> bool:
        policies = f"SHOW RETENTION POLICIES ON {influxql.identifier(namespace)}"
        with self._answer(namespace, policies) as response:
            (result,) = results_of(response.data)
        found = {row[0] for table in result.get("series", ()) for row in table.get("values", ())}
        return found.issuperset(classes)

    @contextmanager
    def _answer(
        self, namespace: str, q: str, *, chunked: str = "false"
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer to a query, open for reading; chunked: one JSON object a line."""
        fields = {"db": namespace, "q": q, "epoch": "ns", "org": self._org, "chunked": chunked}
        try:
            with translated():
                response = self._pool.request(
                    "POST", self._url, fields=fields, encode_multipart=False, preload_content=False
                )
                try:
                    if response.status != 200:
                        retry_after = response.headers.get("Retry-After")
                        raise store_error(response.status, response.data, retry_after)
                    yield response
                finally:
                    # A stream that its reader left is cut: what is unread would take long.
                    response.close()
                    response.release_conn()
        except StoreUnavailable:
            raise
        except StoreError as exc:
            # Whoever reads can only wait for us to mend the token or the query.
            raise StoreUnavailable(f"a query failed: {exc}") from exc


def _scaled(t: int | None, unit_ns: int) -> int | None:
    return None if t is None else t * unit_ns
