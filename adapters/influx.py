"""The store on InfluxDB 2: what implements `schemas.store`, and the server's administration."""

from __future__ import annotations

from adapters.influx_admin import Bucket, InfluxAdmin, Task, default_shard_s
from adapters.influx_attempts import InfluxAttempts
from adapters.influx_reader import InfluxReader
from adapters.influx_writer import InfluxWriter

__all__ = [
    "Bucket",
    "InfluxAdmin",
    "InfluxAttempts",
    "InfluxReader",
    "InfluxWriter",
    "Task",
    "default_shard_s",
]
