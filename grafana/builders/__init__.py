"""Builds grafana/dashboards/*.json: `python -m grafana.builders` (or `make dashboards`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from grafana.builders.dashboard import Json
from grafana.builders.pipeline import pipeline
from grafana.builders.runs_by_step import runs_by_step

#: Each dashboard by the name of its file.
DASHBOARDS: Mapping[str, Callable[[], Json]] = {
    "pipeline.json": pipeline,
    "runs-by-step.json": runs_by_step,
}
