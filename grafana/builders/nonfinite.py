"""Panels about values that are NaN or infinite, by step or by wall time."""

from __future__ import annotations

from adapters.influx.influxql import select
from grafana.builders.dashboard import Json
from grafana.builders.influx import rows, series
from grafana.builders.panel import table, time_series


def marks(
    title: str, description: str, source: Json, retention_class: str, chosen: str, interval: str
) -> Json:
    """A mark wherever there were some, by run, metric and kind. chosen: the condition."""
    query = select(
        'sum("count")',
        f'"{retention_class}"."nonfinite"',
        chosen,
        "$timeFilter",
        tail='GROUP BY time($__interval), "run", "metric", "kind" fill(none)',
    )
    panel = time_series(
        title,
        description,
        source,
        [series(query, "$tag_run $tag_metric $tag_kind")],
        calcs=("sum",),
        points=True,
    )
    return panel | {"interval": interval}


def ends(
    title: str,
    description: str,
    source: Json,
    retention_class: str,
    *conditions: str,
    by: str,
) -> Json:
    """A table: how many there were, and the first and the last step. by: tags, as in InfluxQL."""
    query = select(
        'sum("count") AS "values", min("step") AS "first step", max("step") AS "last step"',
        f'"{retention_class}"."nonfinite"',
        *conditions,
        tail=f"GROUP BY {by}",
    )
    return table(title, description, source, [rows(query)], hidden=("Time",))
