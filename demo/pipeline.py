"""A running pipeline as the demo sees it, and the embedded one, which is a single process."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from demo import gateway, latency
from demo.gateway import ReadFailed
from demo.latency import Histogram
from demo.plan import TENANTS
from embedded.store.store import SqliteStore
from native.ports import LOOPBACK, free_ports
from native.process import Process
from schemas.store.protocols import StoreReader
from schemas.tenants import keys
from schemas.tenants.keys_file import dump

_READY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class HttpService:
    """One of our own processes, with the base URL of its HTTP interface."""

    process: Process
    url: str


@dataclass(slots=True)
class Pipeline:
    """Where to send, where to read, and the consumers, of which one may be killed.

    keys: one for each tenant, by tenant. last_words: latencies of a consumer that is gone.
    """

    gateways: Sequence[str]
    keys: Mapping[str, str]
    reader: StoreReader
    consumers: list[HttpService]
    last_words: Histogram = field(default_factory=Histogram)

    def kill_consumer(self) -> str | None:
        """End one consumer as a lost machine would (SIGKILL) and say so; None with only one."""
        if len(self.consumers) < 2:
            return None
        victim = self.consumers.pop()
        self.last_words = _latencies(victim)
        pid = victim.process.pid
        victim.process.kill()
        return f"{victim.process.name} (pid {pid}) was killed with -9"

    def latencies(self) -> Histogram:
        """Time from receipt to stored, of all consumers. Raises ReadFailed."""
        return latency.merge([self.last_words, *map(_latencies, self.consumers)])


def write_keys(path: Path) -> dict[str, str]:
    """Make a key for each tenant of the demo and write the keys file; the keys by tenant."""
    made = {
        tenant.name: keys.new_key(
            tenant.name, namespace=tenant.namespace, rate=tenant.rate, burst=tenant.burst
        )
        for tenant in TENANTS
    }
    path.touch(mode=0o600)
    path.write_text(dump(record for _key, record in made.values()), "utf-8")
    return {tenant: key for tenant, (key, _record) in made.items()}


@contextmanager
def start_embedded(folder: Path) -> Iterator[Pipeline]:
    """``stepclock-server serve`` with its data in a new folder. Raises StartFailed."""
    folder.mkdir(parents=True)
    keys_file = folder / "keys.toml"
    tenant_keys = write_keys(keys_file)
    environment = {"STEPCLOCK_DATA_DIR": str(folder), "STEPCLOCK_KEYS_FILE": str(keys_file)}
    with start_service("serve", ["admin", "serve"], folder, environment) as serve:
        store = SqliteStore(folder / "store.db")
        try:
            yield Pipeline([serve.url], tenant_keys, store, [serve])
        finally:
            store.close()


@contextmanager
def start_service(
    name: str,
    argv: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    *,
    port_variable: str = "STEPCLOCK_PORT",
) -> Iterator[HttpService]:
    """``python -m argv`` on a free port of the loopback interface, from ready until the end.

    Raises StartFailed.
    """
    (port,) = free_ports(1)
    url = f"http://{LOOPBACK}:{port}"
    process = Process(
        name,
        [sys.executable, "-m", *argv],
        log_path=folder / f"{name.replace(' ', '-')}.log",
        ready=lambda: _is_ready(url),
        ready_timeout_s=_READY_TIMEOUT_S,
        env={**environment, port_variable: str(port)},
    )
    with process:
        process.start()
        yield HttpService(process, url)


def _is_ready(url: str) -> bool:
    try:
        gateway.get(f"{url}/readyz")
    except ReadFailed:
        return False
    return True


def _latencies(consumer: HttpService) -> Histogram:
    return latency.parse(gateway.get(f"{consumer.url}/metrics"))
