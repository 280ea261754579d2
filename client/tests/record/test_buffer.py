import threading

from stepclock.record.buffer import PATIENCE_S, Buffer


class Job:
    """Whose naps are noted; meanwhile a drain may work."""

    def __init__(self):
        self.now = 0.0
        self.drain = lambda: None

    def sleep(self, seconds):
        self.now += seconds
        self.drain()

    def buffer(self, max_bytes):
        return Buffer(max_bytes, now=lambda: self.now, sleep=self.sleep)


def taken(buffer):
    """Everything, a part at a time."""
    found = []
    while items := buffer.take(1000):
        found += items
    return found


def test_items_come_out_in_the_order_in_which_they_were_put():
    buffer = Buffer(1 << 20)
    for number in range(100):
        buffer.put(number, 1, row=True)
    assert taken(buffer) == list(range(100))
    assert (len(buffer), buffer.put_rows, buffer.dropped) == (0, 100, 0)


def test_whoever_puts_faster_than_is_taken_is_held_up_and_nothing_is_lost():
    job = Job()
    buffer, found, fullest = job.buffer(100_000), [], 0
    job.drain = lambda: found.extend(buffer.take(1000))
    for number in range(10_000):
        buffer.put(number, 10, row=True)
        fullest = max(fullest, len(buffer))
    found += taken(buffer)
    assert found == list(range(10_000))
    assert buffer.dropped == 0
    assert fullest <= 100_000 // 384 // 2


def test_whoever_puts_as_fast_as_is_taken_is_never_held_up():
    job = Job()
    buffer = job.buffer(100_000)
    for number in range(10_000):
        buffer.put(number, 10, row=True)
        if number % 30 == 0:
            taken(buffer)
    assert job.now == 0


def test_of_a_drain_that_hangs_all_puts_together_wait_so_long_and_then_the_oldest_go():
    job = Job()
    buffer = job.buffer(100_000)
    for number in range(10_000):
        buffer.put(number, 10, row=True)
    assert PATIENCE_S <= job.now < PATIENCE_S + 0.01
    kept = taken(buffer)
    assert 16 <= len(kept) < 10_000
    assert kept == list(range(10_000 - len(kept), 10_000))
    assert buffer.dropped == 10_000 - len(kept)
    assert buffer.put_rows == 10_000


def test_a_drain_that_takes_something_after_all_is_waited_for_again():
    job = Job()
    buffer = job.buffer(100_000)
    for number in range(1000):
        buffer.put(number, 10, row=True)
    taken(buffer)
    dropped, job.drain = buffer.dropped, lambda: buffer.take(1000)
    for number in range(1000):
        buffer.put(number, 10, row=True)
    taken(buffer)
    assert buffer.dropped == dropped > 0


def test_a_buffer_that_is_half_full_wakes_the_drain():
    job = Job()
    buffer = job.buffer(100_000)
    buffer.wake()
    buffer.wait(60)  # returns at once
    job.drain = lambda: (buffer.wait(60), taken(buffer))
    for number in range(1000):
        buffer.put(number, 10, row=True)
    assert buffer.dropped == 0


def test_wide_items_make_room_for_fewer_as_long_as_they_wait():
    buffer = Job().buffer(1 << 20)
    buffer.put("wide", 1000, row=True)
    for number in range(1000):
        buffer.put(number, 1, row=True)
    assert len(buffer) < 20
    taken(buffer)
    for number in range(500):
        buffer.put(number, 1, row=True)
    assert len(taken(buffer)) == 500


def test_rows_of_many_threads_are_all_counted():
    buffer = Buffer(64 << 20)

    def put():
        for number in range(2000):
            buffer.put(number, 1, row=True)

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    count = 0
    while any(thread.is_alive() for thread in threads):
        count += len(taken(buffer))
    count += len(taken(buffer))
    assert (count, buffer.put_rows, buffer.dropped) == (16_000, 16_000, 0)


def test_other_items_do_not_count_as_rows():
    buffer = Buffer(1 << 20)
    buffer.put("event", 1)
    buffer.put("row", 1, row=True)
    assert taken(buffer) == ["event", "row"]
    assert buffer.put_rows == 1
