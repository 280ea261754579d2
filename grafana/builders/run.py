"""The dashboard *Run*: one run by wall time, with all that it told of itself."""

from __future__ import annotations

from adapters.influx.influxql import select
from grafana.builders import nonfinite
from grafana.builders.dashboard import Json, Row, dashboard
from grafana.builders.influx import (
    WALL,
    annotation,
    experiments,
    rows,
    series,
    tag_values,
    variable,
)
from grafana.builders.panel import STATE, STATES, repeated, state_timeline, table, time_series
from schemas.tenants.keys import DEFAULT_NAMESPACE

_EXPERIMENT = '"raw"."${experiment:raw}"'
_OF_RUN = '"run" =~ /^${run:regex}$/'
_OF = f'"experiment" =~ /^${{experiment:regex}}$/ AND {_OF_RUN}'
_EACH = "time($__interval)"


def run(namespace: str = DEFAULT_NAMESPACE) -> Json:
    """The dashboard for one namespace: the one that its data source names as database."""
    return dashboard(
        "stepclock-run",
        "Run",
        "One run over wall time: its metrics, its attempts, its machines, its configuration.",
        [
            Row(
                "Metrics",
                [
                    repeated(
                        time_series(
                            "${metric:raw}",
                            "Mean, least and greatest value over ranks, by attempt. What a resumed "
                            "run did twice is there twice.",
                            WALL,
                            [
                                series(
                                    select(
                                        f'{function}("${{metric:raw}}")',
                                        _EXPERIMENT,
                                        _OF_RUN,
                                        "$timeFilter",
                                        tail=f'GROUP BY {_EACH}, "attempt" fill(none)',
                                    ),
                                    f"{function}, attempt $tag_attempt",
                                )
                                for function in ("mean", "min", "max")
                            ],
                        ),
                        "metric",
                    )
                ],
                height=10,
            ),
            Row(
                "How it goes",
                [
                    state_timeline(
                        "State",
                        "As the run told it, and the janitor where it told nothing.",
                        WALL,
                        [
                            series(
                                select(
                                    'last("state")',
                                    '"events"."run_state"',
                                    _OF,
                                    "$timeFilter",
                                    tail=f'GROUP BY {_EACH}, "attempt" fill(none)',
                                ),
                                "attempt $tag_attempt",
                            )
                        ],
                        states=STATES,
                    ),
                    time_series(
                        "Steps per second",
                        "How fast the largest step grows, by attempt.",
                        WALL,
                        [
                            series(
                                select(
                                    'non_negative_derivative(max("step"), 1s)',
                                    _EXPERIMENT,
                                    _OF_RUN,
                                    "$timeFilter",
                                    tail=f'GROUP BY {_EACH}, "attempt" fill(none)',
                                ),
                                "attempt $tag_attempt",
                            )
                        ],
                        minimum=0,
                    )
                    | {"interval": "10s"},
                    table(
                        "Attempts",
                        "The newest state of each, its last step, and why it ended.",
                        WALL,
                        [
                            rows(
                                select(
                                    'last("state") AS "state", "step", "reason"',
                                    '"events"."run_state"',
                                    _OF,
                                    tail='GROUP BY "attempt"',
                                )
                            )
                        ],
                        overrides=[STATE],
                    ),
                ],
            ),
            Row(
                "Where it runs",
                [
                    time_series(
                        "CPU cores busy",
                        "Of the run's processes, by host.",
                        WALL,
                        [_by_host("cpu_cores_busy", '"system"."process"')],
                        minimum=0,
                    )
                    | {"interval": "15s"},
                    time_series(
                        "Memory",
                        "Resident memory of the run's processes, by host. Growing step by step: "
                        "something is kept that should go.",
                        WALL,
                        [_by_host("rss_bytes", '"system"."process"')],
                        unit="bytes",
                        minimum=0,
                    )
                    | {"interval": "15s"},
                    time_series(
                        "GPU utilisation",
                        "By host and GPU. One below the others holds them all back.",
                        WALL,
                        [
                            series(
                                select(
                                    'mean("util_percent")',
                                    '"system"."gpu"',
                                    _OF,
                                    "$timeFilter",
                                    tail=f'GROUP BY {_EACH}, "host", "gpu" fill(none)',
                                ),
                                "$tag_host $tag_gpu",
                            )
                        ],
                        unit="percent",
                        minimum=0,
                    )
                    | {"interval": "15s"},
                ],
            ),
            Row(
                "What it is",
                [
                    table(
                        "Configuration",
                        "Hyperparameters, host, scheduler and git commit, as they were told last.",
                        WALL,
                        [
                            rows(
                                select(
                                    'last("value") AS "value"',
                                    '"events"."run_config"',
                                    _OF,
                                    tail='GROUP BY "key"',
                                )
                            )
                        ],
                        hidden=("Time",),
                    ),
                    table(
                        "What happened",
                        "Events that the job told of, in the chosen time.",
                        WALL,
                        [
                            rows(
                                select(
                                    '"text", "step"',
                                    '"events"."event"',
                                    _OF,
                                    "$timeFilter",
                                    tail='GROUP BY "name"',
                                )
                            )
                        ],
                    ),
                    nonfinite.ends(
                        "Non-finite values",
                        "How many values were NaN or infinite, and at which steps. Of all time.",
                        WALL,
                        "events",
                        _OF,
                        by='"metric", "kind"',
                    ),
                ],
                height=10,
            ),
        ],
        variables=[
            experiments(namespace, several=False),
            variable("run", tag_values("run", _EXPERIMENT, "step", "\"run\" != ''"), WALL),
            variable(
                "metric",
                f"SHOW FIELD KEYS FROM {_EXPERIMENT}",
                WALL,
                regex="/^(?!step$).*$/",
                multi=True,
            ),
        ],
        annotations=[
            annotation(
                "Checkpoints",
                select('"step"', '"events"."checkpoint"', _OF, "$timeFilter"),
                "step",
                "blue",
            ),
            annotation(
                "Events",
                select('"text"', '"events"."event"', _OF, "$timeFilter"),
                "text",
                "purple",
            ),
        ],
        time_from="now-24h",
        time_to="now",
        refresh="30s",
    )


def _by_host(field: str, source: str) -> Json:
    tail = f'GROUP BY {_EACH}, "host" fill(none)'
    return series(select(f'mean("{field}")', source, _OF, "$timeFilter", tail=tail), "$tag_host")
