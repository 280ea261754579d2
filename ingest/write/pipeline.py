"""The write pipeline: every write takes it from request to answer, whatever its protocol.

A protocol brings a `Decoder`; keys, limits, bounds, turns and receipts come from here.
`ingest.app.Gateway.add_write_route` mounts it at a path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.types import Receive, Scope

from ingest.errors import (
    BodyTooLarge,
    Dialect,
    Forbidden,
    GatewayError,
    RetryLater,
    Unavailable,
)
from ingest.http.body import Bounds, read_body, unpack
from ingest.keys.auth import KeyStore
from ingest.limits.byte_budget import Held
from ingest.limits.charges import Charges
from ingest.limits.series_limit import Series
from ingest.publish.group_commit import GroupCommit
from ingest.publish.origin import Origin
from ingest.publish.part_publisher import PartPublisher
from ingest.publish.pieces import joined, steps_of
from ingest.write.ingest_classes import IngestClasses, Target
from ingest.write.validation_queue import ValidationQueue, Work
from schemas.admission.admission import Part
from schemas.store import delivery
from schemas.tenants.keys import KeyRecord, Role, Tenant
from telemetry import metrics

#: Status, headers, body.
Response = tuple[int, list[tuple[bytes, bytes]], bytes]

#: Compressed bodies up to this size take their first turn on the event loop.
_INLINE_BYTES = 256 * 1024


@dataclass(slots=True)
class Admitted:
    """What became of a body.

    parts: admitted lines, each with the class that it goes to. accepted, refused: how many of
    what the client sent, be it lines or rows. stamped: accepted ones that got the gateway's
    time. rejected: the first of rejected_total, as the answer lists them. points: what is
    charged in the end, None for what was charged at first.
    """

    parts: Sequence[tuple[str, Part]]
    accepted: int
    refused: int = 0
    stamped: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)
    rejected_total: int = 0
    points: int | None = None


class Decoder(Protocol):
    """A way in: how its requests are read, and how they are answered.

    inline_bytes: bodies up to this size take their first turn on the event loop, which is cheaper
    than the way to a thread and back. dialect: how errors are said.
    """

    inline_bytes: int

    @property
    def dialect(self) -> Dialect:
        """Such as `errors.problem`; an attribute will do."""

    def key(self, scope: Scope) -> str | None:
        """The key that a request shows. Raises Unauthorized."""

    def target(self, query: bytes) -> Target:
        """Where a query string wants its points. Raises BadRequest."""

    def points(self, body: bytes) -> int:
        """What a body is charged before it is decoded: found quickly, whatever it holds."""

    def decode(
        self, body: bytes, target: Target, classes: IngestClasses, held: Held
    ) -> Work[Admitted]:
        """Decode and validate a body, on any thread; yields how many were refused so far.

        No more than a few milliseconds may lie between two yields, and nothing large may be kept
        over one that is not counted in `held`.

        Raises BadRequest or BodyTooLarge for a body of which nothing can be taken.
        """

    def answer(self, admitted: Admitted, receipt: str | None) -> Response:
        """The answer, once the log holds what was accepted; receipt: None if nothing was.

        May raise BadRequest to refuse in its dialect.
        """


class WritePipeline:
    """Takes writes. Belongs to one event loop; the order of the checks is `write`'s."""

    def __init__(
        self,
        keys: KeyStore,
        bounds: Bounds,
        commits: GroupCommit,
        charges: Charges,
        queue: ValidationQueue,
        classes: IngestClasses,
        publisher: PartPublisher,
    ) -> None:
        self._keys = keys
        self._bounds = bounds
        self._commits = commits
        self._charges = charges
        self._queue = queue
        self._classes = classes
        self._publisher = publisher
        #: Waits for as long as a tenant rests before it hears of a refusal.
        self.pace = queue.refuse

    async def write(self, decoder: Decoder, scope: Scope, receive: Receive) -> Response:
        """Answer one request, or raise an error of `ingest.errors` or ClientGone.

        1. Who is it?  2. What can be refused without the body?  3. Where to, and from where?
        4. Read, charge, decode (`_admit`).  5. Publish.  6. Answer.
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        key = self._keys.authenticate(decoder.key(scope))
        tenant = key.tenant
        self._refuse_early(key, headers.get(b"content-length"))
        target = decoder.target(scope["query_string"])
        self._classes.check(tenant, target)
        now_ns = self._classes.now_ns()
        oldest_ns = self._classes.oldest_ns(delivery.CLASS, now_ns)
        origin = Origin.from_headers(headers, now_ns, oldest_ns or 0)

        admitted, points, charged = await self._admit(decoder, target, tenant, headers, receive)
        receipt = None
        if admitted.parts:
            try:
                receipt = await self._publisher.publish(tenant, admitted.parts, origin)
            except BodyTooLarge:
                # The client's mistake: the charge stays, since all of it was validated.
                metrics.points(tenant.name, "refused").inc(points)
                raise
            except GatewayError:
                await self._charges.give_back(tenant, points, charged)
                raise
            metrics.points(tenant.name, "accepted").inc(admitted.accepted)
            if admitted.stamped:
                metrics.STAMPED.labels(metrics.tenant_label(tenant.name)).inc(admitted.stamped)
        if admitted.refused:
            metrics.points(tenant.name, "refused").inc(admitted.refused)
        return decoder.answer(admitted, receipt)

    def _refuse_early(self, key: KeyRecord, declared: bytes | None) -> None:
        """Cheap refusals before the body is read: role, the log away, full, a tenant in debt.

        A tenant that is refused again and again waits for each answer.
        """
        if key.role is not Role.WRITE:
            raise Forbidden(
                f"key {key.id} may only read; ask for one with role write",
                reason="role",
                actor=f"key:{key.id}",
            )
        self._commits.check_log()
        tenant = key.tenant
        try:
            self._commits.check(tenant.name)
            size = int(declared or 0)
            # What is too large for one request gets a better answer where it would be read.
            self._bounds.budget.check(tenant.name, size if size <= self._bounds.sent else 0)
            self._charges.check_debt(tenant)
        except RetryLater as exc:
            exc.paced = tenant.name
            raise

    async def _admit(
        self,
        decoder: Decoder,
        target: Target,
        tenant: Tenant,
        headers: dict[bytes, bytes],
        receive: Receive,
    ) -> tuple[Admitted, int, int]:
        """What of a body is admitted, how many points that is, and how many were charged.

        Read within bounds, charge an estimate, decode and validate in turns, charge what it turned
        out to be, count new series. Nothing but what was admitted is held afterwards.
        """
        held = Held(self._bounds.budget, tenant.name)
        try:
            body, points, read_s = await self._read(decoder, tenant, headers, receive, held)
            charged = await self._charges.take(tenant, points, read_s)
            try:
                (admitted, series), spent_s = await self._queue.run(
                    tenant.name,
                    self._validate(decoder, body, target, held),
                    receive,
                    read_s,
                    inline=len(body) <= decoder.inline_bytes,
                )
            except Unavailable:
                await self._charges.give_back(tenant, points, charged)
                raise
            if admitted.points is not None and admitted.points != points:
                points = admitted.points
                charged = await self._charges.take_instead(tenant, charged, points, spent_s)
            self._charges.take_series(tenant, series, points, spent_s)
            return admitted, points, charged
        finally:
            held.release()

    async def _read(
        self,
        decoder: Decoder,
        tenant: Tenant,
        headers: dict[bytes, bytes],
        receive: Receive,
        held: Held,
    ) -> tuple[bytes, int, float]:
        """The body, its points at first, and the CPU seconds that this took."""
        encoding = headers.get(b"content-encoding", b"").strip().lower()
        is_plain = encoding in (b"", b"identity")
        max_bytes = self._bounds.sent
        if is_plain:
            max_bytes = min(max_bytes, self._bounds.decompressed)
        try:
            sent = await read_body(receive, headers.get(b"content-length"), max_bytes, held)
        except GatewayError as exc:
            exc.paced = tenant.name
            raise
        if is_plain:
            return sent, decoder.points(sent), 0.0
        (body, points), read_s = await self._queue.run(
            tenant.name,
            self._unpack(decoder, sent, encoding, held),
            receive,
            inline=len(sent) <= _INLINE_BYTES,
        )
        held.give_back(len(sent))
        return body, points, read_s

    def _unpack(
        self, decoder: Decoder, body: bytes, encoding: bytes, held: Held
    ) -> Work[tuple[bytes, int]]:
        unpacked = yield from unpack(body, encoding, self._bounds.decompressed, held)
        return unpacked, decoder.points(unpacked)

    def _validate(
        self, decoder: Decoder, body: bytes, target: Target, held: Held
    ) -> Work[tuple[Admitted, Series]]:
        admitted = yield from decoder.decode(body, target, self._classes, held)
        series: dict[int, bytes] = {}
        pieces: list[tuple[str, Part]] = []
        for class_name, part in admitted.parts:
            steps: list[Part] = []
            for step in steps_of(part):  # one call holds the interpreter
                if pieces or steps:
                    yield admitted.rejected_total
                series |= self._charges.series_of((step,))
                steps.append(step)
            pieces += [(class_name, piece) for piece in joined(steps)]
        admitted.parts = pieces
        return admitted, series
