"""InfluxDB 2 as a local process on the loopback interface."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from native.influxd_binary import binary, ensure_binary, missing
from native.ports import LOOPBACK, free_ports
from native.process import Process, Service, StartFailed
from native.step import Report

__all__ = ["InfluxDB", "ensure", "mend", "missing", "start"]

READY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class InfluxDB(Service):
    """A running, onboarded server. Leaving its block stops it; its data stays in its folder."""

    port: int
    org: str
    #: May do everything.
    token: str
    #: Made by the onboarding; writes to others need them made first.
    bucket: str
    folder: Path

    @property
    def url(self) -> str:
        """Base address of its HTTP interface."""
        return f"http://{LOOPBACK}:{self.port}"


def ensure(report: Report) -> Path:
    """Prepare the binary; see `influxd_binary.ensure_binary` for what that takes."""
    return ensure_binary(report)


def start(
    folder: Path,
    *,
    port: int | None = None,
    org: str = "stepclock",
    token: str = "native-token-0123456789",  # noqa: S107 -- a server on loopback, made to be thrown away
    bucket: str = "onboarding",
    options: Sequence[str] = (),
) -> InfluxDB:
    """Start a server with its data in `folder`, and return once it is onboarded.

    A folder that an earlier server left keeps its data and must be given its organisation and
    token again. `port` is a free one unless given. `options` are further command-line options
    of influxd. The binary must have been prepared by `ensure`. Raises StartFailed.
    """
    port = port or free_ports(1)[0]
    folder.mkdir(parents=True, exist_ok=True)
    process = _process(folder, port, options)
    influxdb = InfluxDB(
        process=process, port=port, org=org, token=token, bucket=bucket, folder=folder
    )
    process.start()
    try:
        _onboard(influxdb)
    except BaseException:
        process.kill()
        raise
    return influxdb


def mend(folder: Path) -> None:
    """Cut off write-ahead logs that end within an entry; before a start after a kill or full disk.

    The server (2.7.12) cuts them itself as it starts, but has opened them by then, behind the
    cut. What it takes from there on lies behind a gap, where the start after that stops reading:
    acknowledged points would be gone. So it is started once where nobody writes. Raises
    StartFailed; the server of this folder must not run.
    """
    with _process(folder, free_ports(1)[0], ()) as process:
        process.start()


def _process(folder: Path, port: int, options: Sequence[str]) -> Process:
    return Process(
        "InfluxDB",
        [
            str(binary()),
            f"--bolt-path={folder / 'influxd.bolt'}",
            f"--sqlite-path={folder / 'influxd.sqlite'}",
            f"--engine-path={folder / 'engine'}",
            f"--http-bind-address={LOOPBACK}:{port}",
            "--reporting-disabled",
            "--log-level=warn",
            *options,
        ],
        log_path=folder / "influxd.log",
        ready=lambda: is_ready(LOOPBACK, port),
        ready_timeout_s=READY_TIMEOUT_S,
        env={"INFLUXD_CONFIG_PATH": str(folder)},  # keeps out a config file of the user's
    )


def is_ready(host: str, port: int) -> bool:
    """Whether an InfluxDB there, and not just any HTTP server, says that it is ready."""
    connection = http.client.HTTPConnection(host, port, timeout=5.0)
    try:
        connection.request("GET", "/ready")
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return response.status == 200 and response.headers["X-Influxdb-Build"] is not None


def _onboard(influxdb: InfluxDB) -> None:
    """Make the user, organisation, bucket and token, unless the folder has them already."""
    request = {
        "username": "admin",
        "password": influxdb.token,
        "org": influxdb.org,
        "bucket": influxdb.bucket,
        "token": influxdb.token,
        "retentionPeriodSeconds": 0,
    }
    connection = http.client.HTTPConnection(LOOPBACK, influxdb.port, timeout=30.0)
    try:
        connection.request("POST", "/api/v2/setup", json.dumps(request))
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        raise StartFailed(f"InfluxDB broke off its onboarding: {exc}") from exc
    finally:
        connection.close()
    if response.status not in {201, 422}:  # 422: done by an earlier start
        raise StartFailed(f"InfluxDB refused its onboarding: {response.status} {body}")
