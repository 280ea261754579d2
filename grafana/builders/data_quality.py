"""The dashboard *Data quality*: whether what runs sent is stored, and what was odd in it."""

from __future__ import annotations

from adapters.influx.influxql import select
from grafana.builders import nonfinite
from grafana.builders.dashboard import Json, Row, dashboard
from grafana.builders.influx import WALL, experiments, rows
from grafana.builders.panel import table, time_series
from grafana.builders.prometheus import PROMETHEUS, per_s
from schemas.tenants.keys import DEFAULT_NAMESPACE

_OF = '"experiment" =~ /^$experiment$/'


def data_quality(namespace: str = DEFAULT_NAMESPACE) -> Json:
    """The dashboard for one namespace: the one that its data source names as database."""
    return dashboard(
        "stepclock-data-quality",
        "Data quality",
        "What runs delivered against what is stored, and what in it is no ordinary number.",
        [
            Row(
                "Delivered and stored",
                [
                    table(
                        "Deliveries",
                        "Lines that runs with the SDK delivered into each class, written by the "
                        "workers once they were stored. dead: lines that the store refused, kept "
                        "as dead letters. Of all time; `stepclock-server ledger` compares each "
                        "with the rows themselves.",
                        WALL,
                        [
                            rows(
                                select(
                                    'sum("points") AS "lines", sum("dead") AS "dead", '
                                    'count("points") AS "deliveries"',
                                    '"events"."delivery"',
                                    _OF,
                                    tail='GROUP BY "experiment", "run", "topic"',
                                )
                            )
                        ],
                        hidden=("Time",),
                    ),
                    table(
                        "Points that are stored",
                        "Of class raw, in the chosen time. Calls of one step are one point.",
                        WALL,
                        [
                            rows(
                                select(
                                    'count("step") AS "points", min("step") AS "first step", '
                                    'max("step") AS "last step"',
                                    '"raw"./^$experiment$/',
                                    "\"run\" != ''",
                                    "$timeFilter",
                                    tail='GROUP BY "run"',
                                )
                            )
                        ],
                        hidden=("Time",),
                    ),
                ],
                height=10,
            ),
            Row(
                "NaN and infinities",
                [
                    nonfinite.marks(
                        "Non-finite values",
                        "By run, metric and kind, when they came.",
                        WALL,
                        "events",
                        _OF,
                        "10s",
                    ),
                    nonfinite.ends(
                        "Where they began",
                        "First and last step, and rank, of each metric. In the chosen time.",
                        WALL,
                        "events",
                        _OF,
                        "$timeFilter",
                        by='"experiment", "run", "metric", "kind", "rank"',
                    ),
                ],
            ),
            Row(
                "Refused, of all tenants",
                [
                    _rates(
                        "Points that were not taken",
                        "refused: bad lines, named to the client. limited: 429. unavailable: 503. "
                        "Clients send the last two again.",
                        "stepclock_gateway_points_total",
                        "outcome",
                        "tenant",
                        of='{outcome!="accepted"}',
                    ),
                    _rates(
                        "Dead letters",
                        "Lines that the gateway took and the store refused, kept with the reason.",
                        "stepclock_consumer_dead_letters_total",
                        "reason",
                        "tenant",
                    ),
                    _rates(
                        "New series",
                        "Growing without end: a tag holds what changes each time.",
                        "stepclock_gateway_new_series_total",
                        "tenant",
                        "outcome",
                    ),
                ],
            ),
        ],
        variables=[experiments(namespace, several=True)],
        time_from="now-24h",
        time_to="now",
        refresh="1m",
    )


def _rates(title: str, description: str, counter: str, *by: str, of: str = "") -> Json:
    return time_series(title, description, PROMETHEUS, [per_s(counter, *by, of=of)], minimum=0)
