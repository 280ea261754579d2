"""What the clients send to: three servers on the loopback interface, gone with the benchmark."""

from __future__ import annotations

import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from embedded.store.store import SqliteStore
from native import influxd
from native.ports import LOOPBACK, free_ports
from native.process import Process
from schemas.tenants.keys import new_key
from schemas.tenants.keys_file import dump
from trackers import OPT_OUT, Servers

#: A limit that no client here comes near.
_UNLIMITED = 1_000_000_000


class Store:
    """What the embedded server has stored of a run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def steps(self, run: str) -> list[int]:
        """The steps of its rows."""
        with closing(SqliteStore(self._path)) as store:
            points = store.points("stepclock", "raw", "bench", run)
            return [int(point.fields["step"]) for point in points]


@contextmanager
def running(folder: Path, python: Path) -> Iterator[tuple[Servers, Store]]:
    """All of them. python: where MLflow is installed. Raises PreparationFailed, StartFailed."""
    with ExitStack() as stack:
        key, record = new_key("bench", rate=_UNLIMITED, burst=_UNLIMITED)
        keys = folder / "keys.toml"
        keys.touch(mode=0o600)
        keys.write_text(dump([record]), "utf-8")
        ours = folder / "stepclock"
        ours.mkdir()
        url = _start(
            stack,
            "serve",
            [sys.executable, "-m", "admin", "serve", "--data-dir", str(ours)],
            folder,
            "/readyz",
            {"STEPCLOCK_KEYS_FILE": str(keys)},
        )
        influxd.ensure(lambda message: print(message, file=sys.stderr))
        database = stack.enter_context(influxd.start(folder / "influxd"))
        mlflow = folder / "mlflow"
        mlflow.mkdir()
        mlflow_url = _start(
            stack,
            "mlflow",
            [
                *(str(python), "-m", "mlflow", "server", "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{mlflow}/store.db"),
                *("--artifacts-destination", str(mlflow / "artifacts")),
            ],
            folder,
            "/health",
            OPT_OUT,
        )
        yield (
            {
                "stepclock": {"endpoint": url, "token": key},
                "influxdb": {
                    "url": database.url,
                    "token": database.token,
                    "org": database.org,
                    "bucket": database.bucket,
                },
                "mlflow": {"url": mlflow_url},
            },
            Store(ours / "store.db"),
        )


@contextmanager
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never answers."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"


def nobody() -> str:
    """A URL on which nobody listens."""
    return f"http://{LOOPBACK}:{free_ports(1)[0]}"


def _start(
    stack: ExitStack,
    name: str,
    command: list[str],
    folder: Path,
    ready_path: str,
    environment: dict[str, str],
) -> str:
    """Start a server that takes --port; its URL once it is ready."""
    (port,) = free_ports(1)
    url = f"http://{LOOPBACK}:{port}"

    def ready() -> bool:
        try:
            with urllib.request.urlopen(url + ready_path, timeout=5.0):
                return True
        except OSError:
            return False

    process = Process(
        name,
        [*command, "--port", str(port)],
        log_path=folder / f"{name}.log",
        ready=ready,
        ready_timeout_s=120.0,
        env=environment,
    )
    stack.enter_context(process)
    process.start()
    return url
