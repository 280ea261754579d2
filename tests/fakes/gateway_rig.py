"""A gateway between clients and a log in memory, in virtual time, which may die at any moment."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from starlette.types import Scope

from ingest import errors
from ingest.errors import GatewayError, Unavailable
from ingest.http.body import Bounds
from ingest.limits.byte_budget import ByteBudget, Held
from ingest.limits.charges import Charges
from ingest.limits.dry_run import DryRun
from ingest.limits.series_limit import Mode, SeriesLimiter
from ingest.limits.tenant_limits import TenantLimits
from ingest.limits.token_bucket import Limit
from ingest.publish.circuit_breaker import CircuitBreaker
from ingest.publish.group_commit import GroupCommit
from ingest.publish.part_publisher import PartPublisher
from ingest.publish.supervisor import supervise_log
from ingest.write.ingest_classes import IngestClasses, Target
from ingest.write.pipeline import Admitted, Response, WritePipeline
from ingest.write.validation_queue import ValidationQueue, Work
from schemas import retention
from schemas.admission.admission import Part
from schemas.line_protocol.precision import Precision
from schemas.log import receipt
from schemas.log.protocols import Headers, LogUnavailable, RecordRefused
from schemas.log.receipt import BlockPosition
from schemas.tenants.keys import KeyRecord, Tenant
from tests.fakes.memory_log import MemoryLog, MemoryPublisher
from tests.fakes.virtual_loop import EPOCH_NS, VirtualLoop

CLASSES = retention.parse(retention.default_text())
LIMIT = Limit(10**9, 10**9)

#: Seconds after which a publisher gives a record up.
DEADLINE_S = 10.0


class Crash(SystemExit):
    """The process dies here; as SystemExit it leaves the event loop at once."""


class Moments:
    """The calls to the outside, counted; at the chosen one the process dies."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.passed = 0
        self.dies_at = dies_at

    def one(self) -> None:
        self.passed += 1
        if self.passed == self.dies_at:
            raise Crash


@dataclass(slots=True)
class Weather:
    """What becomes of a send: chances of each fate, which need not sum to one."""

    lost: float = 0.0  # never lands; fails at the deadline
    late: float = 0.0  # fails at the deadline, and lands afterwards
    unheard: float = 0.0  # lands at once, but its acknowledgement does not come in time
    failed: float = 0.0  # fails at once
    refused: float = 0.0  # the log refuses the record
    broken: float = 0.0  # the publisher itself has a bug
    ack_s: tuple[float, float] = (0.001, 0.02)

    @property
    def is_away(self) -> bool:
        return self.lost + self.late + self.failed > 0.5


FINE = Weather()
SLOW = Weather(ack_s=(0.5, 9.5))
AWAY = Weather(lost=0.4, late=0.4, unheard=0.2)
ROUGH = Weather(lost=0.1, late=0.1, unheard=0.1, failed=0.2, refused=0.05, broken=0.05)
DOWN = Weather(failed=1.0)


class WeatherPublisher:
    """schemas.log.protocols.Publisher over a log in memory, in whose way the weather stands."""

    def __init__(self, world: World, moments: Moments) -> None:
        self._world = world
        self._moments = moments
        self._inner: MemoryPublisher = world.log.publisher()

    def partition_count(self, topic: str) -> int:
        return self._inner.partition_count(topic)

    def probe(self, timeout_s: float) -> None:
        self._moments.one()
        if self._world.weather.is_away:
            raise LogUnavailable("no answer")

    def close(self, timeout_s: float) -> None:
        """Nothing to release."""

    def send(self, topic: str, partition: int, value: bytes, headers: Headers) -> Future[int]:
        self._moments.one()
        world, weather = self._world, self._world.weather
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()

        def land() -> int:
            return self._inner.send(topic, partition, value, headers).result(0)

        def give_up() -> None:
            self._moments.one()
            future.set_exception(LogUnavailable("not acknowledged in time"))

        def acknowledge(offset: int) -> None:
            self._moments.one()
            future.set_result(offset)

        later = world.loop.call_later
        match world.fate():
            case "lost":
                later(DEADLINE_S, give_up)
            case "late":
                later(DEADLINE_S, give_up)
                later(DEADLINE_S + world.rng.uniform(0, 5), land)
            case "unheard":
                land()
                later(DEADLINE_S, give_up)
            case "failed":
                future.set_exception(LogUnavailable("no broker"))
            case "refused":
                future.set_exception(RecordRefused("too large"))
            case "broken":
                raise RuntimeError("a bug in the client library")
            case _:
                offset = land()
                self._moments.one()
                later(world.rng.uniform(*weather.ack_s), acknowledge, offset)
        return future


@dataclass(slots=True)
class Client:
    """One stream. Sends its requests in order, each again until it is acknowledged."""

    name: str
    tenant: Tenant
    requests: list[list[tuple[str, Part]]]
    width: int = 1  # how many requests are under way at once
    acknowledged: dict[int, list[BlockPosition]] = field(default_factory=dict)


class World:
    """What outlives a gateway: the log, its weather, the clients and what they were told."""

    def __init__(self, rng: random.Random, clients: list[Client], *, partitions: int = 2) -> None:
        self.rng = rng
        self.clients = clients
        self.weather = FINE
        self.loop = self._loop_from(0.0)
        topics = {"stepclock.raw": partitions, "stepclock.events": 1, "stepclock.system": 1}
        topics["stepclock.dlq"] = 1
        self.log = MemoryLog(topics, clock=self.now)
        self.answers = {"stored": 0, "unavailable": 0, "failed": 0}

    def now(self) -> float:
        return self.loop.time()

    def fate(self) -> str | None:
        roll = self.rng.random()
        for name in ("lost", "late", "unheard", "failed", "refused", "broken"):
            roll -= getattr(self.weather, name)
            if roll < 0:
                return name
        return None

    def new_loop(self) -> None:
        """The next process begins where the time stands now."""
        self.loop.close()
        self.loop = self._loop_from(self.loop.time())

    def _loop_from(self, start_s: float) -> VirtualLoop:
        return VirtualLoop(start_s=start_s, thread_s=lambda: self.rng.uniform(0.0, 3.0))


class OpenDoor:
    """Stands for a KeyStore: whoever comes is the tenant that it says."""

    def authenticate(self, key: str | None) -> KeyRecord:
        return KeyRecord("k", "0" * 64, Tenant(key or ""))


class Made:
    """ingest.write.pipeline.Decoder of a client's request, whose parts are made already."""

    dialect = staticmethod(errors.problem)
    inline_bytes = 0

    def __init__(self, tenant: Tenant, parts: list[tuple[str, Part]]) -> None:
        self._tenant = tenant
        self._parts = parts

    def key(self, scope: Scope) -> str:
        return self._tenant.name

    def target(self, query: bytes) -> Target:
        return Target(None, "raw", Precision.NS)

    def points(self, body: bytes) -> int:
        return 1

    def decode(
        self, body: bytes, target: Target, classes: IngestClasses, held: Held
    ) -> Work[Admitted]:
        yield 0
        return Admitted(self._parts, len(self._parts))

    def answer(self, admitted: Admitted, receipt: str | None) -> Response:
        assert receipt is not None
        return 204, [], receipt.encode()


async def no_body() -> dict[str, object]:
    return {"type": "http.request"}


class Gateway:
    """One life of the process."""

    def __init__(
        self,
        world: World,
        moments: Moments,
        *,
        max_pending_bytes: int = 10**7,
        max_in_flight: int = 1,
    ) -> None:
        self.world = world
        publisher = WeatherPublisher(world, moments)
        self.breaker = CircuitBreaker()
        self.commits = GroupCommit(
            publisher,
            self.breaker,
            max_pending_bytes=max_pending_bytes,
            max_in_flight=max_in_flight,
            now=world.loop.time,
        )
        dry_run = DryRun(everybody=False, now=world.loop.time)
        self.pipeline = WritePipeline(
            OpenDoor(),
            Bounds(1000, 1000, ByteBudget("reading", "read buffer", 10**6)),
            self.commits,
            Charges(
                TenantLimits(LIMIT, now_ns=world.loop.time_ns),
                dry_run,
                SeriesLimiter(Mode.OFF, 1, dry_run, now_ns=world.loop.time_ns),
            ),
            ValidationQueue(now=world.loop.time),
            IngestClasses(CLASSES, world.loop.time_ns),
            PartPublisher(publisher, self.commits),
        )
        self.supervisor = supervise_log(publisher, self.breaker, asyncio.Event())
        #: (stream, key of its blocks) -> offsets in the order in which their requests came.
        self.order: dict[object, list[tuple[int, int]]] = {}
        self._came = 0

    async def request(self, client: Client, number: int) -> None:
        """One try; raises GatewayError. While the circuit is open it must fail in no time."""
        world = self.world
        parts = client.requests[number]
        began_s, refuses = world.loop.time(), self.breaker.refuses()
        self._came += 1
        came = self._came
        headers = [
            (b"stepclock-stream", client.name.encode()),
            (b"stepclock-sequence", b"%d" % number),
            (b"stepclock-start", b"%d" % EPOCH_NS),
            (b"stepclock-experiment", b"e"),
            (b"stepclock-run", client.name.encode()),
        ]
        scope = {"headers": headers, "query_string": b""}
        try:
            _, _, text = await self.pipeline.write(Made(client.tenant, parts), scope, no_body)
            assert not refuses, "taken although the circuit is open"
        except Unavailable as exc:
            _check_refusal(exc, waited_s=world.loop.time() - began_s if refuses else 0.0)
            world.answers["unavailable"] += 1
            raise
        except GatewayError:
            world.answers["failed"] += 1
            raise
        world.answers["stored"] += 1
        positions = list(receipt.decode(text.decode()))
        client.acknowledged[number] = positions
        for (class_name, part), position in zip(parts, positions, strict=True):
            key = (client.name, class_name, part.precision, part.multiline)
            self.order.setdefault(key, []).append((came, position.offset))

    async def serve(self, client: Client) -> None:
        """Send what is not acknowledged yet, `width` requests at a time."""
        todo = [n for n in range(len(client.requests)) if n not in client.acknowledged]

        async def sender() -> None:
            while todo:
                number = todo.pop(0)
                while number not in client.acknowledged:
                    try:
                        await self.request(client, number)
                    except Unavailable as exc:
                        await asyncio.sleep(exc.retry_after_s * self.world.rng.uniform(1, 1.5))
                    except GatewayError:
                        await asyncio.sleep(1.0)
                await asyncio.sleep(self.world.rng.uniform(0.0, 0.2))

        await asyncio.gather(*(sender() for _ in range(client.width)))


def _check_refusal(error: Unavailable, *, waited_s: float) -> None:
    assert error.retry_after_s >= 1
    assert waited_s == 0.0, "refused, but not at once"


def part_of(text: bytes, precision: Precision = Precision.NS) -> Part:
    return Part(text, text.count(b"\n") + 1, precision, multiline=False)


def run(world: World, main: Callable[[], object]) -> bool:
    """Run one life in the world's loop; False if the process died in it."""
    try:
        world.loop.run_until_complete(main())
    except Crash:
        return False
    assert world.loop.errors == []
    return True
