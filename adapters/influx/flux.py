"""Flux text: the task that fills a rollup class, with names escaped so that they stay names.

Reference: https://docs.influxdata.com/flux/v0/spec/
"""

from __future__ import annotations

from schemas.rollup import Rollup

# What is a name is put in by `string`, what is a span by `_span`.
_ROLLUP = """\
import "array"
import "date"
import "regexp"
import "strings"
import "types"

option task = {{name: {name}, every: {every}, offset: {delay}}}

// Whole windows only, that of now() not among them.
stop = date.truncate(t: now(), unit: {window})
start = date.sub(from: stop, d: {look_back})
points = () => from(bucket: {source}) |> range(start: start, stop: stop)

// InfluxDB aggregates numbers as it reads them, and fails on text and booleans. So it is told
// the names of fields that hold such somewhere; numbers under these are taken apart, slower.
odd = points()
    |> first()
    |> filter(fn: (r) => not types.isNumeric(v: r._value))
    |> keep(columns: ["_field"])
    |> group()
    |> distinct(column: "_field")
    |> findColumn(fn: (key) => true, column: "_value")
quoted = array.map(arr: odd, fn: (x) => regexp.quoteMeta(v: x))
names = regexp.compile(v: "^(?:" + strings.joinStr(arr: quoted, v: "|") + ")$")
plain = () => points() |> filter(fn: (r) => r._field != "step" and r._field !~ names)
apart = () => points()
    |> filter(fn: (r) => r._field != "step" and r._field =~ names)
    |> filter(fn: (r) => r._value >= 0.0 or r._value < 0.0)
    |> duplicate(column: "_time", as: "at")  // keeps the aggregation out of the storage
    |> drop(columns: ["at"])
steps = () => points() |> filter(fn: (r) => r._field == "step" and r._field !~ names)

by_window = (fn, tables=<-) =>
    tables |> aggregateWindow(every: {window}, fn: fn, createEmpty: false, timeSrc: "_start")
// Floats, so that no field changes its type when a client does.
floats = (suffix, tables=<-) => tables
    |> map(fn: (r) => ({{r with _value: float(v: r._value), _field: r._field + suffix}}))
ints = (suffix, tables=<-) => tables
    |> map(fn: (r) => ({{r with _value: int(v: r._value), _field: r._field + suffix}}))
// A sum may leave the range of floats, and the database takes no infinity.
largest = float(v: "1.7976931348623157e308")
finite = (tables=<-) => tables |> filter(fn: (r) => r._value >= -largest and r._value <= largest)
store = (tables=<-) => tables |> to(bucket: {target})

plain() |> by_window(fn: mean) |> floats(suffix: "_mean") |> finite() |> store()
plain() |> by_window(fn: min) |> floats(suffix: "_min") |> store()
plain() |> by_window(fn: max) |> floats(suffix: "_max") |> store()
plain() |> by_window(fn: count) |> ints(suffix: "_count") |> store()
apart() |> by_window(fn: mean) |> floats(suffix: "_mean") |> finite() |> store()
apart() |> by_window(fn: min) |> floats(suffix: "_min") |> store()
apart() |> by_window(fn: max) |> floats(suffix: "_max") |> store()
apart() |> by_window(fn: count) |> ints(suffix: "_count") |> store()
steps() |> by_window(fn: max) |> ints(suffix: "_max") |> store()
"""


def rollup_task(name: str, source: str, target: str, rollup: Rollup) -> str:
    """The task that sums up the points of bucket `source` in bucket `target`.

    A numeric field x becomes x_mean, x_min, x_max (floats) and x_count (an integer), with the
    tags that it had, at the start of its window; `step` becomes step_max, an integer. Text
    and booleans are left out. Running it twice writes the same points.
    """
    return _ROLLUP.format(
        name=string(name),
        source=string(source),
        target=string(target),
        window=_span(rollup.window_s),
        every=_span(rollup.every_s),
        delay=_span(rollup.delay_s),
        look_back=_span(rollup.look_back_s),
    )


def string(value: str) -> str:
    """A string literal. `${` would begin an interpolation."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${")
    return '"' + escaped.replace("\n", "\\n") + '"'


def _span(seconds: int) -> str:
    """In minutes: a day or more of Flux follows the calendar."""
    return f"{seconds // 60}m"
