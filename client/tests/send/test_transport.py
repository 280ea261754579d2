import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stepclock.send.transport import Answer, GatewayConnection


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        server.seen.append((self.path, dict(self.headers), body, self.client_address))
        word = server.script.pop(0) if server.script else 204
        if word == "hang up":
            self.close_connection = True
            return
        self.send_response(word)
        self.send_header("Stepclock-Receipt", "1.raw-0-1")
        self.send_header("Content-Length", "0")
        self.end_headers()
        if server.script[:1] == ["close when resting"]:
            server.script.pop(0)
            self.close_connection = True

    do_GET = do_POST  # noqa: N815 -- the name that is called

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.script, running.seen, running.daemon_threads = [], [], True
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def gateway(server):
    made = GatewayConnection(
        f"http://127.0.0.1:{server.server_port}/base", "sk_key", None, timeout_s=5
    )
    yield made
    made.close()


def test_requests_share_a_connection_and_carry_the_key(server, gateway):
    for number in range(3):
        answer = gateway.post("/write", b"body", {"Stepclock-Sequence": b"%d" % number})
        assert answer.status == 204
        assert answer.headers["stepclock-receipt"] == "1.raw-0-1"
    paths, headers, bodies, clients = zip(*server.seen)
    assert set(paths) == {"/base/write"}
    assert [each["Stepclock-Sequence"] for each in headers] == ["0", "1", "2"]
    assert headers[0]["Authorization"] == "Bearer sk_key"
    assert set(bodies) == {b"body"}
    assert len(set(clients)) == 1


def test_a_connection_that_was_ended_while_it_rested_is_no_failure(server, gateway):
    server.script = [204, "close when resting"]
    assert gateway.post("/write", b"1", {}).status == 204
    assert gateway.post("/write", b"2", {}).status == 204
    assert len({client for *_, client in server.seen}) == 2


def test_a_new_connection_that_ends_without_an_answer_is_told(server, gateway):
    server.script = ["hang up", 204]
    answer = gateway.post("/write", b"1", {})
    assert answer.status == 0
    assert answer.text
    assert gateway.post("/write", b"1", {}).status == 204


def test_nobody_who_listens_is_no_answer_and_raises_nothing():
    gateway = GatewayConnection("http://127.0.0.1:9", None, None)
    assert gateway.post("/write", b"1", {}).status == 0
    assert "refused" in gateway.get("/x").text.lower()


def test_a_certificate_authority_that_is_not_there_is_told(tmp_path):
    gateway = GatewayConnection("https://127.0.0.1:9", None, str(tmp_path / "none.pem"))
    assert gateway.post("/write", b"1", {}).status == 0


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)]
)
def test_retry_after_is_read_in_seconds(value, seconds):
    assert Answer(429, {"retry-after": value}).retry_after_s == seconds


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"code": "unauthorized", "message": "the key is not known"}', "the key is not known"),
        (b'{"title": "x", "detail": "no such run"}', "no such run"),
        (b'{"code": 1}', '{"code": 1}'),
        (b"{not json", "{not json"),
        (b"<h1>Bad Gateway</h1>", "<h1>Bad Gateway</h1>"),
    ],
)
def test_what_an_answer_says_is_the_sentence_for_people_where_there_is_one(body, text):
    assert Answer(400, {}, body).text == text


def test_names_beyond_ascii_travel_in_headers(server, gateway):
    assert gateway.post("/write", b"1", {"Stepclock-Run": "rün".encode()}).status == 204
    assert server.seen[0][1]["Stepclock-Run"].encode("latin-1") == "rün".encode()
