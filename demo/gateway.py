"""What the demo reads from a gateway over HTTP: the product's own read route, and metrics."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

_TIMEOUT_S = 30.0


class ReadFailed(Exception):
    """A page could not be read; the message says which and why."""


@dataclass(frozen=True, slots=True)
class RunCurve:
    """One metric of one run by step: the mean of each bucket."""

    run: str
    steps: tuple[int, ...]
    means: tuple[float, ...]


def read_curves(url: str, key: str, experiment: str, metric: str, *, points: int) -> list[RunCurve]:
    """The runs of an experiment, side by side by step. Raises ReadFailed."""
    query = urllib.parse.urlencode({"metric": metric, "clock": "step", "points": points})
    path = f"/api/v1/experiments/{urllib.parse.quote(experiment, safe='')}/series?{query}"
    document = json.loads(get(url + path, {"Authorization": f"Bearer {key}"}))
    return [
        RunCurve(series["run"], tuple(series["t"]), tuple(series["mean"]))
        for series in document["runs"]
    ]


def get(url: str, headers: Mapping[str, str] | None = None) -> str:
    """The text of a page. Raises ReadFailed unless the answer is a 200."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_S)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        raise ReadFailed(f"GET {url}: {exc!r}") from exc
    finally:
        connection.close()
    if response.status != 200:
        raise ReadFailed(f"GET {url}: {response.status} {text[:300]}")
    return text
