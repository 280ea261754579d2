"""What panels ask InfluxDB for: data sources, targets, variables, annotations, in InfluxQL.

Grafana escapes a variable as a regular expression wherever it may have several values; `:raw`
and `:regex` say how it is meant.
"""

from __future__ import annotations

from adapters.influx.influxql import select
from grafana.builders.dashboard import Json

#: By wall time, classes raw, system and events.
WALL: Json = {"type": "influxdb", "uid": "stepclock"}

#: By training step: the smallest interval is 1 ms, one step.
STEPS: Json = {"type": "influxdb", "uid": "stepclock-steps"}

#: Measurements of class raw that are no experiments.
_RESERVED = "/^(?!_).*$/"


def series(query: str, alias: str) -> Json:
    """A line for each group of the answer."""
    return {"rawQuery": True, "query": query, "resultFormat": "time_series", "alias": alias}


def rows(query: str) -> Json:
    """Rows of a table."""
    return {"rawQuery": True, "query": query, "resultFormat": "table"}


def variable(
    name: str,
    query: str,
    source: Json,
    *,
    regex: str = "",
    multi: bool = False,
    include_all: bool = False,
) -> Json:
    """A variable whose values come from a query, anew at each change of the time range.

    All is one pattern, not a list: a list of a thousand runs would be as long a query.
    """
    built: Json = {
        "type": "query",
        "name": name,
        "label": name.capitalize(),
        "datasource": source,
        "query": query,
        "regex": regex,
        "multi": multi,
        "includeAll": include_all,
        "refresh": 2,
        "sort": 1,
    }
    if include_all:
        built |= {
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }
    return built


def tag_values(tag: str, source: str, field: str, *conditions: str) -> str:
    """A query for the values of a tag, for a variable.

    SHOW TAG VALUES would look at the default class, whatever class it is asked for.
    """
    newest = select(f'last("{field}"), "{tag}"', source, *conditions, tail=f'GROUP BY "{tag}"')
    return select(f'distinct("{tag}")', f"({newest})")


def experiments(namespace: str, *, several: bool) -> Json:
    """The experiments of a namespace, in class raw."""
    query = f'SHOW MEASUREMENTS ON "{namespace}"."raw"'
    return variable("experiment", query, WALL, regex=_RESERVED, multi=several, include_all=several)


def annotation(name: str, query: str, column: str, colour: str) -> Json:
    """Marks on every panel over time: one for each row, with what stands in a column."""
    return {
        "name": name,
        "datasource": WALL,
        "enable": True,
        "iconColor": colour,
        "textColumn": column,  # for its editor; what is drawn follows the target
        "target": {
            "refId": "Anno",
            "rawQuery": True,
            "query": query,
            "textColumn": column,
            "fromAnnotations": True,
        },
    }
