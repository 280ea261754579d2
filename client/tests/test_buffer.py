import threading

from stepclock.buffer import Buffer


def test_items_come_out_in_the_order_in_which_they_were_put():
    buffer = Buffer(1 << 20)
    for number in range(100):
        buffer.put(number, 1, row=True)
    assert buffer.take() == list(range(100))
    assert (len(buffer), buffer.put_rows, buffer.dropped) == (0, 100, 0)


def test_a_full_buffer_gives_up_the_oldest_and_knows_how_many():
    buffer = Buffer(100_000)
    for number in range(10_000):
        buffer.put(number, 10, row=True)
    kept = buffer.take()
    assert 16 <= len(kept) < 10_000
    assert kept == list(range(10_000 - len(kept), 10_000))
    assert buffer.dropped == 10_000 - len(kept)
    assert buffer.put_rows == 10_000


def test_a_wide_item_makes_room_for_fewer_until_the_drain_says_otherwise():
    buffer = Buffer(1 << 20)
    buffer.put("wide", 1000, row=True)
    for number in range(1000):
        buffer.put(number, 1, row=True)
    assert len(buffer.take()) < 20
    buffer.widen(16)
    for number in range(500):
        buffer.put(number, 1, row=True)
    assert len(buffer.take()) == 500


def test_rows_of_many_threads_are_all_counted():
    buffer = Buffer(64 << 20)

    def put():
        for number in range(2000):
            buffer.put(number, 1, row=True)

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    taken = 0
    while any(thread.is_alive() for thread in threads):
        taken += len(buffer.take())
    taken += len(buffer.take())
    assert (taken, buffer.put_rows, buffer.dropped) == (16_000, 16_000, 0)


def test_other_items_do_not_count_as_rows():
    buffer = Buffer(1 << 20)
    buffer.put("event", 1)
    buffer.put("row", 1, row=True)
    assert buffer.take() == ["event", "row"]
    assert buffer.put_rows == 1
