"""Client to store in virtual time: gateway and worker die at every call to the outside in turn."""

from __future__ import annotations

import asyncio
import random

import pytest

from schemas.log.block import MAX_BLOCK_BYTES
from schemas.tenants.keys import Tenant
from tests.fakes.gateway_rig import FINE, ROUGH, Client, Gateway, Moments, World, part_of, run
from tests.fakes.simulated import SIMULATED
from tests.fakes.virtual_loop import EPOCH_NS
from tests.fakes.worker_rig import Clock, Rig, line

SEEDS = 4
REQUESTS = 3


class WorkerCrash(Exception):
    """The worker's process dies here."""


class LoopClock(Clock):
    """The time of the world: polling in vain does not move it."""

    def __init__(self, world):
        super().__init__()
        self.world = world

    def now(self):
        return self.world.loop.time()

    def now_ns(self):
        return self.world.loop.time_ns()

    def advance(self, seconds):
        pass


class Workers(Moments):
    """One worker after the other on the world's log; each call to the outside is a moment."""

    def __init__(self, world, dies_at=None):
        super().__init__(dies_at)
        self.rig = Rig(clock=LoopClock(world), log=world.log, batch_points=3, batch_age_s=0.3)
        self.rig.store.write = self.mortal(self.rig.store.write)
        self.adopt()

    def one(self):
        self.passed += 1
        if self.passed == self.dies_at:
            raise WorkerCrash

    def mortal(self, call):
        """The process may die before the call, and after it has had its effect."""

        def called(*arguments):
            self.one()
            result = call(*arguments)
            self.one()
            return result

        return called

    def adopt(self):
        self.rig.source.commit = self.mortal(self.rig.source.commit)
        letters = self.rig.worker._dead_letters
        letters.write = self.mortal(letters.write)

    async def work(self, clients_are_done):
        while not clients_are_done() or self.rig.uncommitted():
            try:
                self.rig.worker.turn()
            except WorkerCrash:
                self.rig.source.close()
                self.rig.worker, self.rig.source = self.rig.start(max_poll_records=2)
                self.adopt()
            await asyncio.sleep(0.05)


def row(client, sequence):
    return line(sequence, run=client, time_ns=EPOCH_NS + sequence)


def world_of(seed):
    rng = random.Random(seed)
    clients = []
    for number in range(3):
        name = f"r{number}"
        requests = [[("raw", part_of(row(name, sequence)))] for sequence in range(REQUESTS)]
        clients.append(Client(name, Tenant("vision"), requests, width=rng.choice([1, 2])))
    return World(rng, clients)


def history(seed, *, gateway_dies_at=None, worker_dies_at=None):
    world = world_of(seed)
    workers = Workers(world, worker_dies_at)

    def done():
        return all(len(client.acknowledged) == REQUESTS for client in world.clients)

    async def life(gateway):
        supervisor = asyncio.create_task(gateway.supervisor)
        async with asyncio.timeout(3600):
            await asyncio.gather(
                workers.work(done), *(gateway.serve(client) for client in world.clients)
            )
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)

    moments = Moments(gateway_dies_at)
    world.weather = ROUGH if seed % 2 else FINE
    world.loop.call_later(15.0, setattr, world, "weather", FINE)
    if not run(world, lambda: life(Gateway(world, moments))):
        world.loop.abandon()
        world.new_loop()
        world.weather = FINE
        assert run(world, lambda: life(Gateway(world, Moments())))
    world.loop.close()
    check_store(world, workers.rig)
    return moments.passed, workers.passed


def check_store(world, rig):
    """0 acknowledged missing, 0 invented, 0 doubled, in both views; deliveries tell the same."""
    for retention_class, unit_ns, origin_ns in (("raw", 1, EPOCH_NS), ("steps", 10**6, 0)):
        content = rig.store.content("stepclock", retention_class)
        found = sorted((dict(tags)["run"], time_ns) for (_, tags), time_ns in content)
        assert found == sorted(
            (client.name, origin_ns + sequence * unit_ns)
            for client in world.clients
            for sequence in range(REQUESTS)
        )
    events = rig.store.content("stepclock", "events")
    delivered = {}
    for ((_, tags), _), fields in events.items():
        run_name = dict(tags)["run"]
        delivered[run_name] = delivered.get(run_name, 0) + fields["points"]
        assert fields["dead"] == 0
    assert delivered == {client.name: REQUESTS for client in world.clients}
    assert rig.letters() == []
    assert all(len(record.value) < MAX_BLOCK_BYTES for record in world.log.records("stepclock.raw"))


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("side", ["gateway", "worker"])
def test_either_side_may_die_at_any_call_and_every_point_is_stored_once(side, seed):
    moments = history(seed)[side == "worker"]
    assert moments > 10
    for dies_at in range(1, moments + 1):
        history(seed, **{f"{side}_dies_at": dies_at})
    SIMULATED[f"pipeline crash points ({side})"] += moments


@pytest.mark.parametrize("seed", range(20))
def test_both_sides_may_die_in_one_history(seed):
    rng = random.Random(seed)
    history(seed, gateway_dies_at=rng.randint(1, 30), worker_dies_at=rng.randint(1, 30))
    SIMULATED["pipeline histories"] += 1
