"""Free TCP ports on the loopback interface."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST_PORT = 10_240
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different, below the range of outgoing connections.

    Port 0 would give one from within that range. While a service is down (killed, about to be
    restarted on its port), a client that keeps trying could then be given that very port as its
    own source port and connect to itself, and the service could not come back.
    """
    found: set[int] = set()
    end = first_ephemeral_port()
    for _ in range(1000):
        if len(found) == count:
            return list(found)
        port = LOWEST_PORT + secrets.randbelow(end - LOWEST_PORT)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        found.add(port)
    raise OSError(f"no {count} free ports between {LOWEST_PORT} and {end}")


def first_ephemeral_port() -> int:
    """The lowest port that the kernel gives to outgoing connections (tcp(7))."""
    default = 32_768
    if not EPHEMERAL_RANGE.exists():
        return default
    first = int(EPHEMERAL_RANGE.read_text().split()[0])
    return first if first > LOWEST_PORT + 2000 else default
