"""Panels: what is drawn, whatever language it is asked in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grafana.builders.dashboard import Json


def time_series(
    title: str,
    description: str,
    source: Json,
    targets: Sequence[Json],
    *,
    unit: str = "short",
    calcs: Sequence[str] = ("lastNotNull", "max"),
    minimum: float | None = None,
    points: bool = False,
) -> Json:
    """Lines over time, or points alone; gaps are bridged. unit: one of Grafana's unit ids."""
    return _panel("timeseries", title, description, source, targets) | {
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                **({} if minimum is None else {"min": minimum}),
                "custom": _line(points=points),
            },
            "overrides": [],
        },
        "options": _legend(calcs),
    }


def trend(
    title: str,
    description: str,
    source: Json,
    targets: Sequence[Json],
    *,
    calcs: Sequence[str],
) -> Json:
    """Lines over the training step: the step clock's milliseconds become a number.

    The panel wants one frame with an ascending number on x, hence the join.
    """
    return _panel("trend", title, description, source, targets) | {
        "fieldConfig": {"defaults": {"custom": _line(points=False)}, "overrides": []},
        "options": {"xField": "step", **_legend(calcs)},
        "transformations": [
            {"id": "joinByField", "options": {"byField": "Time", "mode": "outer"}},
            {
                "id": "convertFieldType",
                "options": {
                    "fields": {},
                    "conversions": [{"targetField": "Time", "destinationType": "number"}],
                },
            },
            {
                "id": "organize",
                "options": {
                    "renameByName": {"Time": "step"},
                    "excludeByName": {},
                    "indexByName": {},
                },
            },
        ],
    }


def state_timeline(
    title: str,
    description: str,
    source: Json,
    targets: Sequence[Json],
    *,
    states: Mapping[int, tuple[str, str]],
) -> Json:
    """Bands of states over time. states: (text, colour) by value."""
    options = {
        str(value): {"text": name, "color": colour, "index": index}
        for index, (value, (name, colour)) in enumerate(states.items())
    }
    return _panel("state-timeline", title, description, source, targets) | {
        "fieldConfig": {
            "defaults": {"mappings": [{"type": "value", "options": options}]},
            "overrides": [],
        },
        "options": {"showValue": "auto", "legend": {"showLegend": False}},
    }


def table(
    title: str,
    description: str,
    source: Json,
    targets: Sequence[Json],
    *,
    hidden: Sequence[str] = (),
) -> Json:
    """Rows; results of several targets or groups are merged into one table."""
    return _panel("table", title, description, source, targets) | {
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {"showHeader": True, "cellHeight": "sm"},
        "transformations": [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": dict.fromkeys(hidden, True)}},
        ],
    }


def repeated(panel: Json, variable: str) -> Json:
    """The panel once for each chosen value of a variable, one below the other."""
    return panel | {"repeat": variable, "repeatDirection": "v"}


def _panel(kind: str, title: str, description: str, source: Json, targets: Sequence[Json]) -> Json:
    """What all kinds share; the targets are lettered A, B, C."""
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": source,
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": source, **target}
            for index, target in enumerate(targets)
        ],
    }


def _line(*, points: bool) -> Json:
    if points:
        return {"drawStyle": "points", "pointSize": 7, "showPoints": "always"}
    return {"drawStyle": "line", "lineWidth": 1, "spanNulls": True, "showPoints": "never"}


def _legend(calcs: Sequence[str]) -> Json:
    return {
        "legend": {
            "showLegend": True,
            "displayMode": "table",
            "placement": "bottom",
            "calcs": list(calcs),
        },
        "tooltip": {"mode": "multi", "sort": "none"},
    }
