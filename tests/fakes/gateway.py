"""The gateway's application on the log and the store in memory."""

import asyncio
import contextlib

from ingest.app import Dependencies, create_app
from ingest.keys.auth import KeyStore
from ingest.settings import HttpSettings
from schemas import retention
from schemas.log.block import decode
from schemas.store.protocols import RunSeries, RunSummary, StoredPoint, StoreUnavailable
from schemas.tenants.keys import Role, new_key
from schemas.tenants.keys_file import dump
from tests.asgi import AsgiClient, lifespan
from tests.fakes.memory_log import MemoryLog

CLASSES = retention.parse(retention.default_text())
TOPICS = {"stepclock.dlq": 1, "stepclock.raw": 4, "stepclock.system": 1, "stepclock.events": 1}


class Reader:
    """Answers the read routes, or says that the store is away."""

    away = False
    breaks_off = False

    def __init__(self):
        self.asked_points = []

    def experiments(self, namespace):
        if self.away:
            raise StoreUnavailable("connection refused")
        return [f"of-{namespace}"]

    def runs(self, namespace, experiment):
        return [
            RunSummary("r1", 0, 9, 123),
            RunSummary("r2", None, None, 124, "failed", 3, "ValueError: no memory"),
        ]

    def series(self, query):
        self.asked = query
        return [RunSeries("r1", (0, 5), (1.0, 2.0), (0.5, 2.0), (1.5, 2.0), (5, 5))]

    def metrics(self, namespace, experiment, clock):
        return [f"by-{clock}", "loss"]

    def points(self, namespace, retention_class, experiment, run=None):
        self.asked_points.append((namespace, retention_class, experiment, run))
        if self.away:
            raise StoreUnavailable("connection refused")
        if experiment == "nonfinite":
            for name, kind in [("resnet", "nan"), ("another", "inf")]:
                tags = {"run": run, "rank": "0", "experiment": name, "metric": "lr", "kind": kind}
                yield StoredPoint(experiment, tags, 8_000_000, {"count": 1.0, "step": 8})
            return
        yield StoredPoint(experiment, {"run": run}, 7_000_000, {"loss": 0.5, "step": 7})
        if self.breaks_off:
            raise StoreUnavailable("connection lost")


class Gateway:
    def __init__(self, tmp_path, **settings):
        self.log = MemoryLog(TOPICS)
        self.reader = Reader()
        self.key, record = new_key("vision")
        self.other_key, other = new_key("other")
        self.small_key, small = new_key("small", rate=10, burst=20)
        self.read_key, reader = new_key("analyst", role=Role.READ)
        path = tmp_path / "keys.toml"
        path.write_text(dump([record, other, small, reader]))
        self.keys = KeyStore(path)
        self.app = create_app(
            HttpSettings(**{"canary_s": 0} | settings),
            Dependencies(
                self.log.publisher(),
                self.log.progress("stepclock.dlq"),
                self.reader,
                self.keys,
                CLASSES,
                look_every_s=0.01,
            ),
        )
        self.client = AsgiClient(self.app, self.key)

    def blocks(self, topic="stepclock.raw"):
        return [decode(r.headers, r.value) for r in self.log.records(topic)]

    def lines(self, topic="stepclock.raw"):
        return [line for block in self.blocks(topic) for line in block.lines.split(b"\n")]


@contextlib.asynccontextmanager
async def running(tmp_path, **settings):
    gateway = Gateway(tmp_path, **settings)
    async with lifespan(gateway.app):
        yield gateway


def scenario(test):
    """Run an async test that takes a running gateway."""

    def run(tmp_path):
        async def body():
            async with running(tmp_path) as gateway:
                await test(gateway)

        asyncio.run(body())

    run.__name__ = test.__name__
    return run
