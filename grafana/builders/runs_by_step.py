"""The dashboard *Runs by step*: runs of different days laid over each other by training step.

It reads the class `steps`, whose time is the step in milliseconds, so a time range is a range
of steps: 1970-01-01T00:16:40Z is step 1,000,000. Asked in InfluxQL.
"""

from __future__ import annotations

from adapters.influx.influxql import select
from grafana.builders import nonfinite
from grafana.builders.dashboard import Json, Row, dashboard
from grafana.builders.influx import STEPS, rows, series, tag_values, variable
from grafana.builders.panel import STATE, repeated, table, time_series, trend
from schemas.tenants.keys import DEFAULT_NAMESPACE

_CALCS = ("min", "lastNotNull")

_EXPERIMENT = '"steps"."${experiment:raw}"'
_OF_RUNS = '"run" =~ /^$run$/'
_OF_EXPERIMENT = f'"experiment" =~ /^${{experiment:regex}}$/ AND {_OF_RUNS}'

_METRIC_BY_STEP = select(
    'mean("${metric:raw}")',
    _EXPERIMENT,
    _OF_RUNS,
    "$timeFilter",
    tail='GROUP BY time($__interval), "run" fill(none)',
)


def runs_by_step(namespace: str = DEFAULT_NAMESPACE) -> Json:
    """The dashboard for one namespace: the one that its data source names as database."""
    return dashboard(
        "stepclock-runs-by-step",
        "Runs by step",
        "Metrics of training runs over the training step. The time range is a range of steps: "
        "one second is 1,000 steps.",
        [
            Row(
                "Metrics by step",
                [
                    repeated(
                        trend(
                            "${metric:raw}",
                            "Mean of each run over the step. A resumed run is one curve.",
                            STEPS,
                            [series(_METRIC_BY_STEP, "$tag_run")],
                            calcs=_CALCS,
                        )
                        | {"interval": "1ms"},
                        "metric",
                    ),
                    repeated(
                        time_series(
                            "${metric:raw}, drag to zoom",
                            "The same on an axis that zooms. Its labels are a clock that began "
                            "with step 0: 00:00:12.345 is step 12,345.",
                            STEPS,
                            [series(_METRIC_BY_STEP, "$tag_run")],
                            calcs=_CALCS,
                        )
                        | {"interval": "1ms"},
                        "metric",
                    ),
                ],
                height=10,
            ),
            Row(
                "NaN and infinities",
                [
                    nonfinite.marks(
                        "Non-finite values by step",
                        "How many values were NaN or infinite, by run and metric.",
                        STEPS,
                        "steps",
                        _OF_EXPERIMENT,
                        "1ms",
                    ),
                    nonfinite.ends(
                        "Non-finite values, first and last step",
                        "Where it began. Within the chosen steps.",
                        STEPS,
                        "steps",
                        _OF_EXPERIMENT,
                        "$timeFilter",
                        by='"run", "metric", "kind"',
                    ),
                ],
            ),
            Row(
                "Runs",
                [
                    table(
                        "State",
                        "The newest state of each run, with its step and wall time: what it "
                        "reported, or silent and then lost, once it reports no more.",
                        STEPS,
                        [
                            rows(
                                select(
                                    'last("state") AS "state", "step"',
                                    '"events"."run_state"',
                                    _OF_EXPERIMENT,
                                    tail='GROUP BY "run"',
                                )
                            )
                        ],
                        overrides=[STATE],
                    ),
                    table(
                        "Resumable at",
                        "The newest checkpoint of each run: the step from which it can go on.",
                        STEPS,
                        [
                            rows(
                                select(
                                    'last("step") AS "step"',
                                    '"events"."checkpoint"',
                                    _OF_EXPERIMENT,
                                    tail='GROUP BY "run"',
                                )
                            )
                        ],
                    ),
                    table(
                        "Attempts",
                        "The steps of each attempt of a run; the first is 0 or has no number.",
                        STEPS,
                        [
                            rows(
                                select(
                                    'min("step") AS "from step", max("step") AS "to step"',
                                    _EXPERIMENT,
                                    _OF_RUNS,
                                    tail='GROUP BY "run", "attempt"',
                                )
                            )
                        ],
                        hidden=("Time",),
                    ),
                ],
            ),
        ],
        variables=[
            # The class steps also holds nonfinite, and perhaps a canary: no experiments.
            variable(
                "experiment",
                f'SHOW MEASUREMENTS ON "{namespace}"."steps"',
                STEPS,
                regex="/^(?!nonfinite$|_).*$/",
            ),
            variable(
                "run",
                tag_values("run", _EXPERIMENT, "step", "\"run\" != ''"),
                STEPS,
                multi=True,
                include_all=True,
            ),
            variable(
                "metric",
                f"SHOW FIELD KEYS FROM {_EXPERIMENT}",
                STEPS,
                regex="/^(?!step$).*$/",
                multi=True,
            ),
        ],
        time_from="1970-01-01T00:00:00.000Z",
        time_to="1970-01-01T00:16:40.000Z",
    )
