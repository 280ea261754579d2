"""A database as `provision` makes it and workers fill it, asked as Grafana asks."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from adapters.influx.admin import InfluxAdmin
from adapters.influx.connection import InfluxConnection
from adapters.influx.writer import InfluxWriter
from admin.provision.plan import plan_buckets, plan_mappings
from consumers.views import StepsView, WallView
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block
from tests.contract.store.stores import CLASSES, VOLATILE, fresh_name
from tests.services import Influx

_ALERTS = Path(__file__).parents[3] / "grafana/provisioning/alerting/training.yaml"


def panels(dashboard: dict) -> list[dict]:
    """The panels of a dashboard, without the headings."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def as_grafana_asks(query: str, variables: Mapping[str, str]) -> str:
    """The query with its variables filled in; none may be left."""
    for variable, value in variables.items():
        query = query.replace(variable, value)
    assert "$" not in query.replace("$/", ""), query
    return query


def alert_query(uid: str, start_ns: int, end_ns: int) -> str:
    """What an alert of runs asks for, within a range of time."""
    rules = _ALERTS.read_text("utf-8")
    rule = rules.partition(f"uid: {uid}\n")[2].partition("uid: stepclock-")[0]
    folded = re.search(r"query: >-\n(( {16}\S.*\n)+)", rule)
    assert folded
    within = f"time >= {start_ns} AND time < {end_ns}"
    return " ".join(folded.group(1).split()).replace("$timeFilter", within)


class Database:
    """A namespace of its own as `provision` makes it, filled as a worker fills it."""

    def __init__(self, influx: Influx) -> None:
        self._influx = influx
        self._at = InfluxConnection(influx.url, influx.token, influx.org)
        self.name = fresh_name()
        with InfluxAdmin(self._at) as admin:
            for change in [
                *plan_buckets(admin, CLASSES, [self.name]),
                *plan_mappings(admin, [self.name]),
            ]:
                if change.apply is not None:
                    change.apply()

    def store(self, retention_class: str, lines: list[bytes]) -> None:
        """Write lines of an ingest class, their times in ns, into both views."""
        block = Block("t", self.name, Precision.NS, len(lines), 0, b"\n".join(lines))
        for view in (WallView(), StepsView(tag.decode() for tag in VOLATILE)):
            target = view.target(retention_class)
            if target is None:
                continue
            precision = view.precision([block])
            rendered = view.render(block, retention_class, precision)
            if rendered:
                self.write(target, rendered, precision)

    def write(self, retention_class: str, lines: bytes, precision: Precision) -> None:
        """Write lines into one class and no other."""
        writer = InfluxWriter(self._at)
        writer.write(self.name, retention_class, lines, precision)
        writer.close()

    def ask(self, query: str) -> list[dict]:
        """The series of an answer, asked for as Grafana does; an error in it fails the test."""
        request = urllib.request.Request(
            f"{self._influx.url}/query?db={self.name}&epoch=ms",
            data=urllib.parse.urlencode({"q": query}).encode(),
            headers={"Authorization": f"Token {self._influx.token}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            (result,) = json.load(answer)["results"]
        assert "error" not in result, (query, result["error"])
        return result.get("series", [])

    def column(self, query: str, column: int) -> set[str]:
        return {row[column] for series in self.ask(query) for row in series["values"]}
