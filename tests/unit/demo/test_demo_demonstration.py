"""The demonstration against a gateway made up of a dictionary, which loses what it is told to."""

from __future__ import annotations

import gzip
import io
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import stepclock
from rich.console import Console

from demo.demonstration import DemoFailed, demonstrate
from demo.pipeline import HttpService, Pipeline
from demo.plan import Plan, make_plan
from native.process import Process
from schemas.line_protocol.codec import field_value, parse
from schemas.store.protocols import StoredPoint

pytestmark = pytest.mark.slow

LATENCIES = """\
# TYPE stepclock_consumer_end_to_end_seconds histogram
stepclock_consumer_end_to_end_seconds_bucket{le="0.025"} 60
stepclock_consumer_end_to_end_seconds_bucket{le="0.25"} 100
stepclock_consumer_end_to_end_seconds_bucket{le="+Inf"} 100
"""


@dataclass
class DictionaryGateway:
    """Takes lines and reads them back; `keeps` decides what becomes of an accepted point."""

    keeps: Callable[[StoredPoint], bool] = lambda _point: True
    limited_key: str = "guest-key"
    stored: dict[str, list[StoredPoint]] = field(default_factory=lambda: defaultdict(list))
    limits: int = 3
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def raw(self) -> list[StoredPoint]:
        return self.stored["raw"]

    @property
    def nonfinite(self) -> list[StoredPoint]:
        return [point for point in self.stored["events"] if point.experiment == "nonfinite"]

    def points(
        self, _namespace: str, retention_class: str, experiment: str
    ) -> Iterator[StoredPoint]:
        return iter([p for p in self.stored[retention_class] if p.experiment == experiment])

    def take(self, key: str, retention_class: str, lines: list[bytes]) -> tuple[int, str]:
        with self.lock:
            if key == f"Bearer {self.limited_key}" and self.limits:
                self.limits -= 1
                return 429, "too many requests"
            for point in map(point_of, lines):
                if self.keeps(point):
                    self.stored[retention_class].append(point)
        return 204, ""

    def series(self) -> dict[str, Any]:
        runs: dict[str, list[tuple[int, float]]] = {}
        for point in self.raw:
            if "train/loss" in point.fields:
                step, loss = point.fields["step"], point.fields["train/loss"]
                runs.setdefault(point.tags["run"], []).append((int(step), float(loss)))
        return {
            "metric": "train/loss",
            "clock": "step",
            "runs": [
                {"run": run, "t": [t for t, _ in found], "mean": [mean for _, mean in found]}
                for run, found in sorted(runs.items())
            ],
        }


def point_of(text: bytes) -> StoredPoint:
    line = parse(text)
    tags = {key.decode(): value.decode() for key, value in line.tags}
    fields = {key.decode(): field_value(token) for key, token in line.fields}
    return StoredPoint(line.measurement.decode(), tags, line.time or 0, fields)


@pytest.fixture
def gateway() -> DictionaryGateway:
    return DictionaryGateway()


@pytest.fixture
def pipeline(gateway, tmp_path) -> Iterator[Pipeline]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            path, _, retention_class = self.path.partition("?bucket=")
            assert path == "/api/v2/write"
            self.answer(
                *gateway.take(self.headers["Authorization"], retention_class, body.split(b"\n"))
            )

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/metrics":
                self.answer(200, LATENCIES)
                return
            if path.startswith("/api/v1/receipts/"):
                self.answer(200, '{"settled": true, "stored": true, "rejected": []}')
                return
            assert path == "/api/v1/experiments/digits/series"
            assert query == "metric=train%2Floss&clock=step&points=80"
            assert self.headers["Authorization"] == "Bearer demo-key"
            self.answer(200, json.dumps(gateway.series()))

        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            if status == 204:
                self.send_header("Stepclock-Receipt", "1.raw-0-1")
            else:
                self.send_header("Content-Length", str(len(text)))
            if status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        keys = {"demo": "demo-key", "guest": "guest-key"}
        nothing = Process("nothing", [], log_path=tmp_path / "log", ready=lambda: True)
        yield Pipeline([url], keys, gateway, [HttpService(nothing, url)])
        server.shutdown()
        thread.join()


@pytest.fixture
def plan() -> Plan:
    return make_plan("digits", steps=300, steps_per_s=600.0)


@pytest.fixture
def run_demonstration(pipeline, plan, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(stepclock.__file__).parents[1]))

    def run(plan=plan, **options):
        output, screen = io.StringIO(), io.StringIO()
        outcome = demonstrate(
            pipeline,
            plan,
            tmp_path / "runs",
            output=Console(file=output, width=110),
            screen=Console(file=screen, width=110),
            **options,
        )
        return outcome, output.getvalue(), screen.getvalue()

    return run


def test_a_pipeline_without_fault_ends_in_good_receipts_a_clean_ledger_and_a_report(
    gateway, plan, run_demonstration
) -> None:
    outcome, output, screen = run_demonstration()
    assert outcome.clean
    assert all(receipt.ok for receipt in outcome.receipts.values())
    assert outcome.receipts.keys() == {run.name for run in plan.runs}
    ledger = outcome.ledger
    assert ledger.logged == ledger.stored == len(gateway.raw)
    assert ledger.logged == sum(receipt.logged for receipt in outcome.receipts.values())
    assert ledger.nonfinite == len(gateway.nonfinite) > 0
    for run in plan.runs:
        assert run.name in output
    assert "train/loss by step" in output
    assert "p50 0 to 25 ms, p99 25 to 250 ms" in output
    assert "guest-lr-0.2 was told to wait 3 times" in output
    assert "steps/s" in output
    assert "trained" in screen


def test_a_row_that_a_receipt_calls_stored_and_the_store_lacks_is_missing_in_the_ledger(
    gateway, run_demonstration
) -> None:
    gateway.keeps = lambda point: (
        (point.tags.get("run"), point.fields.get("step"), point.experiment)
        != ("lr-0.1", 17, "digits")
    )
    outcome, _output, _screen = run_demonstration()
    assert all(receipt.ok for receipt in outcome.receipts.values())
    assert outcome.ledger.missing == 5  # step, loss, accuracy, learning rate, norm of the gradient
    assert outcome.ledger.stored == outcome.ledger.logged - 1
    assert not outcome.clean


def test_trainers_that_are_refused_train_to_the_end_and_nothing_is_called_stored(
    gateway, plan, run_demonstration
) -> None:
    gateway.take = lambda *_request: (401, "the key is not known")
    outcome, output, _screen = run_demonstration(finish_s=1.0)
    assert outcome.ledger.logged > 0 == outcome.ledger.stored
    for receipt in outcome.receipts.values():
        assert receipt.stored == 0
        assert receipt.missing == {"unsent": receipt.lines}
    assert not outcome.clean
    for run in plan.runs:
        assert f"{run.name}: 401: the key is not known" in output


def test_a_trainer_that_breaks_fails_the_demo_with_its_last_words(plan, run_demonstration) -> None:
    broken = replace(plan, experiment="_reserved")
    with pytest.raises(DemoFailed, match=r"(?s)lr-0\.1: .*the name is reserved"):
        run_demonstration(plan=broken)
