"""HTTP clients that send numbered points and keep a ledger of what was answered."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.ledger import EXPERIMENT, UNTIMED, Ledger, judge

MAX_WAIT_S = 5.0


@dataclass(frozen=True)
class Habit:
    """How one client behaves.

    repeats: the same bytes go again until they are answered for good; else each body is sent
    once, and what got no 2xx may be in the store or not. malformed_every, mistyped_every: so
    many bodies have one line that the gateway, or the store, refuses; 0 for none.
    """

    repeats: bool = False
    timed: bool = True
    malformed_every: int = 0
    mistyped_every: int = 0
    timeout_s: float = 30.0


class Load:
    """Threads that post bodies of lines until stopped, each over one keep-alive connection.

    A client whose connection breaks goes on at the next address.
    """

    def __init__(self, urls, key, *, threads=2, lines=50, pause_s=0.01, habits=None):
        self._urls = urls
        self._key = key
        self._lines = lines
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.ledger = Ledger(time.time_ns())
        self.answers: Counter[int] = Counter()
        #: (time.monotonic() when it began, seconds that it took, status), status 0 for a broken
        #: connection
        self.timed: list[tuple[float, float, int]] = []
        self._habits = habits or [Habit()] * threads
        self._pool = ThreadPoolExecutor(len(self._habits))
        self._clients = []

    def __enter__(self):
        self._clients = [self._pool.submit(self._run, *each) for each in enumerate(self._habits)]
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """End every client; raises what one of them raised."""
        self._stop.set()
        self._pool.shutdown()
        for client in self._clients:
            client.result()

    def wait_for(self, count):
        """Until so many more points are acknowledged."""
        goal = len(self.ledger.acknowledged) + count
        deadline = time.monotonic() + 120
        while len(self.ledger.acknowledged) < goal:
            assert time.monotonic() < deadline, self.answers
            time.sleep(0.02)

    def _run(self, number, habit):
        run = f"{'r' if habit.timed else UNTIMED}{number}"
        client = Client(self._urls, number, self._key, habit.timeout_s)
        body_number = 0
        while not self._stop.is_set():
            body = Body(self.ledger, run, body_number, self._lines, habit)
            body_number += 1
            with self._lock:
                self.ledger.sent.update(body.good)
            while not self._send(client, body) and habit.repeats and not self._stop.is_set():
                self._stop.wait(client.retry_after_s)
            self._stop.wait(self._pause_s)
        client.close()

    def _send(self, client, body):
        """Post once, and note the answer; True where the body is not to be sent again."""
        began = time.monotonic()
        status, text = client.post(body.text)
        with self._lock:
            self.timed.append((began, time.monotonic() - began, status))
            self.answers[status] += 1
            if status == 204 or (status == 400 and body.malformed):
                self.ledger.acknowledged.update(body.good)
                self.ledger.mistyped.update(body.mistyped)
                self.ledger.malformed.update(body.malformed)
                if status == 400:
                    rejected = json.loads(text)["rejected"]
                    self.ledger.named.update(body.points[row["line"] - 1] for row in rejected)
        return status not in (0, 503)


class Body:
    """Lines of consecutive steps, some of them bad."""

    def __init__(self, ledger, run, number, lines, habit):
        self.points = [(run, number * lines + n) for n in range(lines)]
        self.malformed, self.mistyped = set(), set()
        if habit.malformed_every and number % habit.malformed_every == 1:
            self.malformed = {self.points[number % lines]}
        # Not in the first bodies: the numbers come first, and so decide the type.
        elif habit.mistyped_every and number % habit.mistyped_every == habit.mistyped_every - 1:
            self.mistyped = {self.points[number % lines]}
        self.good = set(self.points) - self.malformed - self.mistyped
        self.text = "\n".join(self._line(ledger, point) for point in self.points)

    def _line(self, ledger, point):
        if point in self.malformed:
            return ledger.malformed_line(point)
        if point in self.mistyped:
            return ledger.mistyped_line(point)
        return ledger.line(point)


class Client:
    """One keep-alive connection to one of the addresses; breaks are answered with status 0."""

    def __init__(self, urls, first, key, timeout_s):
        self._urls = urls
        self._at = first
        self._headers = {"Authorization": f"Bearer {key}"}
        self._timeout_s = timeout_s
        self._connection = None
        #: What the last answer asked for, in seconds.
        self.retry_after_s = 0.0

    def post(self, text):
        """Status and body of the answer."""
        try:
            if self._connection is None:
                netloc = urlsplit(self._urls[self._at % len(self._urls)]).netloc
                self._connection = http.client.HTTPConnection(netloc, timeout=self._timeout_s)
            self._connection.request("POST", "/api/v2/write?bucket=raw", text, self._headers)
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            self._at += 1
            self.retry_after_s = 0.1
            return 0, b""
        self.retry_after_s = min(float(answer.headers.get("Retry-After", 0)), MAX_WAIT_S)
        if answer.will_close:
            self.close()
        return answer.status, body

    def close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def views_of(reader, namespace):
    """What both views hold of the load."""
    return {view: reader.points(namespace, view, EXPERIMENT) for view in ("raw", "steps")}


def assert_all_stored(reader, load, namespace="stepclock", *, within_s=60):
    """Every acknowledged point is in both views, none twice, none invented."""
    deadline = time.monotonic() + within_s
    while any((verdict := judge(load.ledger, views_of(reader, namespace))).missing.values()):
        examples = {view: sorted(points)[:3] for view, points in verdict.missing.items()}
        assert time.monotonic() < deadline, (
            f"{verdict.line} of {len(load.ledger.acknowledged)}: {examples}"
        )
        time.sleep(0.2)
    assert verdict.clean, verdict
