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
_BY_ATTEMPT = f'GROUP BY {_EACH}, "attempt" fill(none)'

_STATE = '"events"."run_state"'
_PROCESS = '"system"."process"'


def run(namespace: str = DEFAULT_NAMESPACE) -> Json:
    """The dashboard for one namespace: the one that its data source names as database."""
    return dashboard(
        "stepclock-run",
        "Run",
        "One run over wall time: its metrics, its attempts, its machines, its configuration.",
        [
            Row("Metrics", [_metric()], height=10),
            Row("How it goes", [_states(), _pace(), _attempts()]),
            Row("Where it runs", [_cpu(), _memory(), _gpus()]),
            Row("What it is", [_configuration(), _events(), _nonfinite()], height=10),
        ],
        variables=_variables(namespace),
        annotations=[
            _annotation("Checkpoints", "checkpoint", "step", "blue"),
            _annotation("Events", "event", "text", "purple"),
        ],
        time_from="now-24h",
        time_to="now",
        refresh="30s",
    )


def _metric() -> Json:
    panel = time_series(
        "${metric:raw}",
        "Mean, least and greatest value over ranks, by attempt. What a resumed "
        "run did twice is there twice.",
        WALL,
        [
            _by_attempt(f'{function}("${{metric:raw}}")', f"{function}, attempt $tag_attempt")
            for function in ("mean", "min", "max")
        ],
    )
    return repeated(panel, "metric")


def _states() -> Json:
    states = select('last("state")', _STATE, _OF, "$timeFilter", tail=_BY_ATTEMPT)
    return state_timeline(
        "State",
        "As the run told it, and the janitor where it told nothing.",
        WALL,
        [series(states, "attempt $tag_attempt")],
        states=STATES,
    )


def _pace() -> Json:
    growth = 'non_negative_derivative(max("step"), 1s)'
    panel = time_series(
        "Steps per second",
        "How fast the largest step grows, by attempt.",
        WALL,
        [_by_attempt(growth, "attempt $tag_attempt")],
        minimum=0,
    )
    return panel | {"interval": "10s"}


def _attempts() -> Json:
    newest = 'last("state") AS "state", "step", "reason"'
    return table(
        "Attempts",
        "The newest state of each, its last step, and why it ended.",
        WALL,
        [rows(select(newest, _STATE, _OF, tail='GROUP BY "attempt"'))],
        overrides=[STATE],
    )


def _cpu() -> Json:
    panel = time_series(
        "CPU cores busy",
        "Of the run's processes, by host.",
        WALL,
        [_mean("cpu_cores_busy", _PROCESS, "host")],
        minimum=0,
    )
    return panel | {"interval": "15s"}


def _memory() -> Json:
    panel = time_series(
        "Memory",
        "Resident memory of the run's processes, by host. Growing step by step: "
        "something is kept that should go.",
        WALL,
        [_mean("rss_bytes", _PROCESS, "host")],
        unit="bytes",
        minimum=0,
    )
    return panel | {"interval": "15s"}


def _gpus() -> Json:
    panel = time_series(
        "GPU utilisation",
        "By host and GPU. One below the others holds them all back.",
        WALL,
        [_mean("util_percent", '"system"."gpu"', "host", "gpu")],
        unit="percent",
        minimum=0,
    )
    return panel | {"interval": "15s"}


def _configuration() -> Json:
    newest = select('last("value") AS "value"', '"events"."run_config"', _OF, tail='GROUP BY "key"')
    return table(
        "Configuration",
        "Hyperparameters, host, scheduler and git commit, as they were told last.",
        WALL,
        [rows(newest)],
        hidden=("Time",),
    )


def _events() -> Json:
    told = select('"text", "step"', '"events"."event"', _OF, "$timeFilter", tail='GROUP BY "name"')
    return table(
        "What happened", "Events that the job told of, in the chosen time.", WALL, [rows(told)]
    )


def _nonfinite() -> Json:
    return nonfinite.ends(
        "Non-finite values",
        "How many values were NaN or infinite, and at which steps. Of all time.",
        WALL,
        "events",
        _OF,
        by='"metric", "kind"',
    )


def _variables(namespace: str) -> list[Json]:
    return [
        experiments(namespace, several=False),
        variable("run", tag_values("run", _EXPERIMENT, "step", "\"run\" != ''"), WALL),
        variable(
            "metric",
            f"SHOW FIELD KEYS FROM {_EXPERIMENT}",
            WALL,
            regex="/^(?!step$).*$/",
            multi=True,
        ),
    ]


def _annotation(name: str, measurement: str, field: str, color: str) -> Json:
    happened = select(f'"{field}"', f'"events"."{measurement}"', _OF, "$timeFilter")
    return annotation(name, happened, field, color)


def _by_attempt(values: str, name: str) -> Json:
    return series(select(values, _EXPERIMENT, _OF_RUN, "$timeFilter", tail=_BY_ATTEMPT), name)


def _mean(field: str, source: str, *tags: str) -> Json:
    """One curve for each value of the tags."""
    by = "".join(f', "{tag}"' for tag in tags)
    values = select(
        f'mean("{field}")', source, _OF, "$timeFilter", tail=f"GROUP BY {_EACH}{by} fill(none)"
    )
    return series(values, " ".join(f"$tag_{tag}" for tag in tags))
