"""Everything that can go wrong, running: real processes, and proxies on each of their links."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from native import influxd, kafka
from native.ports import LOOPBACK, free_ports
from native.process import Process
from native.proxy import Proxy
from tests.e2e.pipeline.chain import Chain, provisioned
from tests.fault_suite.schedule import CONSUMERS, GATEWAYS

#: Room for the database; a run of five minutes takes a fifth of it.
DISK_MIB = 256


@dataclass
class Rig:
    """Running services. processes, links: by the names of the schedule.

    data: the database's. disk: the folder whose file system it alone fills; None where none can
    be mounted.
    """

    chain: Chain
    bootstrap_servers: str
    data: Path
    disk: Path | None
    processes: dict[str, Process] = field(default_factory=dict)
    links: dict[str, Proxy] = field(default_factory=dict)
    #: What consumers need to come by the proxies.
    consumer_environment: dict[str, str] = field(default_factory=dict)

    @property
    def urls(self) -> list[str]:
        """Where clients send."""
        return [f"http://{LOOPBACK}:{self.links[f'clients-{name}'].port}" for name in GATEWAYS]

    def start(self, name: str) -> None:
        """Start a process that is down, as its operator should."""
        if name == "database":
            influxd.mend(self.data)
        self.processes[name].start()

    def join(self) -> None:
        """One more consumer."""
        self.chain.add_consumer(**self.consumer_environment)
        self.processes["joiner"] = self.chain.consumers[-1].process

    def leave(self) -> None:
        """It ends in order."""
        self.processes.pop("joiner").stop()
        self.chain.consumers.pop()

    def fill_disk(self) -> None:
        """Leave the database no room, though it takes some itself meanwhile."""
        with (self.disk / "filler").open("wb", buffering=0) as filler:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):  # no space left on device
                    while True:
                        filler.write(bytes(size))

    def empty_disk(self) -> None:
        """Give it back."""
        (self.disk / "filler").unlink()


@contextmanager
def running(folder: Path, tell: Callable[[str], None]) -> Iterator[Rig]:
    """Kafka, InfluxDB, two gateways, three consumers; whatever happens, all of it ends.

    Raises StartFailed, PreparationFailed.
    """
    kafka.ensure(tell)
    influxd.ensure(tell)
    with ExitStack() as stack:
        tell("starting Kafka, InfluxDB, two gateways and three consumers")
        for_gateways, for_consumers = free_ports(2)
        links = {
            "gateways-broker": Proxy(LOOPBACK, for_gateways),
            "consumers-broker": Proxy(LOOPBACK, for_consumers),
        }
        broker = stack.enter_context(
            kafka.start(
                folder / "kafka",
                listeners={
                    "GATEWAYS": (for_gateways, links["gateways-broker"].port),
                    "CONSUMERS": (for_consumers, links["consumers-broker"].port),
                },
            )
        )
        data = folder / "influxd"
        disk = stack.enter_context(_own_disk(data / "engine"))
        database = stack.enter_context(influxd.start(data))
        links["consumers-database"] = Proxy(LOOPBACK, database.port)
        chain = stack.enter_context(provisioned(folder, broker.bootstrap_servers, database))
        rig = Rig(chain, broker.bootstrap_servers, data, disk)
        rig.processes |= {"broker": broker.process, "database": database.process}
        for name, proxy in links.items():
            rig.links[name] = stack.enter_context(proxy)
        rig.consumer_environment |= {
            "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": _address(links["consumers-broker"]),
            "STEPCLOCK_INFLUX_URL": f"http://{_address(links['consumers-database'])}",
        }
        servers = _address(links["gateways-broker"])
        for name in GATEWAYS:
            chain.add_gateway(STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS=servers)
            gateway = chain.gateways[-1]
            rig.processes[name] = gateway.process
            port = int(gateway.url.rpartition(":")[2])
            rig.links[f"clients-{name}"] = stack.enter_context(Proxy(LOOPBACK, port))
        for name in CONSUMERS:
            chain.add_consumer(**rig.consumer_environment)
            rig.processes[name] = chain.consumers[-1].process
        yield rig


def _address(proxy: Proxy) -> str:
    return f"{LOOPBACK}:{proxy.port}"


@contextmanager
def _own_disk(folder: Path) -> Iterator[Path | None]:
    """A small file system of its own in a folder; None where we may not mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "stepclock-faults", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
