import threading
from unittest.mock import create_autospec

import pytest

from embedded.server_thread import ServerThread
from ingest.http.server import HttpServer


def fail(stop):
    raise ArithmeticError("out of luck")


@pytest.mark.parametrize("watched_first", [True, False])
def test_the_server_ends_when_the_work_fails_or_has_failed_already(watched_first):
    server, thread = create_autospec(HttpServer, instance=True), ServerThread("work", fail)
    if watched_first:
        thread.watch(server)
    thread.start()
    thread.join(20)
    if not watched_first:
        thread.watch(server)
    server.stop.assert_called_once_with()
    assert isinstance(thread.failure, ArithmeticError)


def test_the_work_comes_to_its_end_before_stop_returns():
    ended = threading.Event()

    def work(stop):
        stop.wait(20)
        ended.set()

    thread = ServerThread("work", work)
    thread.stop()  # nothing was started
    thread = ServerThread("work", work)
    thread.start()
    thread.stop()
    assert ended.is_set()
    assert thread.failure is None
