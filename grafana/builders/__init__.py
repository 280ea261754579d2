"""Builds grafana/dashboards/*.json: `python -m grafana.builders` (or `make dashboards`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from grafana.builders.dashboard import Json
from grafana.builders.data_quality import data_quality
from grafana.builders.fleet import fleet
from grafana.builders.machines import machines
from grafana.builders.pipeline import pipeline
from grafana.builders.run import run
from grafana.builders.runs_by_step import runs_by_step

#: Each dashboard by the name of its file.
DASHBOARDS: Mapping[str, Callable[[], Json]] = {
    "data-quality.json": data_quality,
    "fleet.json": fleet,
    "machines.json": machines,
    "pipeline.json": pipeline,
    "run.json": run,
    "runs-by-step.json": runs_by_step,
}
