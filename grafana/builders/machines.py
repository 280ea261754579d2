"""The dashboard *Machines*: the hosts and GPUs that runs are on, as the runs sampled them."""

from __future__ import annotations

from adapters.influx.influxql import select
from grafana.builders.dashboard import Json, Row, dashboard
from grafana.builders.influx import WALL, rows, series, tag_values, variable
from grafana.builders.panel import table, time_series

_HOST = '"system"."host"'
_GPU = '"system"."gpu"'
_OF = '"host" =~ /^$host$/'
_PERCENT = '100 * mean("{0}_used_bytes") / mean("{0}_total_bytes")'
_EACH_GPU = select(
    'mean("util_percent") AS "each"',
    _GPU,
    _OF,
    "$timeFilter",
    tail='GROUP BY time($__interval), "run", "host", "gpu" fill(none)',
)


def machines() -> Json:
    """The dashboard, of the namespace that its data source names as database."""
    return dashboard(
        "stepclock-machines",
        "Machines",
        "Hosts and GPUs while runs were on them. Samples come from the runs, every 15 s.",
        [
            Row(
                "Hosts",
                [
                    _hosts("CPU cores busy", "Of all processes.", 'mean("cpu_cores_busy")'),
                    _hosts(
                        "Memory",
                        "In use, of all there is. Near 100: the kernel is about to kill somebody.",
                        _PERCENT.format("memory"),
                        unit="percent",
                    ),
                    _hosts(
                        "Disk of the job's folder",
                        "In use, of all there is. Full: spools stay in memory, checkpoints fail.",
                        _PERCENT.format("disk"),
                        unit="percent",
                    ),
                    _hosts("Load", "Over a minute.", 'mean("load_1m")'),
                ],
            ),
            Row(
                "Traffic",
                [
                    _hosts(
                        "Network received",
                        "Of all links but the loopback.",
                        'mean("net_received_bytes_per_s")',
                        unit="Bps",
                    ),
                    _hosts(
                        "Network sent",
                        "Of all links but the loopback.",
                        'mean("net_sent_bytes_per_s")',
                        unit="Bps",
                    ),
                    _hosts(
                        "Disk read",
                        "Of all disks. Low where loaders should read: the data is cached, or they "
                        "wait for something else.",
                        'mean("disk_read_bytes_per_s")',
                        unit="Bps",
                    ),
                    _hosts(
                        "Disk written", "Of all disks.", 'mean("disk_written_bytes_per_s")', "Bps"
                    ),
                ],
            ),
            Row(
                "GPUs",
                [
                    _gpus("Utilisation", "Some kernel ran.", 'mean("util_percent")', "percent"),
                    _gpus("GPU memory", "In use.", _PERCENT.format("memory"), "percent"),
                    _gpus("Power", "What it draws.", 'mean("power_w")', "watt"),
                    _gpus("Temperature", "Of the chip.", 'max("temperature_c")', "celsius"),
                ],
            ),
            Row(
                "Which one is it?",
                [
                    time_series(
                        "Spread of utilisation over the GPUs of a run",
                        "Greatest less least, in each interval. Large for long: one of them lags "
                        "behind, and all others wait for it.",
                        WALL,
                        [
                            series(
                                select(
                                    'spread("each")',
                                    f"({_EACH_GPU})",
                                    "$timeFilter",
                                    tail='GROUP BY time($__interval), "run" fill(none)',
                                ),
                                "$tag_run",
                            )
                        ],
                        unit="percent",
                        minimum=0,
                    )
                    | {"interval": "60s"},
                    table(
                        "Each GPU in the chosen time",
                        "Sort by a column: the idle, the hot and the throttled are at its ends.",
                        WALL,
                        [
                            rows(
                                select(
                                    'mean("util_percent") AS "util %", mean("power_w") AS "W", '
                                    'max("temperature_c") AS "max °C", '
                                    'min("sm_clock_mhz") AS "min MHz"',
                                    _GPU,
                                    _OF,
                                    "$timeFilter",
                                    tail='GROUP BY "host", "gpu"',
                                )
                            )
                        ],
                        hidden=("Time",),
                    ),
                ],
                height=10,
            ),
        ],
        variables=[
            variable(
                "host",
                tag_values("host", _HOST, "load_1m", "$timeFilter"),
                WALL,
                multi=True,
                include_all=True,
            )
        ],
        time_from="now-6h",
        time_to="now",
        refresh="1m",
    )


def _hosts(title: str, description: str, what: str, unit: str = "short") -> Json:
    return _each(title, description, what, unit, _HOST, '"host"', "$tag_host")


def _gpus(title: str, description: str, what: str, unit: str) -> Json:
    return _each(title, description, what, unit, _GPU, '"host", "gpu"', "$tag_host $tag_gpu")


def _each(
    title: str, description: str, what: str, unit: str, source: str, by: str, alias: str
) -> Json:
    query = select(
        what, source, _OF, "$timeFilter", tail=f"GROUP BY time($__interval), {by} fill(none)"
    )
    panel = time_series(title, description, WALL, [series(query, alias)], unit=unit, minimum=0)
    return panel | {"interval": "30s"}
