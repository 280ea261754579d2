"""Panels: what is drawn, whatever language it is asked in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grafana.builders.dashboard import Json
from schemas.store.run_state import State

#: (text, colour) by value.
States = Mapping[int, tuple[str, str]] | Mapping[str, tuple[str, str]]

#: States of a run with their colours (schemas.store.run_state).
STATES: Mapping[str, tuple[str, str]] = {
    State.RUNNING: (State.RUNNING, "green"),
    State.FINISHED: (State.FINISHED, "blue"),
    State.PREEMPTED: (State.PREEMPTED, "purple"),
    State.SILENT: (State.SILENT, "orange"),
    State.FAILED: (State.FAILED, "red"),
    State.LOST: (State.LOST, "red"),
}


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
    states: States,
) -> Json:
    """Bands of states over time."""
    return _panel("state-timeline", title, description, source, targets) | {
        "fieldConfig": {"defaults": {"mappings": _mappings(states)}, "overrides": []},
        "options": {"showValue": "auto", "legend": {"showLegend": False}},
    }


def table(
    title: str,
    description: str,
    source: Json,
    targets: Sequence[Json],
    *,
    hidden: Sequence[str] = (),
    overrides: Sequence[Json] = (),
) -> Json:
    """Rows; results of several targets or groups are merged into one table.

    hidden: columns that are left out. overrides: how some columns look.
    """
    return _panel("table", title, description, source, targets) | {
        "fieldConfig": {"defaults": {}, "overrides": list(overrides)},
        "options": {"showHeader": True, "cellHeight": "sm"},
        "transformations": [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": dict.fromkeys(hidden, True)}},
        ],
    }


def column(name: str, **properties: object) -> Json:
    """How a column of a table looks: an override by its name, for `table`."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
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


def _mappings(states: States) -> list[Json]:
    options = {
        str(value): {"text": name, "color": colour, "index": index}
        for index, (value, (name, colour)) in enumerate(states.items())
    }
    return [{"type": "value", "options": options}]


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


#: The column `state` of a table, coloured.
STATE: Json = column(
    "state",
    mappings=_mappings(STATES),
    **{"custom.cellOptions": {"type": "color-text"}},
)
