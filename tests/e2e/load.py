"""A client that sends numbered points, keeps its own ledger of what was answered with 2xx,
and compares it with what a store holds."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

EXPERIMENT = "load"


class Load:
    """Threads that post bodies of timed lines until stopped. Each body is sent once: what got
    no 2xx may be in the store or not."""

    def __init__(self, urls, key, *, threads=2, lines=50, pause_s=0.01):
        self._urls = urls
        self._key = key
        self._lines = lines
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.start_ns = time.time_ns()
        self.sent: set[tuple[str, int]] = set()
        self.acknowledged: set[tuple[str, int]] = set()
        self.answers: Counter[int] = Counter()
        #: (time.monotonic() when it began, seconds that it took, status), status 0 for a broken
        #: connection
        self.timed: list[tuple[float, float, int]] = []
        self._threads = [
            threading.Thread(target=self._run, args=(f"r{number}",)) for number in range(threads)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count):
        """Until so many more points are acknowledged."""
        goal = len(self.acknowledged) + count
        deadline = time.monotonic() + 120
        while len(self.acknowledged) < goal:
            assert time.monotonic() < deadline, self.answers
            time.sleep(0.02)

    def time_of(self, run, step):
        return self.start_ns + int(run[1:]) * 10**12 // 1000 + step * 1000

    def _run(self, run):
        step = 0
        connection = None
        while not self._stop.is_set():
            points = [(run, step + n) for n in range(self._lines)]
            step += self._lines
            body = "\n".join(
                f"{EXPERIMENT},run={r} value={s}.5,step={s}i {self.time_of(r, s)}"
                for r, s in points
            )
            with self._lock:
                self.sent.update(points)
            began = time.monotonic()
            try:
                if connection is None:
                    url = self._urls[step // self._lines % len(self._urls)]
                    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
                connection.request(
                    "POST",
                    "/api/v2/write?bucket=raw",
                    body,
                    {"Authorization": f"Bearer {self._key}"},
                )
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                if connection is not None:
                    connection.close()
                connection, status = None, 0
            with self._lock:
                self.timed.append((began, time.monotonic() - began, status))
                self.answers[status] += 1
                if status == 204:
                    self.acknowledged.update(points)
            self._stop.wait(self._pause_s)
        if connection is not None:
            connection.close()


def stored(reader, namespace, retention_class):
    """(run, step) of every stored point of the load, with how often each is there."""
    found = Counter()
    for point in reader.points(namespace, retention_class, EXPERIMENT):
        if point.fields.keys() != {"value", "step"}:
            continue  # InfluxDB shows a point while it is being written, field by field
        assert point.fields["value"] == point.fields["step"] + 0.5
        found[point.tags["run"], point.fields["step"]] += 1
    return found


def assert_all_stored(reader, load, namespace="stepclock", *, within_s=60):
    """Every acknowledged point is in both views, none twice, none invented."""
    deadline = time.monotonic() + within_s
    for view in ("raw", "steps"):
        while load.acknowledged - (found := stored(reader, namespace, view)).keys():
            missing = load.acknowledged - found.keys()
            assert time.monotonic() < deadline, (
                f"{view}: {len(missing)} of {len(load.acknowledged)} missing: {sorted(missing)[:3]}"
            )
            time.sleep(0.2)
        assert not [point for point, count in found.items() if count > 1]
        assert found.keys() <= load.sent
