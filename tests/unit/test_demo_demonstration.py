"""The demonstration against a gateway made up of a dictionary, which loses what it is told to."""

from __future__ import annotations

import io
import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rich.console import Console

from demo.demonstration import DemoFailed, demonstrate
from demo.pipeline import Pipeline, Service
from demo.plan import Plan, make_plan
from native.process import Process
from schemas.store import StoredPoint

pytestmark = pytest.mark.slow

LATENCIES = """\
# TYPE stepclock_consumer_end_to_end_seconds histogram
stepclock_consumer_end_to_end_seconds_bucket{le="0.025"} 60
stepclock_consumer_end_to_end_seconds_bucket{le="0.25"} 100
stepclock_consumer_end_to_end_seconds_bucket{le="+Inf"} 100
"""


@dataclass
class DictionaryGateway:
    """Takes rows and reads them back; `keeps` decides what becomes of an accepted row."""

    keeps: Callable[[dict[str, Any]], bool] = lambda _row: True
    limited_key: str = "guest-key"
    raw: list[StoredPoint] = field(default_factory=list)
    events: list[StoredPoint] = field(default_factory=list)
    limits: int = 3
    lock: threading.Lock = field(default_factory=threading.Lock)

    def points(
        self, _namespace: str, retention_class: str, experiment: str
    ) -> Iterator[StoredPoint]:
        points = {"raw": self.raw, "events": self.events}[retention_class]
        return iter([point for point in points if point.experiment == experiment])

    def take(self, key: str, rows: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            if key == f"Bearer {self.limited_key}" and self.limits:
                self.limits -= 1
                return 429, {"title": "too many requests"}
            for row in rows:
                if self.keeps(row):
                    self.store(row)
        return 202, {"accepted": len(rows), "stamped": 0, "rejected": [], "receipt": "r"}

    def store(self, row: dict[str, Any]) -> None:
        tags = {"run": row["run"], "rank": str(row["rank"])}
        finite = {m: v for m, v in row["values"].items() if math.isfinite(v)}
        fields = {**finite, "step": row["step"]}
        self.raw.append(StoredPoint(row["experiment"], tags, row["time"], fields))
        for metric in row["values"].keys() - finite.keys():
            kind = str(row["values"][metric])
            more = {"experiment": row["experiment"], "metric": metric, "kind": kind}
            fields = {"count": 1.0, "step": row["step"]}
            self.events.append(StoredPoint("nonfinite", tags | more, row["time"], fields))

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


@pytest.fixture
def gateway() -> DictionaryGateway:
    return DictionaryGateway()


@pytest.fixture
def pipeline(gateway, tmp_path) -> Iterator[Pipeline]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = gateway.take(self.headers["Authorization"], body["rows"])
            self.answer(status, json.dumps(answer))

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/metrics":
                self.answer(200, LATENCIES)
                return
            assert path == "/api/v1/experiments/digits/series"
            assert query == "metric=train%2Floss&clock=step&points=80"
            assert self.headers["Authorization"] == "Bearer demo-key"
            self.answer(200, json.dumps(gateway.series()))

        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
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
        yield Pipeline([url], keys, gateway, [Service(nothing, url)])
        server.shutdown()
        thread.join()


@pytest.fixture
def plan() -> Plan:
    return make_plan("digits", steps=300, steps_per_s=600.0)


def run_demonstration(pipeline, plan, folder, **options):
    output, screen = io.StringIO(), io.StringIO()
    ledger = demonstrate(
        pipeline,
        plan,
        folder / "runs",
        output=Console(file=output, width=110),
        screen=Console(file=screen, width=110),
        **options,
    )
    return ledger, output.getvalue(), screen.getvalue()


def test_a_pipeline_without_fault_ends_in_a_clean_ledger_and_a_report(
    gateway, pipeline, plan, tmp_path
) -> None:
    ledger, output, screen = run_demonstration(pipeline, plan, tmp_path)
    assert ledger.clean
    assert ledger.sent == ledger.accepted == ledger.stored == len(gateway.raw)
    assert ledger.rejected == 0
    assert ledger.nonfinite == len(gateway.events) > 0
    for run in plan.runs:
        assert run.name in output
    assert "train/loss by step" in output
    assert "p50 0 to 25 ms, p99 25 to 250 ms" in output
    assert "guest-lr-0.2 was told to wait 3 times" in output
    assert "steps/s" in output
    assert "trained" in screen


def test_a_row_that_is_acknowledged_and_lost_is_missing_in_the_ledger(
    gateway, pipeline, plan, tmp_path
) -> None:
    gateway.keeps = lambda row: (row["run"], row["step"]) != ("lr-0.1", 17)
    ledger, _output, screen = run_demonstration(pipeline, plan, tmp_path, settle_timeout_s=0.5)
    assert ledger.missing == 5  # step, loss, accuracy, learning rate, norm of the gradient
    assert ledger.stored == ledger.sent - 1
    assert ledger.accepted == ledger.sent
    assert not ledger.clean
    assert "stored" in screen


def test_trainers_that_are_refused_fail_the_demo_with_the_gateways_words(
    gateway, pipeline, plan, tmp_path
) -> None:
    gateway.take = lambda _key, _rows: (401, {"title": "the key is not known"})
    with pytest.raises(DemoFailed, match=r"401.*the key is not known"):
        run_demonstration(pipeline, plan, tmp_path, settle_timeout_s=0.0)
