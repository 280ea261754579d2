import json
import urllib.error
import urllib.request

import pytest

from consumers.probes import Probes
from telemetry.metrics import PAUSED
from telemetry.probe_server import write_address


class Worker:
    progress_at = 100.0
    started = True
    draining = False
    store_error = None
    log_error = None
    canary = "sent 3.0 s ago, stored within 0.40 s"


@pytest.fixture
def probes():
    clock = [100.0]
    probes = Probes("127.0.0.1", 0, live_after_s=60.0, now=lambda: clock[0])
    probes.clock = clock
    yield probes
    probes.close()


def get(probes, path):
    url = probes.url + path
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def test_before_the_first_poll_it_is_live_and_not_ready(probes):
    assert get(probes, "/livez")[0] == 200
    assert get(probes, "/readyz")[0] == 503
    assert get(probes, "/health")[0] == 503
    worker = Worker()
    worker.started = False
    probes.watch(worker)
    assert get(probes, "/readyz")[0] == 503


def test_a_loop_that_does_not_get_on_is_not_live(probes):
    worker = Worker()
    probes.watch(worker)
    probes.clock[0] = 160.0
    assert get(probes, "/livez")[0] == 200
    probes.clock[0] = 160.1
    status, body = get(probes, "/livez")
    assert (status, json.loads(body)["status"]) == (503, "stuck")
    worker.progress_at = 160.0
    assert get(probes, "/livez")[0] == 200


def test_a_store_that_is_away_makes_health_fail_and_readiness_not(probes):
    worker = Worker()
    worker.store_error = "connection refused"
    probes.watch(worker)
    assert get(probes, "/readyz")[0] == 200
    status, body = get(probes, "/health")
    assert status == 503
    assert json.loads(body) == {
        "status": "points can't flow",
        "log": "ok",
        "store": "connection refused",
        "canary": Worker.canary,
    }


def test_a_draining_worker_is_not_ready(probes):
    worker = Worker()
    worker.draining = True
    probes.watch(worker)
    assert get(probes, "/readyz")[0] == 503
    assert get(probes, "/health")[0] == 200


def test_of_several_workers_the_worst_one_counts():
    probes = Probes("127.0.0.1", 0, live_after_s=60.0, workers=2, now=lambda: 160.0)
    try:
        first, second = Worker(), Worker()
        first.progress_at = 150.0
        probes.watch(first, 0)
        assert get(probes, "/livez")[0] == 200
        assert get(probes, "/readyz")[0] == 503, "the other one is still to come"
        probes.watch(second, 1)
        assert get(probes, "/readyz")[0] == 200
        second.progress_at = 99.0
        assert get(probes, "/livez")[0] == 503
        second.store_error = "connection refused"
        status, body = get(probes, "/health")
        assert (status, json.loads(body)["store"]) == (503, "connection refused")
        second.draining = True
        assert get(probes, "/readyz")[0] == 503
        anew = Worker()
        anew.progress_at = 160.0
        probes.watch(anew, 1)
        assert [get(probes, path)[0] for path in ("/livez", "/readyz", "/health")] == [200] * 3
    finally:
        probes.close()


def test_metrics_are_in_the_format_of_prometheus(probes):
    PAUSED.set(3)
    status, body = get(probes, "/metrics?name=x")
    assert status == 200
    assert "stepclock_consumer_paused_partitions 3.0" in body


def test_other_pages_do_not_exist(probes):
    assert get(probes, "/")[0] == 404


def test_closing_twice_is_fine(probes):
    probes.close()
    probes.close()


def test_the_address_file_holds_one_line_and_no_draft_of_it_is_left(tmp_path):
    path = tmp_path / "url"
    path.write_text("http://127.0.0.1:1\n")
    write_address(path, "http://127.0.0.1:2")
    assert path.read_text() == "http://127.0.0.1:2\n"
    assert list(tmp_path.iterdir()) == [path]
