"""Group commit and circuit breaker against a model, move by move."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ingest.errors import Internal, Unavailable
from ingest.publish import group_commit
from ingest.publish.circuit_breaker import CircuitBreaker, CircuitState
from ingest.publish.group_commit import BlockKey, GroupCommit
from ingest.publish.origin import Origin, Piece
from schemas.line_protocol.precision import Precision
from schemas.log.protocols import LogUnavailable, RecordRefused

MAX_PENDING_BYTES = 200
MAX_BLOCK_BYTES = 40
KEYS = [
    BlockKey("stepclock.raw", partition, tenant, "lab", Precision.NS, multiline=False)
    for partition in (0, 1)
    for tenant in ("vision", "audio")
]


class Publisher:
    """Keeps every send in flight until the machine decides."""

    def __init__(self):
        self.flying = []  # (future, partition, lines) in the order of the sends

    def send(self, topic, partition, value, headers):
        future = Future()
        future.set_running_or_notify_cancel()
        self.flying.append((future, partition, value))
        return future


class GroupCommitMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.errors = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.block_bytes, group_commit.MAX_BLOCK_BYTES = (
            group_commit.MAX_BLOCK_BYTES,
            MAX_BLOCK_BYTES,
        )
        self.publisher = Publisher()
        self.breaker = CircuitBreaker()
        self.sent = []  # (key, line, waiter) in the order of the requests
        self.log = {0: [], 1: []}  # partition -> lines of each block that the log took
        self.count = 0
        self.gone = set()  # waiters whose clients hung up
        self.max_in_flight = 0

    @initialize(in_flight=st.integers(1, 3))
    def begin(self, in_flight):
        self.max_in_flight = in_flight
        self.commits = GroupCommit(
            self.publisher,
            self.breaker,
            max_pending_bytes=MAX_PENDING_BYTES,
            max_in_flight=in_flight,
        )

    def turn(self):
        async def callbacks_run():
            for _ in range(3):
                await asyncio.sleep(0)

        self.loop.run_until_complete(callbacks_run())

    @rule(key=st.sampled_from(KEYS), padding=st.integers(0, 30))
    def add(self, key, padding):
        line = b"%d," % self.count + b"x" * padding
        size = len(line) + 1
        held = [(each.tenant, len(text) + 1) for each, text, _ in self.unsettled()]
        own = sum(bytes_ for tenant, bytes_ in held if tenant == key.tenant)
        free = MAX_PENDING_BYTES - sum(bytes_ for _, bytes_ in held) - size
        is_full = free < 0 or (own > 0 and own + size > 2 * free)
        refuses = self.breaker.refuses()

        async def request():
            self.commits.check(key.tenant, size)
            return self.commits.add(key, Piece(line, 1), Origin(1))

        try:
            waiter = self.loop.run_until_complete(request())
        except Unavailable:
            assert refuses or is_full
            return
        assert not refuses
        assert not is_full
        self.count += 1
        self.sent.append((key, line, waiter))

    @precondition(lambda self: self.publisher.flying)
    @rule(data=st.data())
    def acknowledge(self, data):
        future, partition, value = self.take(data)
        self.log[partition].append(value)
        future.set_result(len(self.log[partition]) - 1)
        self.turn()

    @precondition(lambda self: self.publisher.flying)
    @rule(
        data=st.data(),
        error=st.sampled_from([LogUnavailable("away"), RecordRefused("no"), RuntimeError("bug")]),
    )
    def fail(self, data, error):
        future, _, _ = self.take(data)
        future.set_exception(error)
        self.turn()
        if not isinstance(error, RecordRefused):
            assert self.breaker.state is CircuitState.OPEN

    @rule()
    def probe(self):
        self.breaker.probe_succeeded()
        assert self.breaker.state is not CircuitState.OPEN

    @precondition(lambda self: any(not waiter.done() for _, _, waiter in self.sent))
    @rule(data=st.data())
    def hang_up(self, data):
        waiting = [waiter for _, _, waiter in self.sent if not waiter.done()]
        waiter = data.draw(st.sampled_from(waiting))
        waiter.cancel()
        self.gone.add(waiter)
        self.turn()

    def take(self, data):
        at = data.draw(st.integers(0, len(self.publisher.flying) - 1))
        return self.publisher.flying.pop(at)

    def unsettled(self):
        """Requests whose lines wait for a block, or for what becomes of one."""
        held = b"\n".join(
            text
            for by_key in self.commits._open.values()
            for blocks in by_key.values()
            for block in blocks
            for text in block.chunks
        ).split(b"\n")
        flying = [text for _, _, value in self.publisher.flying for text in value.split(b"\n")]
        alive = {*held, *flying}
        for key, text, waiter in self.sent:
            assert waiter.done() is (text not in alive) or waiter in self.gone
            if text in alive:
                yield key, text, waiter

    @invariant()
    def what_is_held_is_what_waits(self):
        assert self.errors == []
        expected = sum(len(text) + 1 for _, text, _ in self.unsettled())
        assert self.commits._pending.held_bytes == expected <= MAX_PENDING_BYTES

    @invariant()
    def few_blocks_of_a_partition_are_in_flight_and_none_waits_without_need(self):
        for partition in (0, 1):
            flying = sum(1 for _, where, _ in self.publisher.flying if where == partition)
            waits = any(self.commits._open[("stepclock.raw", partition)].values())
            assert flying <= self.max_in_flight
            assert not waits or flying == self.max_in_flight or self.breaker.trying

    @invariant()
    def whoever_was_told_success_is_in_the_log_and_in_order(self):
        last = {}
        for key, text, waiter in self.sent:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                offset = waiter.result()
                assert text in self.log[key.partition][offset].split(b"\n")
            elif waiter.done() and not waiter.cancelled():
                assert isinstance(waiter.exception(), Unavailable | Internal)
        for partition, blocks in self.log.items():
            if self.max_in_flight == 1:
                for number, block in enumerate(blocks):
                    for text in block.split(b"\n"):
                        key = next(key for key, line, _ in self.sent if line == text)
                        came = int(text.partition(b",")[0])
                        assert last.get((partition, key), -1) < came, number
                        last[partition, key] = came

    def teardown(self):
        group_commit.MAX_BLOCK_BYTES = self.block_bytes
        if self.max_in_flight:
            while self.publisher.flying:
                future, partition, value = self.publisher.flying.pop(0)
                self.log[partition].append(value)
                future.set_result(len(self.log[partition]) - 1)
                self.turn()
            self.loop.run_until_complete(self.commits.drain(1.0))
            self.turn()
            assert self.commits._pending.held_bytes == 0
            for _, _, waiter in self.sent:
                assert waiter.done()
                if not waiter.cancelled():
                    waiter.exception()  # seen
            assert self.errors == []
        self.loop.close()


TestGroupCommitMachine = GroupCommitMachine.TestCase
TestGroupCommitMachine.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)
