from gateways import ScriptedGateway

from stepclock.identity import Identity
from stepclock.send.sync import sync_stream
from stepclock.spool.chunk import MAX_LINES
from stepclock.spool.stream import Stream
from stepclock.spool.writer import SpoolWriter

STREAM = Stream.of("s", 1, Identity("resnet50", "r1", 0, 0), "http://scripted")


def spooled(folder, lines):
    """A stream whose job has ended."""
    writer = SpoolWriter(STREAM, folder / "s", max_bytes=1 << 30, max_memory=1 << 20)
    writer.publish()
    writer.write("raw", [f"m f={number}" for number in range(lines)], lines)
    writer.close()
    return writer.folder


class Clock:
    now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_whoever_watches_learns_after_each_request_how_much_was_sent(tmp_path):
    folder = spooled(tmp_path, 2 * MAX_LINES + 5)
    gateway, clock, seen = ScriptedGateway(503), Clock(), []
    result = sync_stream(
        folder,
        STREAM,
        gateway,
        watch=lambda name, lines: seen.append((name, lines)),
        now=clock,
        sleep=clock.sleep,
    )
    counts = (0, MAX_LINES, 2 * MAX_LINES, 2 * MAX_LINES + 5)
    assert seen == [("s", count) for count in counts]
    assert (result.sent, result.stored, result.unsettled) == (counts[-1], counts[-1], 0)
    assert not folder.exists()


def test_what_the_store_is_not_known_to_hold_is_unsettled_and_asked_for_again(tmp_path):
    folder = spooled(tmp_path, 7)
    gateway, clock = ScriptedGateway(), Clock()
    gateway.verdict = {"settled": False, "stored": None, "rejected": []}
    result = sync_stream(folder, STREAM, gateway, timeout=1.0, now=clock, sleep=clock.sleep)
    assert (result.sent, result.stored, result.unsettled, result.left) == (7, 0, 7, 0)
    gateway.verdict = {"settled": True, "stored": True, "rejected": []}
    result = sync_stream(folder, STREAM, gateway, now=clock, sleep=clock.sleep)
    assert (result.sent, result.stored, result.unsettled) == (0, 7, 0)
    assert len(gateway.requests) == 1


def test_what_is_left_is_all_that_was_not_sent_and_not_the_first_request_alone(tmp_path):
    folder = spooled(tmp_path, 2 * MAX_LINES + 5)
    gateway, clock = ScriptedGateway(204, *[503] * 20), Clock()
    result = sync_stream(folder, STREAM, gateway, timeout=1.0, now=clock, sleep=clock.sleep)
    assert (result.sent, result.left) == (MAX_LINES, MAX_LINES + 5)
