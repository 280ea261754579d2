"""Histories of a gateway on a virtual clock: weather over the log, crashes, and an oracle."""

from __future__ import annotations

import asyncio
import random

import pytest

from ingest.errors import Unavailable
from ingest.publish.circuit_breaker import CircuitState
from schemas.line_protocol.precision import Precision
from schemas.log.protocols import topic_of
from schemas.tenants.keys import Tenant
from tests.fakes.gateway_rig import (
    AWAY,
    DEADLINE_S,
    DOWN,
    FINE,
    ROUGH,
    SLOW,
    Client,
    Gateway,
    Moments,
    World,
    part_of,
    run,
)
from tests.fakes.simulated import SIMULATED

HISTORIES = 300
CRASH_SEEDS = 12


def clients(rng, requests):
    found = []
    for number in range(rng.randint(3, 6)):
        name = f"s{number}"
        precision = rng.choice([Precision.NS, Precision.MS])
        made = []
        for sequence in range(requests):
            parts = [("raw", part_of(b"m,s=%s v=1 %d" % (name.encode(), sequence), precision))]
            if rng.random() < 0.3:
                parts.append(("events", part_of(b"e,s=%s v=1 %d" % (name.encode(), sequence))))
            made.append(parts)
        tenant = Tenant(rng.choice(["vision", "audio"]))
        found.append(Client(name, tenant, made, width=rng.choice([1, 1, 3])))
    return found


def world_of(seed, *, requests):
    rng = random.Random(seed)
    return World(rng, clients(rng, requests))


async def weather(world, *, until_s):
    """Changes of weather, then fine weather for ever."""
    end = world.loop.time() + until_s
    while world.loop.time() < end:
        world.weather = world.rng.choice([FINE, FINE, SLOW, AWAY, ROUGH, DOWN])
        await asyncio.sleep(world.rng.uniform(0.1, 8.0))
    world.weather = FINE


async def life(world, gateway, *, storm_s=40.0):
    """Every client gets everything acknowledged, through whatever weather there is."""
    supervisor = asyncio.create_task(gateway.supervisor)
    async with asyncio.timeout(3600):
        await asyncio.gather(
            weather(world, until_s=storm_s),
            *(gateway.serve(client) for client in world.clients),
        )
    await settled(world, gateway)
    supervisor.cancel()
    await asyncio.gather(supervisor, return_exceptions=True)


async def settled(world, gateway):
    """Once the log is back and nobody asks: nothing is held, and the circuit lets through."""
    await gateway.commits.drain(2 * DEADLINE_S)
    await asyncio.sleep(2 * DEADLINE_S)
    assert gateway.commits._pending.held_bytes == 0
    assert not any(gateway.commits._open.values())
    assert not any(gateway.commits._in_flight.values())
    assert gateway.breaker.state is not CircuitState.OPEN
    assert not gateway.breaker.trying


def check_log(world):
    """What was acknowledged is in the log where its receipt says, in the order of its stream."""
    values = {}
    for class_name in ("raw", "events"):
        for record in world.log.records(topic_of(class_name)):
            values[class_name, record.partition, record.offset] = record.value.split(b"\n")
    first = {}
    for where, lines in values.items():
        for line in lines:
            first.setdefault((where[0], line), where)
    for client in world.clients:
        for number, positions in client.acknowledged.items():
            for (class_name, part), position in zip(
                client.requests[number], positions, strict=True
            ):
                where = (class_name, position.partition, position.offset)
                assert part.lines in values[where], (client.name, number)
        if client.width == 1:
            raw = [
                first["raw", parts[0][1].lines]
                for parts in client.requests[: len(client.acknowledged)]
            ]
            assert len({partition for _, partition, _ in raw}) <= 1
            assert raw == sorted(raw), f"{client.name} is out of order"


def check_order(gateway):
    """Of the requests with one key, whichever came first lies first, or in the same block."""
    for came in gateway.order.values():
        offsets = [offset for _, offset in sorted(came)]
        assert offsets == sorted(offsets)


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_whatever_the_log_does_what_was_acknowledged_is_there_once_it_is_back(seed, monkeypatch):
    if seed % 3 == 0:  # so that what gathers needs several blocks
        monkeypatch.setattr("ingest.publish.group_commit.MAX_BLOCK_BYTES", 40)
    world = world_of(seed, requests=6)
    gateway = Gateway(world, Moments(), max_in_flight=1 + seed % 2)
    assert run(world, lambda: life(world, gateway))
    check_log(world)
    check_order(gateway)
    assert all(len(client.acknowledged) == len(client.requests) for client in world.clients)
    world.loop.close()
    SIMULATED["gateway histories"] += 1
    SIMULATED["requests"] += sum(world.answers.values())


@pytest.mark.parametrize("seed", range(CRASH_SEEDS))
def test_a_gateway_that_dies_at_any_call_to_the_outside_has_promised_nothing_that_is_lost(seed):
    def history(dies_at):
        world = world_of(seed, requests=2)
        moments = Moments(dies_at)
        world.weather = [FINE, ROUGH, SLOW][seed % 3]
        survived = run(world, lambda: life(world, Gateway(world, moments), storm_s=6.0))
        return world, moments, survived

    world, moments, survived = history(None)
    assert survived
    world.loop.close()
    for dies_at in range(1, moments.passed + 1):
        world, _, survived = history(dies_at)
        assert not survived
        check_log(world)  # what was answered with success by now
        world.loop.abandon()
        world.new_loop()
        gateway = Gateway(world, Moments())
        assert run(world, lambda w=world, g=gateway: life(w, g, storm_s=0.0))
        check_log(world)
        check_order(gateway)
        assert all(len(client.acknowledged) == len(client.requests) for client in world.clients)
        world.loop.close()
    SIMULATED["gateway crash points"] += moments.passed


def test_a_full_gateway_refuses_and_takes_again_and_counts_every_byte():
    world = world_of(7, requests=8)
    for client in world.clients:
        client.width = 8
    gateway = Gateway(world, Moments(), max_pending_bytes=120)
    world.weather = SLOW
    assert run(world, lambda: life(world, gateway, storm_s=0.0))
    assert world.answers["unavailable"]
    assert gateway.commits._pending.held_bytes == 0
    check_log(world)
    world.loop.close()


def test_clients_that_hang_up_leave_no_bytes_behind_and_harm_no_neighbour():
    world = world_of(11, requests=8)
    world.weather = SLOW
    gateway = Gateway(world, Moments())

    async def impatient(client):
        for number in range(len(client.requests)):
            try:
                async with asyncio.timeout(world.rng.uniform(0.1, 6.0)):
                    await gateway.request(client, number)
            except (TimeoutError, Unavailable):
                await asyncio.sleep(0.5)

    async def main():
        supervisor = asyncio.create_task(gateway.supervisor)
        await asyncio.sleep(5.0)
        half = len(world.clients) // 2
        async with asyncio.timeout(3600):
            await asyncio.gather(
                *(impatient(client) for client in world.clients[:half]),
                *(gateway.serve(client) for client in world.clients[half:]),
            )
        await settled(world, gateway)
        supervisor.cancel()

    assert run(world, main)
    check_log(world)
    world.loop.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_drain_ends_within_the_deadline_and_leaves_nobody_without_an_answer(seed):
    world = world_of(seed, requests=6)
    gateway = Gateway(world, Moments())

    async def main():
        supervisor = asyncio.create_task(gateway.supervisor)
        storm = asyncio.create_task(weather(world, until_s=60.0))
        tasks = [asyncio.create_task(gateway.serve(client)) for client in world.clients]
        await asyncio.sleep(world.rng.uniform(1.0, 30.0))
        waiting = [
            waiter
            for blocks in (
                *(b for by_key in gateway.commits._open.values() for b in by_key.values()),
                *gateway.commits._in_flight.values(),
            )
            for block in blocks
            for waiter in block.waiters
        ]
        began_s = world.loop.time()
        await gateway.commits.drain(10 * DEADLINE_S)
        assert world.loop.time() - began_s <= 2 * DEADLINE_S + 1
        assert all(waiter.done() for waiter in waiting)
        for task in (*tasks, storm, supervisor):
            task.cancel()
        await asyncio.gather(*tasks, storm, supervisor, return_exceptions=True)

    assert run(world, main)
    check_log(world)
    world.loop.close()
