"""A Kafka broker as a local process: KRaft, one node, on the loopback interface."""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from native.kafka_files import KafkaFiles, ensure_files, kafka_files, missing
from native.ports import LOOPBACK, free_ports
from native.process import Process, Service
from native.step import Report, exclusive

__all__ = ["Broker", "ensure", "missing", "start"]

READY_TIMEOUT_S = 90.0

#: Settings of server.properties that hold wherever the broker runs. Everything else, such as
#: the largest record (1 MiB), is Kafka's default.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "log.cleaner.dedupe.buffer.size": "8388608",
    # After a kill the broker can only come back when its old session has run out.
    "broker.session.timeout.ms": "1500",
    "broker.heartbeat.interval.ms": "250",
}


@dataclass(frozen=True, slots=True)
class Broker(Service):
    """A running broker. Leaving its block stops it; its data stays in its folder."""

    #: Where it listens; clients are sent to advertised_port.
    port: int
    advertised_port: int
    folder: Path

    @property
    def bootstrap_servers(self) -> str:
        """The address for clients, by way of the proxy where one was named."""
        return f"{LOOPBACK}:{self.advertised_port}"


def ensure(report: Report) -> Path:
    """Prepare all that a start needs, and the class archive that makes it quick; its folder.

    About 30 s the first time, nothing later. Raises PreparationFailed or StartFailed.
    """
    files = ensure_files(report)
    if not files.archive.exists():
        with exclusive(files.home.parent, report) as work:
            if not files.archive.exists():
                _archive_classes(files, work, report)
    return files.home


def start(
    folder: Path,
    *,
    port: int | None = None,
    advertised_port: int | None = None,
    heap_mb: int = 256,
    settings: Mapping[str, str] | None = None,
    listeners: Mapping[str, tuple[int, int]] | None = None,
) -> Broker:
    """Start a broker with its data in `folder`, and return once it serves requests.

    Data that an earlier broker left in the folder is kept. Topics are not made on first use.
    `port` is a free one unless given. Give `advertised_port` to put a proxy in front: clients
    are then told to connect there. `settings` are further lines of server.properties.
    `listeners` are further ones by name, each with its port and the port that clients who come
    there are told: so that different clients can come through different proxies. The files must
    have been prepared by `ensure`. Raises StartFailed.
    """
    broker = _broker(
        folder,
        kafka_files(),
        ports=(port, advertised_port),
        jvm_options=[f"-Xmx{heap_mb}m", f"-XX:SharedArchiveFile={kafka_files().archive}"],
        settings=settings or {},
        listeners=listeners or {},
    )
    broker.process.start()
    return broker


def _broker(
    folder: Path,
    files: KafkaFiles,
    *,
    ports: tuple[int | None, int | None],
    jvm_options: list[str],
    settings: Mapping[str, str],
    listeners: Mapping[str, tuple[int, int]],
) -> Broker:
    free_port, controller_port = free_ports(2)
    port = ports[0] or free_port
    advertised_port = ports[1] or port
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    if not data.exists():
        shutil.copytree(files.formatted, data)
    properties = folder / "server.properties"
    controller = f"{LOOPBACK}:{controller_port}"
    all_listeners = {"PLAINTEXT": (port, advertised_port), **listeners}
    listening = [f"{name}://{LOOPBACK}:{own}" for name, (own, _) in all_listeners.items()]
    advertised = [f"{name}://{LOOPBACK}:{told}" for name, (_, told) in all_listeners.items()]
    merged = {
        **SETTINGS,
        "listeners": ",".join([*listening, f"CONTROLLER://{controller}"]),
        "advertised.listeners": ",".join(advertised),
        "listener.security.protocol.map": ",".join(
            f"{name}:PLAINTEXT" for name in (*all_listeners, "CONTROLLER")
        ),
        "controller.quorum.voters": f"1@{controller}",
        "log.dirs": str(data),
        **settings,
    }
    properties.write_text("".join(f"{key}={value}\n" for key, value in merged.items()))
    process = Process(
        "Kafka",
        [
            "java",
            *jvm_options,
            # A broker of a test lives for seconds: cheap compilation and collection win.
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={files.logging}",
            *("-cp", files.classpath, "kafka.Kafka", str(properties)),
        ],
        log_path=folder / "kafka.log",
        ready=lambda: serves(LOOPBACK, port),
        ready_timeout_s=READY_TIMEOUT_S,
    )
    return Broker(process=process, port=port, advertised_port=advertised_port, folder=folder)


def _archive_classes(files: KafkaFiles, work: Path, report: Report) -> None:
    """Run a broker once; as it ends, the JVM writes down every class it had loaded."""
    report("Kafka: archiving classes for quicker starts …")
    unfinished = work / "classes.jsa"
    broker = _broker(
        work,
        files,
        ports=(None, None),
        jvm_options=["-Xmx256m", f"-XX:ArchiveClassesAtExit={unfinished}"],
        settings={},
        listeners={},
    )
    broker.process.start()
    broker.process.stop(grace_s=120.0)
    if unfinished.exists():  # a JVM that can't archive still starts a broker, only slower
        unfinished.rename(files.archive)


def serves(host: str, port: int) -> bool:
    """Whether a broker there answers Metadata (API 3, version 1, no topics) with itself in it.

    An open port is not enough: a broker listens before it may serve, and after a kill it waits
    for its old session to run out.
    """
    request = struct.pack(">hhihi", 3, 1, 0, -1, 0)
    try:
        with (
            socket.create_connection((host, port), timeout=2.0) as connection,
            connection.makefile("rb") as answers,
        ):
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = answers.read(12)
    except OSError:
        return False
    if len(answer) < 12:
        return False
    _size, _correlation, brokers = struct.unpack(">iii", answer)
    return bool(brokers == 1)
