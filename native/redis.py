"""Redis as a local process on the loopback interface, keeping nothing on disk."""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from native.ports import LOOPBACK, free_ports
from native.process import Process, Service

PROGRAM = "redis-server"
READY_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Redis(Service):
    """A running server. Leaving its block stops it."""

    port: int

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"redis://{LOOPBACK}:{self.port}/0"


def missing() -> list[str]:
    """Programs that a start needs and that are not installed."""
    return [] if shutil.which(PROGRAM) else [PROGRAM]


def start(folder: Path, *, port: int | None = None) -> Redis:
    """Start a server on a free port, or on the given one. Raises StartFailed."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = port or free_ports(1)[0]
    argv = [PROGRAM, "--bind", LOOPBACK, "--port", str(chosen), "--dir", str(folder)]
    process = Process(
        "redis",
        [*argv, "--save", "", "--appendonly", "no"],
        log_path=folder / "redis.log",
        ready=lambda: serves(LOOPBACK, chosen),
        ready_timeout_s=READY_TIMEOUT_S,
    )
    process.start()
    return Redis(process, chosen)


def serves(host: str, port: int) -> bool:
    """Whether a Redis answers there."""
    try:
        with socket.create_connection((host, port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
