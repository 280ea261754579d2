"""The clients that are compared, each behind the same three calls, and how its rows are read back.

Nothing here is imported before a client is chosen, so that a process pays for one only.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

#: Keeps every client to this machine, and to what was asked of it.
OPT_OUT = {
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "no_proxy": "*",
}

Log = Callable[[dict[str, float], int], Any]
Servers = Mapping[str, Mapping[str, str]]


class Tracker(Protocol):
    """One client with a run begun. folder: its own; the name of the run is the folder's."""

    def __init__(self, folder: Path, servers: Servers) -> None: ...

    #: Takes metrics and step: the client's own function where it has that form.
    log: Log

    def finish(self) -> bool:
        """End the run; whether the client says that all is where it should be, if it says."""

    @staticmethod
    def steps(folder: Path, servers: Servers) -> list[int]:
        """The steps that can be read back by whoever comes after the process."""


class Stepclock:
    """Against the embedded server. What is stored there is read by whoever runs that server."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        import stepclock

        settings: dict[str, Any] = {**servers["stepclock"], "spool_dir": str(folder / "spool")}
        self._run = stepclock.init("bench", run_id=folder.name, **settings)
        self.log: Log = self._run.log

    def finish(self) -> bool:
        return self._run.finish().ok

    @staticmethod
    def steps(folder: Path, servers: Servers) -> list[int]:
        raise NotImplementedError("read them from the server's store")


class Influx:
    """influxdb-client that gathers points in memory, against InfluxDB 2."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        import time

        from influxdb_client import InfluxDBClient, Point

        now_ns = time.time_ns
        server = servers["influxdb"]
        self._client = InfluxDBClient(server["url"], server["token"], org=server["org"])
        self._writes = self._client.write_api(**self._options())
        write, bucket, run = self._writes.write, server["bucket"], folder.name

        def log(values: dict[str, float], step: int) -> None:
            point = Point("bench").tag("run", run).field("step", step)
            for name, value in values.items():
                point.field(name, value)
            point.time(now_ns())  # all points of a request would be one without
            write(bucket, record=point)

        self.log: Log = log

    def _options(self) -> dict[str, Any]:
        return {}

    def finish(self) -> bool:
        self._writes.close()
        self._client.close()
        return True

    @staticmethod
    def steps(folder: Path, servers: Servers) -> list[int]:
        from influxdb_client import InfluxDBClient

        server = servers["influxdb"]
        with InfluxDBClient(server["url"], server["token"], org=server["org"]) as client:
            tables = client.query_api().query(
                f'from(bucket: "{server["bucket"]}") |> range(start: -1h)'
                f' |> filter(fn: (r) => r.run == "{folder.name}" and r._field == "step")'
            )
            return [int(record.get_value()) for table in tables for record in table.records]


class InfluxSynchronous(Influx):
    """influxdb-client with a request for each call."""

    def _options(self) -> dict[str, Any]:
        from influxdb_client.client.write_api import SYNCHRONOUS

        return {"write_options": SYNCHRONOUS}


class Trackio:
    """On its local SQLite file, without a dashboard."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        os.environ["TRACKIO_DIR"] = str(folder)
        import trackio

        trackio.init(project="bench", name=folder.name, embed=False)
        self.log: Log = trackio.log
        self._finish = trackio.finish

    def finish(self) -> bool:
        self._finish()
        return True

    @staticmethod
    def steps(folder: Path, servers: Servers) -> list[int]:
        import sqlite3

        with sqlite3.connect(folder / "bench.db") as connection:
            if not list(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'metrics'")):
                return []  # killed before its first turn
            return [step for (step,) in connection.execute("SELECT step FROM metrics")]


class Wandb:
    """Offline: its helper writes a file that is sent later."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        import wandb

        self._run = wandb.init(project="bench", name=folder.name, dir=folder)
        self.log: Log = self._run.log

    def finish(self) -> bool:
        self._run.finish()
        return True

    @staticmethod
    def steps(folder: Path, servers: Servers) -> list[int]:
        from wandb.proto.wandb_internal_pb2 import Record

        found = []
        for path in folder.glob("wandb/offline-run-*/*.wandb"):
            for data in _leveldb_records(path.read_bytes()[7:], at=7):
                record = Record.FromString(data)
                if record.HasField("history"):
                    found.append(record.history.step.num)
        return found


class Mlflow:
    """Over REST against its server on SQLite, a request for each call, as it is by default."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        import mlflow

        mlflow.set_tracking_uri(servers["mlflow"]["url"])
        mlflow.set_experiment("bench")
        run = mlflow.start_run(run_name=folder.name)
        (folder / "run_id").write_text(run.info.run_id)
        self.log: Log = mlflow.log_metrics
        self._finish = mlflow.end_run

    def finish(self) -> bool:
        self._finish()
        return True

    @staticmethod
    def steps(folder: Path, servers: Servers) -> list[int]:
        import mlflow

        client = mlflow.MlflowClient(servers["mlflow"]["url"])
        history = client.get_metric_history((folder / "run_id").read_text(), "loss")
        return [metric.step for metric in history]


class TensorBoardX:
    """A call of add_scalar for each value, into an event file."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder))
        add = self._writer.add_scalar

        def log(values: dict[str, float], step: int) -> None:
            for name, value in values.items():
                add(name, value, step)

        self.log: Log = log

    def finish(self) -> bool:
        self._writer.close()
        return True

    @staticmethod
    def steps(folder: Path, servers: Servers) -> list[int]:
        from tensorboardX.proto.event_pb2 import Event

        found = []
        for path in folder.glob("events.out.*"):
            data, at = path.read_bytes(), 0
            while at + 12 <= len(data):
                (length,) = struct.unpack_from("<Q", data, at)
                if at + 16 + length > len(data):
                    break
                event = Event.FromString(data[at + 12 : at + 12 + length])
                if any(value.tag == "last" for value in event.summary.value):
                    found.append(event.step)
                at += 16 + length
        return found


class Floor:
    """As little as can be: JSON and one `write` to a file, in the calling thread."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        self._fd = os.open(folder / "rows", os.O_WRONLY | os.O_CREAT)
        fd, write, dumps = self._fd, os.write, json.dumps

        def log(values: dict[str, float], step: int) -> None:
            write(fd, dumps({"step": step, **values}).encode() + b"\n")

        self.log: Log = log

    def finish(self) -> bool:
        os.close(self._fd)
        return True

    @staticmethod
    def steps(folder: Path, servers: Servers) -> list[int]:
        lines = (folder / "rows").read_text("utf-8").splitlines()
        return [json.loads(line)["step"] for line in lines]


def _leveldb_records(data: bytes, at: int) -> Iterator[bytes]:
    """What a file in LevelDB's log format holds; at: the place of `data` in its file."""
    block, record, here = 32 * 1024, b"", 0
    while here + 7 <= len(data):
        left = block - (at + here) % block
        if left < 7:
            here += left
            continue
        length, kind = struct.unpack_from("<HB", data, here + 4)
        if kind == 0 or here + 7 + length > len(data):
            return  # the end of what was written
        record += data[here + 7 : here + 7 + length]
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""
        here += 7 + length


#: By the name in the tables; ours first.
TRACKERS: dict[str, type[Tracker]] = {
    "stepclock": Stepclock,
    "Trackio": Trackio,
    "influxdb-client": Influx,
    "influxdb-client, SYNCHRONOUS": InfluxSynchronous,
    "tensorboardX": TensorBoardX,
    "wandb, offline": Wandb,
    "MLflow, REST": Mlflow,
    "floor: json and write": Floor,
}

#: What is imported.
MODULES = {
    "stepclock": "stepclock",
    "Trackio": "trackio",
    "influxdb-client": "influxdb_client",
    "tensorboardX": "tensorboardX",
    "wandb, offline": "wandb",
    "MLflow, REST": "mlflow",
}
