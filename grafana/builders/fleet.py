"""The dashboard *Fleet*: which runs there are, how each goes, what they take of the machines."""

from __future__ import annotations

from adapters.influx.influxql import select
from grafana.builders.dashboard import Json, Row, dashboard
from grafana.builders.influx import WALL, experiments, rows, series
from grafana.builders.panel import STATE, STATES, column, state_timeline, table, time_series
from schemas.tenants.keys import DEFAULT_NAMESPACE

_OF = '"experiment" =~ /^$experiment$/ AND "run" != \'\''
_STATE = '"events"."run_state"'
_GPU = '"system"."gpu"'


def fleet(namespace: str = DEFAULT_NAMESPACE) -> Json:
    """The dashboard for one namespace: the one that its data source names as database."""
    return dashboard(
        "stepclock-fleet",
        "Fleet",
        "All runs of the chosen experiments: their states, their pace, what they use.",
        [
            Row(
                "Runs",
                [
                    table(
                        "Newest state of each run",
                        "What it reported last, or silent and then lost once it reports no more. "
                        "Time is when it said so; a run that goes says it every 30 s.",
                        WALL,
                        [
                            rows(
                                select(
                                    'last("state") AS "state", "step", "reason"',
                                    _STATE,
                                    _OF,
                                    "$timeFilter",
                                    tail='GROUP BY "experiment", "run"',
                                )
                            )
                        ],
                        overrides=[
                            STATE,
                            column("run", links=[_link_to_run()]),
                            column("Time", unit="dateTimeFromNow"),
                        ],
                    ),
                    state_timeline(
                        "States over time",
                        "From the first sign of life to the last. A gap: nothing was reported.",
                        WALL,
                        [
                            series(
                                select(
                                    'last("state")',
                                    _STATE,
                                    _OF,
                                    "$timeFilter",
                                    tail='GROUP BY time($__interval), "run" fill(none)',
                                ),
                                "$tag_run",
                            )
                        ],
                        states=STATES,
                    ),
                ],
                height=12,
            ),
            Row(
                "Pace",
                [
                    time_series(
                        "Steps per second",
                        "How fast the largest step of each run grows. Half of what it was: a slow "
                        "node, a slow disk, a slow loader.",
                        WALL,
                        [
                            series(
                                select(
                                    'non_negative_derivative(max("step"), 1s)',
                                    '"raw"./^$experiment$/',
                                    "\"run\" != ''",
                                    "$timeFilter",
                                    tail='GROUP BY time($__interval), "run" fill(none)',
                                ),
                                "$m $tag_run",
                            )
                        ],
                        minimum=0,
                    )
                    | {"interval": "30s"},
                    time_series(
                        "CPU cores busy",
                        "Of each run's processes, summed over its hosts.",
                        WALL,
                        [series(_summed("cpu_cores_busy", '"system"."process"'), "$tag_run")],
                        minimum=0,
                    )
                    | {"interval": "30s"},
                ],
            ),
            Row(
                "GPUs",
                [
                    time_series(
                        "GPU utilisation",
                        "Mean over the GPUs that each run sees. It only says that some kernel ran; "
                        "look at the power as well.",
                        WALL,
                        [
                            series(
                                select(
                                    'mean("util_percent")',
                                    _GPU,
                                    _OF,
                                    "$timeFilter",
                                    tail='GROUP BY time($__interval), "run" fill(none)',
                                ),
                                "$tag_run",
                            )
                        ],
                        unit="percent",
                        minimum=0,
                    )
                    | {"interval": "30s"},
                    time_series(
                        "GPU power",
                        "Summed over the GPUs that each run sees.",
                        WALL,
                        [series(_summed("power_w", _GPU, '"host", "gpu"'), "$tag_run")],
                        unit="watt",
                        minimum=0,
                    )
                    | {"interval": "30s"},
                    table(
                        "GPU energy",
                        "In the chosen time, of all GPUs that a run sees, to the minute.",
                        WALL,
                        [
                            rows(
                                # Each minute's mean; `integral` in a query within a query gives
                                # InfluxDB 2.7 its groups in no order, and sums that come apart.
                                select(
                                    'sum("each") / 60000 AS "kWh"',
                                    _nested(
                                        'mean("power_w") AS "each"',
                                        _GPU,
                                        'GROUP BY time(1m), "experiment", "run", "host", "gpu" '
                                        "fill(none)",
                                    ),
                                    tail='GROUP BY "experiment", "run"',
                                )
                            )
                        ],
                        hidden=("Time",),
                    ),
                ],
            ),
        ],
        variables=[experiments(namespace, several=True)],
        time_from="now-24h",
        time_to="now",
        refresh="1m",
    )


def _summed(field: str, source: str, apart: str = '"host"') -> str:
    """A field's mean in each interval, summed over what is apart from each other, by run."""
    each = f'GROUP BY time($__interval), "run", {apart} fill(none)'
    return select(
        'sum("each")',
        _nested(f'mean("{field}") AS "each"', source, each),
        "$timeFilter",
        tail='GROUP BY time($__interval), "run" fill(none)',
    )


def _nested(what: str, source: str, tail: str) -> str:
    return f"({select(what, source, _OF, '$timeFilter', tail=tail)})"


def _link_to_run() -> Json:
    return {
        "title": "This run",
        "url": "/d/stepclock-run?var-experiment=${__data.fields.experiment}"
        "&var-run=${__data.fields.run}",
    }
