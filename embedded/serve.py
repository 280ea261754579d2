"""`stepclock-server serve`: gateway, log, worker and store in one process."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

from adapters.settings import load_retention
from consumers.dead_letters import DeadLetters
from consumers.errors import ConsumerStopped, LossAccepted
from consumers.views import WallView
from consumers.worker import Worker
from embedded.log.file import SqliteLog
from embedded.log.progress import SqliteProgress
from embedded.log.publisher import SqlitePublisher
from embedded.log.source import SqliteSource
from embedded.server_thread import ServerThread
from embedded.settings import ServeSettings
from embedded.store.store import SqliteStore
from embedded.upkeep import Upkeep
from ingest.app import Dependencies, create_app
from ingest.http.bounds import ConnectionBounds
from ingest.http.server import HttpServer, run_http
from ingest.keys.auth import KeyStore
from ingest.keys.credentials import ensure_keys
from janitor.janitor import Janitor
from janitor.loop import Loop
from janitor.namespaces import Namespaces
from schemas.canary import class_of_canaries
from schemas.log.protocols import DEAD_LETTER_TOPIC, topic_of
from schemas.retention import Kind
from telemetry.logs import configure

_log = logging.getLogger("stepclock.embedded")


def log_path(data_dir: Path) -> Path:
    """Where the embedded log lies."""
    return data_dir / "log.db"


def store_path(data_dir: Path) -> Path:
    """Where the embedded store lies."""
    return data_dir / "store.db"


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

    def new_source() -> SqliteSource:
        return SqliteSource(log, store_path(data_dir))

    def work(stop: threading.Event) -> None:
        while not stop.is_set():
            _work(new_source(), store, DeadLetters(publisher), topics, settings, stop)

    upkeep = Upkeep(
        log,
        store,
        new_source,
        [*topics, DEAD_LETTER_TOPIC],
        log_keep_ms=settings.log_keep_h * 3_600_000,
    )
    janitor = Janitor(
        store,
        store,
        Namespaces(keys_file),
        settings.patience,
        class_of_canaries(retention),
        max_deletions=settings.janitor_max_deletions,
    )
    worker = ServerThread("worker", work)
    others = [
        ServerThread("upkeep", upkeep.run),
        ServerThread("janitor", Loop(janitor, interval_s=settings.janitor_interval_s).run),
    ]
    progress = SqliteProgress(log, store_path(data_dir), DEAD_LETTER_TOPIC)
    app = create_app(
        settings,
        Dependencies(publisher, progress, store, keys, retention, store.ping, look_every_s=0.1),
    )

    def on_started(server: HttpServer) -> None:
        keys.reload_on_hangup()
        for thread in (worker, *others):
            thread.watch(server)

    for thread in (worker, *others):
        thread.start()
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
        for thread in others:
            thread.stop()
        worker.stop()  # while it drains, it may still have to write dead letters
        publisher.close(settings.drain_s)
        store.close()
    if isinstance(worker.failure, ConsumerStopped):
        return 1  # it has said what to do
    for thread in (worker, *others):
        if thread.failure is not None:
            raise thread.failure
    return code


def _work(
    source: SqliteSource,
    store: SqliteStore,
    dead_letters: DeadLetters,
    topics: list[str],
    settings: ServeSettings,
    stop: threading.Event,
) -> None:
    """One worker until stop is set, or until it has accepted a loss."""
    worker = Worker(
        source,
        store,
        dead_letters,
        topics=topics,
        views=[WallView()],  # the embedded store keeps the step clock by itself
        settings=settings,
    )
    try:
        worker.run(stop)
    except LossAccepted as exc:
        _log.warning("%s", exc)
