"""What panels ask Prometheus for: the data source and targets, in PromQL."""

from __future__ import annotations

from grafana.builders.dashboard import Json

PROMETHEUS: Json = {"type": "prometheus", "uid": "stepclock-prometheus"}

#: The range of a rate: Grafana makes it four scrapes wide, or wider where the graph is coarse.
RATE = "[$__rate_interval]"


def per_s(counter: str, *by: str, of: str = "") -> Json:
    """A counter's growth per second, summed over instances."""
    legend = " ".join("{{" + label + "}}" for label in by)
    return target(f"sum by ({', '.join(by)}) (rate({counter}{of}{RATE}))", legend)


def target(expr: str, legend: str) -> Json:
    """A line for each series of the answer."""
    return {"expr": expr, "legendFormat": legend, "editorMode": "code", "range": True}
