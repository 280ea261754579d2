import asyncio
import threading
from itertools import count

import pytest

from ingest.errors import Unavailable
from ingest.read.settlement import DeadLetterIndex, RejectedLines, Settlement
from schemas.log.protocols import Record, TopicPartition
from schemas.log.receipt import BlockPosition
from tests.fakes.memory_log import MemoryLog

TOPICS = {"stepclock.raw": 1, "stepclock.dlq": 1}
BLOCK = BlockPosition("raw", 0, 5)


class Progress:
    """Committed offsets that a test moves, and how often they were asked for."""

    def __init__(self):
        self.log = MemoryLog(TOPICS)
        self.memory = self.log.progress("stepclock.dlq")
        self.offset = 0

    def committed(self):
        found = self.memory.committed()
        return found | dict.fromkeys(self.log._records, self.offset)

    def appended(self):
        return self.memory.appended()

    def close(self):
        self.memory.close()


def letter(offset):
    return RejectedLines("t", "stepclock.raw", 0, offset, 1, "wall", "refused", "why")


def test_thousands_who_wait_share_a_look():
    async def scenario():
        progress = Progress()
        settlement = Settlement(progress, interval_s=0.05)
        waiting = [asyncio.create_task(settlement.verdict([BLOCK], 30.0)) for _ in range(2000)]
        await asyncio.sleep(0)
        while progress.memory.looks < 2:
            await asyncio.sleep(0.001)
        progress.offset = 6
        verdicts = await asyncio.gather(*waiting)
        assert all(v.settled and v.stored for v in verdicts)
        assert progress.memory.looks < 50
        await settlement.close()

    asyncio.run(scenario())


def test_without_waiting_the_answer_is_at_most_one_interval_old():
    async def scenario():
        progress = Progress()
        settlement = Settlement(progress, interval_s=60.0)
        progress.offset = 6
        assert (await settlement.verdict([BLOCK], 0.0)).settled
        assert progress.memory.looks == 1
        later = BlockPosition("raw", 0, 6)
        assert not (await settlement.verdict([later], 0.0)).settled
        assert progress.memory.looks == 1
        await settlement.close()

    asyncio.run(scenario())


def test_whoever_waits_in_vain_is_told_in_time():
    async def scenario():
        settlement = Settlement(Progress(), interval_s=0.01)
        verdict = await asyncio.wait_for(settlement.verdict([BLOCK], 0.05), 10)
        assert (verdict.settled, verdict.stored) == (False, False)
        await settlement.close()

    asyncio.run(scenario())


def test_with_the_log_away_everyone_who_waits_is_told_and_the_next_look_recovers():
    async def scenario():
        progress = Progress()
        progress.log.away = True
        settlement = Settlement(progress, interval_s=0.01)
        outcomes = await asyncio.gather(
            *(settlement.verdict([BLOCK], 5.0) for _ in range(5)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 5
        progress.log.away = False
        progress.offset = 6
        assert (await settlement.verdict([BLOCK], 5.0)).stored
        await settlement.close()

    asyncio.run(scenario())


def test_one_impatient_client_does_not_end_the_look_of_the_others():
    async def scenario():
        progress = Progress()
        settlement = Settlement(progress, interval_s=0.05)
        impatient = asyncio.create_task(settlement.verdict([BLOCK], 30.0))
        patient = asyncio.create_task(settlement.verdict([BLOCK], 30.0))
        await asyncio.sleep(0)
        impatient.cancel()
        progress.offset = 6
        assert (await patient).settled
        with pytest.raises(asyncio.CancelledError):
            await impatient
        await settlement.close()

    asyncio.run(scenario())


def test_forgotten_dead_letters_are_not_taken_for_none():
    index = DeadLetterIndex(max_letters=3)
    for offset in range(10, 15):
        index.add(letter(offset))
    assert index.of(("stepclock.raw", 0, 14)) == [letter(14)]
    assert index.of(("stepclock.raw", 0, 20)) == []
    assert index.of(("stepclock.raw", 0, 11)) is None
    assert index.of(("stepclock.raw", 0, 3)) is None, "before the newest forgotten one"
    assert index.of(("stepclock.raw", 1, 3)) == []


def test_offsets_are_asked_for_before_the_dead_letters_that_they_answer_for():
    asked = []

    class Asked:
        def committed(self):
            asked.append("committed")
            return {TopicPartition("stepclock.raw", 0): 6}

        def appended(self):
            asked.append("appended")
            return iter(())

        def close(self):
            pass

    async def scenario():
        settlement = Settlement(Asked(), interval_s=0.01)
        assert (await settlement.verdict([BLOCK], 5.0)).stored
        await settlement.close()

    asyncio.run(scenario())
    assert asked == ["committed", "appended"]


def test_when_the_server_ends_nobody_waits_longer_than_for_an_answer():
    async def scenario():
        settlement = Settlement(Progress(), interval_s=0.01)
        waiting = asyncio.create_task(settlement.verdict([BLOCK], 3600.0))
        await asyncio.sleep(0)
        settlement.stop_waiting()
        assert not (await asyncio.wait_for(waiting, 10)).settled
        await settlement.close()

    asyncio.run(scenario())


def test_who_asks_after_the_first_look_waits_for_none():
    async def scenario():
        progress = Progress()
        progress.offset = 6
        settlement = Settlement(progress, interval_s=60.0)
        await settlement.begin_look()
        assert (await settlement.verdict([BLOCK], 30.0)).settled
        assert progress.memory.looks == 1
        await settlement.close()

    asyncio.run(scenario())


def test_a_server_that_ends_does_not_read_dead_letters_to_their_end():
    begun = threading.Event()

    class Endless:
        def committed(self):
            return {}

        def appended(self):
            for offset in count():
                begun.set()
                yield Record("stepclock.dlq", 0, offset, b"", (), 0)

        def close(self):
            pass

    async def scenario():
        settlement = Settlement(Endless())
        settlement.begin_look()
        await asyncio.to_thread(begun.wait)
        await asyncio.wait_for(settlement.close(), 20)

    asyncio.run(scenario())
