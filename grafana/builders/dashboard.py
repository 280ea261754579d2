"""A dashboard in Grafana's classic JSON: rows of panels, laid out on a grid 24 wide.

Source: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

#: The newest classic schema; Grafana 10 to 13 migrate it upward by themselves.
SCHEMA_VERSION = 42

_GRID_WIDTH = 24
_TAG = "stepclock"


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and the panels below it, side by side. height is in Grafana's grid units."""

    title: str
    panels: Sequence[Json]
    height: int = 8


def dashboard(
    uid: str,
    title: str,
    description: str,
    rows: Sequence[Row],
    *,
    time_from: str,
    time_to: str,
    variables: Sequence[Json] = (),
    annotations: Sequence[Json] = (),
    refresh: str = "",
) -> Json:
    """A whole dashboard. refresh "" leaves reloading to the reader."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [_TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "utc",
        "time": {"from": time_from, "to": time_to},
        "refresh": refresh,
        # Times are not taken along: on a step dashboard a time range is a range of steps.
        "links": [
            {
                "type": "dashboards",
                "title": "Stepclock",
                "tags": [_TAG],
                "asDropdown": True,
                "includeVars": False,
                "keepTime": False,
            }
        ],
        "templating": {"list": list(variables)},
        "annotations": {"list": list(annotations)},
        "panels": _lay_out(rows),
    }


def text(built: Json) -> str:
    """The file's text."""
    return json.dumps(built, indent=2, ensure_ascii=False) + "\n"


def _lay_out(rows: Sequence[Row]) -> list[Json]:
    """Number the panels and give each its place."""
    placed: list[Json] = []
    top = 0

    def place(panel: Json, x: int, width: int, height: int) -> None:
        position = {"x": x, "y": top, "w": width, "h": height}
        placed.append({"id": len(placed) + 1, **panel, "gridPos": position})

    for row in rows:
        heading = {"type": "row", "title": row.title, "collapsed": False, "panels": []}
        place(heading, 0, _GRID_WIDTH, 1)
        top += 1
        width = _GRID_WIDTH // len(row.panels)
        for index, panel in enumerate(row.panels):
            place(panel, index * width, width, row.height)
        top += row.height
    return placed
