from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from demo import rows
from demo.rows import Row
from demo.sender import Sender, SendingFailed

DEADLINE_S = 10.0


@dataclass
class Gateway:
    """Answers with what it is told to, then 202; keeps what it was sent."""

    ledger: Path
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    connections: int = 0
    recorded_when_received: list[int] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def gateway(tmp_path) -> Iterator[Gateway]:
    state = Gateway(tmp_path / "ledger.jsonl")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            state.connections += 1
            super().setup()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.recorded_when_received.append(len(list(rows.read(state.ledger))))
            state.requests.append({"path": self.path, **body})
            state.keys.append(self.headers["Authorization"])
            status, headers = state.answers.pop(0) if state.answers else (202, {})
            if status == 0:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            answer: dict[str, Any] = {"title": "no"}
            if status == 202:
                taken = len(body["rows"]) - len(state.rejected)
                answer = {"accepted": taken, "stamped": 0, "rejected": state.rejected}
            text = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield state
        server.shutdown()
        thread.join()


def row(step: int) -> Row:
    return Row("digits", "lr-0.1", 0, step, 1000 + step, {"train/loss": 1 / (step + 1)})


@contextmanager
def sending(gateway: Gateway, **options: Any) -> Iterator[Sender]:
    """A sender whose waits take no time, and its end: every row answered for."""
    sender = Sender(gateway.url, "sk_a_b", gateway.ledger, **{"sleep": lambda _s: None, **options})
    yield sender
    sender.finish()
    assert sender.wait(DEADLINE_S)


def sent_steps(gateway: Gateway) -> list[list[int]]:
    return [[entry["step"] for entry in request["rows"]] for request in gateway.requests]


def test_every_row_is_in_the_ledger_before_the_gateway_sees_it(gateway) -> None:
    with sending(gateway, batch_age_s=0.0) as sender:
        for step in range(20):
            sender.log(row(step))
    received = 0
    for request, recorded in zip(gateway.requests, gateway.recorded_when_received, strict=True):
        received += len(request["rows"])
        assert recorded >= received
    assert list(rows.read(gateway.ledger)) == [row(step) for step in range(20)]
    assert sender.totals.accepted == 20


def test_rows_go_to_the_json_route_in_batches_over_one_connection_with_the_key(gateway) -> None:
    with sending(gateway, max_batch_rows=8, batch_age_s=DEADLINE_S) as sender:
        for step in range(20):
            sender.log(row(step))
    assert [len(steps) for steps in sent_steps(gateway)] == [8, 8, 4]
    assert {request["path"] for request in gateway.requests} == {"/api/v1/metrics"}
    assert set(gateway.keys) == {"Bearer sk_a_b"}
    assert gateway.connections == 1


def test_a_429_is_waited_out_as_told_and_the_same_rows_are_sent_again(gateway) -> None:
    gateway.answers = [(429, {"Retry-After": "3"}), (429, {"Retry-After": "2"})]
    waits: list[float] = []
    with sending(gateway, sleep=waits.append) as sender:
        sender.log(row(1))
    assert waits == [3.0, 2.0]
    assert sent_steps(gateway) == [[1], [1], [1]]
    assert (sender.totals.limited, sender.totals.limited_s) == (2, 5.0)
    assert (sender.totals.accepted, sender.totals.retried) == (1, 0)


def test_after_503_or_a_lost_connection_the_same_rows_are_sent_again(gateway) -> None:
    gateway.answers = [(503, {"Retry-After": "1"}), (0, {}), (500, {})]
    waits: list[float] = []
    with sending(gateway, sleep=waits.append) as sender:
        sender.log(row(1))
    assert waits == [1.0, 0.2, 0.4]
    assert sent_steps(gateway) == [[1]] * 4
    assert list(rows.read(gateway.ledger)) == [row(1)]
    assert (sender.totals.accepted, sender.totals.retried) == (1, 3)


def test_rejected_rows_are_counted_once_each_with_the_first_reason(gateway) -> None:
    gateway.rejected = [
        {"index": 1, "field": "values.a", "reason": "not a number"},
        {"index": 1, "field": "values.b", "reason": "not a number"},
    ]
    with sending(gateway) as sender:
        sender.log(row(1))
    assert sender.totals.rejected == 1
    assert "values.a" in (sender.totals.first_rejection or "")


def test_a_refused_request_counts_all_its_rows_as_rejected(gateway) -> None:
    gateway.answers = [(400, {})]
    with sending(gateway, max_batch_rows=2, batch_age_s=DEADLINE_S) as sender:
        for step in range(4):
            sender.log(row(step))
    assert (sender.totals.accepted, sender.totals.rejected) == (2, 2)


def test_a_wrong_key_ends_the_sender(gateway) -> None:
    gateway.answers = [(401, {})]
    sender = Sender(gateway.url, "sk_a_b", gateway.ledger)
    sender.log(row(1))
    sender.finish()
    with pytest.raises(SendingFailed, match="401"):
        sender.wait(DEADLINE_S)
    with pytest.raises(SendingFailed, match="401"):
        sender.log(row(2))


def test_a_gateway_that_stays_away_is_given_up_after_the_deadline(gateway) -> None:
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    gateway.answers = [(503, {"Retry-After": "1"})] * 100
    sender = Sender(
        gateway.url,
        "sk_a_b",
        gateway.ledger,
        batch_age_s=0.0,
        give_up_after_s=5.0,
        now=lambda: clock[0],
        sleep=sleep,
    )
    sender.log(row(1))
    sender.finish()
    with pytest.raises(SendingFailed, match="503"):
        sender.wait(DEADLINE_S)
    assert clock[0] == 5.0
    assert list(rows.read(gateway.ledger)) == [row(1)]  # and so the ledger will miss it


def test_an_address_without_scheme_is_refused_at_once(tmp_path) -> None:
    with pytest.raises(SendingFailed, match="http://"):
        Sender("127.0.0.1:8787", "sk_a_b", tmp_path / "ledger.jsonl")
