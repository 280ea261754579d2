"""`stepclock-server serve`: gateway, log, worker and store in one process."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

from adapters.retention import load_retention
from consumers.dead_letters import DeadLetters
from consumers.errors import ConsumerStopped, LossAccepted
from consumers.views import WallView
from consumers.worker import Worker
from embedded.janitor_thread import JanitorThread
from embedded.log import SqliteLog
from embedded.log_publisher import SqlitePublisher
from embedded.log_source import SqliteSource
from embedded.progress import SqliteProgress
from embedded.settings import ServeSettings
from embedded.store import SqliteStore
from embedded.upkeep import Upkeep
from ingest.app import Dependencies, create_app
from ingest.auth import KeyStore
from ingest.connection_bounds import ConnectionBounds
from ingest.credentials import ensure_keys
from ingest.server import HttpServer, run_http
from janitor.janitor import Janitor
from janitor.loop import Loop
from janitor.namespaces import Namespaces
from schemas.canary import class_of_canaries
from schemas.retention import Kind
from schemas.topics import DEAD_LETTER_TOPIC, topic_of
from telemetry.logs import configure

_log = logging.getLogger("stepclock.embedded")


def log_path(data_dir: Path) -> Path:
    """Where the embedded log lies."""
    return data_dir / "log.db"


def store_path(data_dir: Path) -> Path:
    """Where the embedded store lies."""
    return data_dir / "store.db"


class WorkerThread(threading.Thread):
    """The consumer's loop beside the HTTP server. If it fails, the process must end."""

    def __init__(
        self,
        log: SqliteLog,
        store: SqliteStore,
        publisher: SqlitePublisher,
        topics: list[str],
        settings: ServeSettings,
    ) -> None:
        super().__init__(name="worker")
        self._sqlite_log = log
        self._store = store
        self._publisher = publisher
        self._topics = topics
        self._settings = settings
        self._stop_event = threading.Event()
        self._server: HttpServer | None = None
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Work until stopped; the connections belong to this thread."""
        try:
            while not self._stop_event.is_set():
                self._work()
        except BaseException as exc:  # noqa: BLE001 - carried to the main thread, which ends with it
            self.failure = exc
            _log.critical("the worker failed, the server stops: %s", exc)
            if self._server is not None:
                self._server.stop()

    def _work(self) -> None:
        worker = Worker(
            SqliteSource(self._sqlite_log, store_path(self._settings.data_dir)),
            self._store,
            DeadLetters(self._publisher),
            topics=self._topics,
            views=[WallView()],  # the embedded store keeps the step clock by itself
            settings=self._settings,
        )
        try:
            worker.run(self._stop_event)
        except LossAccepted as exc:
            _log.warning("%s", exc)

    def watch(self, server: HttpServer) -> None:
        """Have the server stop when the worker fails."""
        self._server = server
        if self.failure is not None:
            server.stop()

    def stop(self) -> None:
        """Drain and end."""
        self._stop_event.set()
        self.join()


def run(settings: ServeSettings) -> int:
    """Serve until SIGTERM (0) or SIGINT (130); 1 if the worker failed."""
    configure(settings.log_level, settings.audit_file)
    sys.setswitchinterval(0.0005)  # the worker's thread must not hold answers back
    data_dir = settings.data_dir
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    retention = load_retention(settings.retention_file)
    keys_file = ensure_keys(settings.keys_file, data_dir, settings.host)
    keys = KeyStore(keys_file)
    topics = [topic_of(c.name) for c in retention.values() if c.kind is Kind.INGEST]

    log = SqliteLog(log_path(data_dir), [*topics, DEAD_LETTER_TOPIC])
    # Our own bound answers first, and without opening the circuit: it leaves room for headers.
    publisher = SqlitePublisher(log, max_queued_bytes=2 * settings.max_pending_bytes)
    store = SqliteStore(
        store_path(data_dir), retention=retention, volatile_tags=settings.volatile_tags
    )
    worker = WorkerThread(log, store, publisher, topics, settings)
    upkeep = Upkeep(
        log,
        store,
        lambda: SqliteSource(log, store_path(data_dir)),
        [*topics, DEAD_LETTER_TOPIC],
        log_keep_ms=settings.log_keep_h * 3_600_000,
    )
    janitor = JanitorThread(
        Loop(
            Janitor(
                store,
                store,
                Namespaces(keys_file),
                settings.patience,
                class_of_canaries(retention),
                max_deletions=settings.janitor_max_deletions,
            ),
            interval_s=settings.janitor_interval_s,
        )
    )
    progress = SqliteProgress(log, store_path(data_dir), DEAD_LETTER_TOPIC)
    app = create_app(
        settings,
        Dependencies(publisher, progress, store, keys, retention, store.ping, look_every_s=0.1),
    )

    def on_started(server: HttpServer) -> None:
        keys.reload_on_hangup()
        worker.watch(server)
        upkeep.watch(server)
        janitor.watch(server)

    worker.start()
    upkeep.start()
    janitor.start()
    try:
        code = run_http(
            app,
            settings.host,
            settings.port,
            address_file=settings.address_file or data_dir / "serve.url",
            drain_s=settings.drain_s,
            bounds=ConnectionBounds.of(settings),
            tls=settings.tls_context(),
            on_started=on_started,
        )
    finally:
        janitor.stop()
        upkeep.stop()
        worker.stop()  # while it drains, it may still have to write dead letters
        publisher.close(settings.drain_s)
        store.close()
    if isinstance(worker.failure, ConsumerStopped):
        return 1  # it has said what to do
    failure = worker.failure or upkeep.failure or janitor.failure
    if failure is not None:
        raise failure
    return code
