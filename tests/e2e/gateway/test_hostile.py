"""Hostile input, row by row as docs/errors.md promises, against a real server process."""

import gzip
import resource
import select
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import zstandard

from tests.e2e.gateway.hostile import METRICS, NO_ANSWER, WRITE, Connection, Server, rows

CASES = {}
#: Cases that wait for the server's patience; all of them wait at the same time.
PATIENT = {"slow-headers", "stalled-body", "silent-connection"}
MIB = 1024 * 1024
V1 = "/write?db=stepclock"


def case(name):
    def register(function):
        assert name not in CASES
        CASES[name] = function
        return function

    return register


def lines(name, text, path=WRITE, headers=(), key="write", method="POST"):
    """A case that posts text, in which {m} is the case's own experiment."""

    def run(server):
        body = text(name) if callable(text) else text.replace(b"{m}", name.encode())
        return server.ask(body, path, headers, method=method, key=key)

    case(name)(run)


def document(name, body):
    """A case that posts a JSON text, in which {m} is the case's own experiment."""
    lines(name, body, METRICS)


def raw(name, make):
    """A case that sends bytes on a connection of its own; make gets the server."""
    case(name)(lambda server: server.raw(make(server)))


def chunked(parts):
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


GOOD = b"{m},run=r v=1"

# -- lines --------------------------------------------------------------------------------
lines("malformed-line", GOOD + b"\n{m},run=r v=\n" + GOOD)
lines("too-old", GOOD + b"\n{m},run=r v=2 1000")
lines("far-future", lambda m: f"{m},run=r v=1\n{m},run=r v=2 {time.time_ns() * 2}".encode())
lines("nan-in-a-line", GOOD + b"\n{m},run=r v=NaN")
lines("step-out-of-range", GOOD + b"\n{m},run=r v=2,step=-1i")
lines("step-not-an-integer", GOOD + b"\n{m},run=r v=2,step=5")
lines("reserved-experiment", GOOD + b"\nnonfinite,run=r v=2")
lines("not-utf-8", GOOD + b"\n{m},run=\xff v=2")
lines("nul-byte", GOOD + b"\n{m},run=a\0b v=2")
lines("separator-behind-its-like", b"{m},run=x#2!~ v=1\n{m},run=x#!~ v=2")
lines(
    "many-tags",
    lambda m: (
        b"%b,run=r v=1\n%b%b v=2"
        % (m.encode(), m.encode(), b"".join(b",t%d=1" % n for n in range(100_000)))
    ),
)
lines("huge-tag", GOOD + b"\n{m},run=" + b"x" * MIB + b" v=2")
lines("many-bad-lines", GOOD + b"\nx" * 20_000)
lines("empty-body", b"")
lines("only-comments", b"# nothing\n\n# at all\n")
lines("crlf", GOOD + b"\r\n{m},run=r v=2\r\n")


@case("type-conflict")
def type_conflict(server):
    assert server.ask(b"type-conflict,run=r v=1").status == 204
    return server.ask(b'type-conflict,run=r v=2\ntype-conflict,run=r v="text"')


# -- bodies -------------------------------------------------------------------------------
BOMB = bytes(40 * MIB)
GZIP, ZSTD = {"Content-Encoding": "gzip"}, {"Content-Encoding": "zstd"}
PLAIN = b"".join(b"m,run=r%d v=%d\n" % (n, n * n) for n in range(1000))


def compressed_with_zstd(body):
    return zstandard.ZstdCompressor().compress(body)


def spoilt(body):
    return body[: len(body) // 2] + b"\xff\x00\xff\x00" + body[len(body) // 2 + 4 :]


lines("gzip-bomb", gzip.compress(BOMB, 1), headers=GZIP)
lines("zstd-bomb", compressed_with_zstd(BOMB), headers=ZSTD)
lines("bomb-in-members", gzip.compress(bytes(8 * MIB), 1) * 5, headers=GZIP)
lines("bomb-within-a-bomb", gzip.compress(gzip.compress(BOMB, 1) + GOOD), headers=GZIP)
lines("endless-members", gzip.compress(b"") * 1000, headers=GZIP)
lines("corrupt-gzip", spoilt(gzip.compress(PLAIN)), headers=GZIP)
lines("truncated-gzip", gzip.compress(PLAIN)[:-9], headers=GZIP)
lines("corrupt-zstd", b"\x28\xb5\x2f\xfd\xff" + b"junk" * 99, headers=ZSTD)
lines("truncated-zstd", compressed_with_zstd(PLAIN)[:-9], headers=ZSTD)
lines("plain-called-gzip", GOOD, headers=GZIP)
lines(
    "encoding-twice", gzip.compress(gzip.compress(GOOD)), headers={"Content-Encoding": "gzip, gzip"}
)
lines("unknown-encoding", GOOD, headers={"Content-Encoding": "br"})
lines("wrong-content-type", GOOD, headers={"Content-Type": "image/png"})
lines("oversized-declared", b"", headers={"Content-Length": 11 * MIB})
case("oversized-chunked")(
    lambda server: server.raw(
        server.head(headers={"Transfer-Encoding": "chunked", "Connection": "close"})
        + chunked([b"m v=1\n" * 10_000] * 200)
    )
)

# -- where to ------------------------------------------------------------------------------
lines("no-bucket", GOOD, "/api/v2/write")
lines("unknown-class", GOOD, "/api/v2/write?bucket=nosuch")
lines("derived-class", GOOD, "/api/v2/write?bucket=steps")
lines("foreign-namespace", GOOD, "/api/v2/write?bucket=other/raw")
lines("foreign-database", GOOD, "/write?db=other")
lines("unknown-precision", GOOD, f"{WRITE}&precision=fortnight")
lines("bad-sequence", GOOD, headers={"Stepclock-Stream": "s", "Stepclock-Sequence": "1e3"})
lines("huge-sequence", GOOD, headers={"Stepclock-Stream": "s", "Stepclock-Sequence": "9" * 5000})
lines("bad-trace", GOOD, headers={"traceparent": "00-zz"})
lines("bad-start", GOOD, headers={"Stepclock-Stream": "s", "Stepclock-Start": "1"})
lines("odd-stream", GOOD, headers={"Stepclock-Stream": "\xff" * 4000, "Stepclock-Sequence": "1"})
lines("wrong-method", b"", method="DELETE")
lines("unknown-path", GOOD, "/api/v3/write")

# -- keys -----------------------------------------------------------------------------------
lines("no-key", GOOD, key=None)
lines("wrong-key", GOOD, key="sk_000000000000_nonsense")
lines("not-a-key", GOOD, key="\xff" * 5000)
lines("revoked-key", GOOD, key="revoked")
lines("expired-key", GOOD, key="expired")
lines("reading-key", GOOD, key="read")
lines("unknown-scheme", GOOD, key=None, headers={"Authorization": "Digest abc"})
lines("broken-basic", GOOD, key=None, headers={"Authorization": "Basic =="})
lines("basic-not-ascii", GOOD, key=None, headers={"Authorization": "Basic \xff"})
lines("wrong-password", GOOD, f"{V1}&u=me&p=wrong", key=None)
case("key-in-the-query")(
    lambda s: s.ask(b"key-in-the-query v=1", f"{WRITE}&p={s.keys['write']}", key=None)
)
case("key-as-password")(
    lambda s: s.ask(b"key-as-password,run=r v=1", f"{V1}&u=me&p={s.keys['write']}", key=None)
)

# -- JSON -----------------------------------------------------------------------------------
ROW = b'{"experiment": "{m}", "run": "r", "step": 1, "values": {"v": 1}}'
document("not-json", b"rows: 5")
document("cut-json", b'{"rows": [' + ROW)
document("json-not-utf-8", b'{"rows": ["\xff"]}')
document("deep-nesting", b'{"rows": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
document("no-rows", b'{"rows": {}}')
document("too-many-rows", b'{"rows": [' + b"0," * 100_000 + b"0]}")
VALUES = b",".join(b'"%d": 1' % number for number in range(10_001))
document("too-many-values", b'{"rows": [' + ROW.replace(b'"v": 1', VALUES) + b"," + ROW + b"]}")
document("rows-of-wrong-type", b'{"rows": [' + b"0," * 20_000 + ROW + b"]}")
document("step-as-text", b'{"rows": [' + ROW.replace(b": 1, ", b': "1", ') + b"," + ROW + b"]}")
document("huge-step", b'{"rows": [' + ROW.replace(b": 1, ", b": " + b"9" * 4000 + b", ") + b"]}")
document(
    "absurd-step", b'{"rows": [' + ROW.replace(b": 1, ", b": " + b"9" * 50_000 + b", ") + b"]}"
)
document(
    "huge-value", b'{"rows": [' + ROW.replace(b'"v": 1', b'"v": 1, "w": ' + b"9" * 400) + b"]}"
)
document("large-row", b'{"rows": [' + ROW + b', "' + b"x" * 300 * 1024 + b'"]}')
document("beyond-a-float", b'{"rows": [' + ROW.replace(b'"v": 1', b'"v": 1, "w": 1e400') + b"]}")
document("name-beyond-a-float", b'{"rows": [' + ROW.replace(b'"r"', b"1e400") + b", " + ROW + b"]}")
document("duplicate-keys", b'{"rows": [' + ROW.replace(b'"v": 1', b'"v": 1, "v": 2') + b"]}")
document("unknown-member", b'{"rows": [' + ROW.replace(b'"run"', b'"x": 1, "run"') + b"]}")
document("lone-surrogate", b'{"rows": [' + ROW.replace(b'"r"', b'"\\ud800"') + b"]}")
document("value-of-wrong-type", b'{"rows": [' + ROW.replace(b'"v": 1', b'"v": 1, "w": [1]') + b"]}")

# -- HTTP -----------------------------------------------------------------------------------
BODY = b"{m},run=r v=1"


def post(name, head, body=BODY):
    """A case of raw bytes: some headers of its own and a body."""
    raw(
        name,
        lambda server: (
            server.head(headers=head)
            + (body(name) if callable(body) else body.replace(b"{m}", name.encode()))
        ),
    )


raw("not-http", lambda _: b"hello\r\n\r\n")
raw("tls-hello", lambda _: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
raw("http-2", lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
raw("connect", lambda s: s.head("example.com:443", method="CONNECT"))
raw("odd-target", lambda s: s.head("*", method="OPTIONS"))
raw("bytes-in-the-target", lambda s: s.head("/\xff\xfe"))
raw("long-request-line", lambda s: s.head(f"{WRITE}&x={'x' * 9000}", {"Content-Length": 0}))
raw("endless-request-line", lambda _: b"POST /" + b"x" * MIB)
raw("many-headers", lambda s: s.head(headers={f"X-{n}": n for n in range(200)}))
raw("large-headers", lambda s: s.head(headers={f"X-{n}": "x" * 8000 for n in range(20)}))
raw("endless-header", lambda s: s.head()[:-2] + b"X: " + b"x" * (2 * MIB))
raw("endless-line-ends", lambda s: b"\r\n" * MIB)
raw(
    "endless-trailer",
    lambda s: s.head(headers={"Transfer-Encoding": "chunked"}) + b"0\r\nX: " + b"x" * (2 * MIB),
)
post("length-not-a-number", {"Content-Length": "many"})
post("length-negative", {"Content-Length": -1})
post("length-signed", {"Content-Length": "+5"})
post("length-absurd", {"Content-Length": "9" * 5000})
lines("length-huge", GOOD, headers={"Content-Length": 2**64 - 1})
post("length-and-chunked", {"Content-Length": 5, "Transfer-Encoding": "chunked"})
post("length-twice", {"Content-Length": 5, "content-length": 7})
post("length-too-short", {"Content-Length": len("length-too-short,run=r v=1")}, BODY + b"23")
post("unknown-transfer-encoding", {"Transfer-Encoding": "gzip"})
post("broken-chunk", {"Transfer-Encoding": "chunked"}, b"5\r\n{m},run=r v=1")
post("bare-line-feed", {"Content-Length": "1\nX: y"})
post("folded-header", {"X": "a\r\n b"})


@case("key-in-a-trailer")
def key_in_a_trailer(server):
    body = chunked([b"key-in-a-trailer v=1"]).removesuffix(b"\r\n")
    trailer = f"Authorization: Bearer {server.keys['write']}\r\n\r\n".encode()
    head = server.head(headers={"Transfer-Encoding": "chunked", "Connection": "close"}, key=None)
    return server.raw(head + body + trailer)


@case("body-cut")
def body_cut(server):
    with Connection(server) as connection:
        connection.send(server.head(headers={"Content-Length": 100}) + b"body-cut,run=r v=1\n")
        connection.socket.shutdown(1)
        return connection.read()


@case("upgrade-asked")
def upgrade_asked(server):
    headers = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAMAAABk",
    }
    with Connection(server) as connection:
        first = server.ask_on(connection, b"upgrade-asked,run=r v=1", headers=headers)
        assert first.status == 204
        connection.send(server.head(headers=headers | {"Transfer-Encoding": "chunked"}))
        connection.send(chunked([b"upgrade-asked,", b"run=r v=2"]))
        return connection.read()


@case("expect-continue")
def expect_continue(server):
    with Connection(server) as connection:
        body = b"expect-continue,run=r v=1"
        connection.send(
            server.head(headers={"Expect": "100-continue", "Content-Length": len(body)})
        )
        assert connection.socket.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(body)
        return connection.read()


@case("expect-too-much")
def expect_too_much(server):
    with Connection(server) as connection:
        connection.send(server.head(headers={"Expect": "100-continue", "Content-Length": 20 * MIB}))
        assert connection.socket.recv(17, 2).startswith(b"HTTP/1.1 413"), "no 100 before it"
        return connection.read()


@case("pipelined")
def pipelined(server):
    head = server.head(headers={"Content-Length": 19})
    with Connection(server) as connection:
        connection.send(b"".join(head + b"pipelined,run=r v=%d" % n for n in range(10)))
        answers = [connection.read() for _ in range(10)]
    assert {answer.status for answer in answers} == {204}
    return answers[-1]


@case("pipelined-flood")
def pipelined_flood(server):
    head = server.head(headers={"Content-Length": 0})
    with Connection(server) as connection:
        connection.send(head * 10_000)
        answers = [connection.read()]
        while answers[-1].status == 204:
            answers.append(connection.read())
    assert 1 < len(answers) < 100
    assert answers[-1] == NO_ANSWER
    return answers[-1]


@case("error-behind-a-good-request")
def error_behind_a_good_request(server):
    body = b"error-behind-a-good-request,run=r v=1"
    return server.raw(server.head(headers={"Content-Length": len(body)}) + body + b"garbage\r\n")


@case("idle-connections")
def idle_connections(server):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 9000 if min(hard, 10**9) >= 12_000 and soft >= 10_000 else 500
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(Connection(server))
        began = time.monotonic()
        answers = [server.ask(b"idle-connections,run=r v=%d" % n) for n in range(10)]
        assert time.monotonic() - began < 5
    assert {answer.status for answer in answers} == {204}
    return answers[-1]


# -- patience -------------------------------------------------------------------------------
def dribbled(server, start, drop):
    """Send one byte at a time, ever slower than needed, until the server has had enough."""
    with Connection(server) as connection:
        connection.send(start)
        while not select.select([connection.socket], [], [], 0.1)[0]:
            if drop:
                connection.send(drop)
        return connection.read(until_end=True)


case("slow-headers")(lambda server: dribbled(server, server.head()[:-4] + b"\r\nX: ", b"x"))
case("silent-connection")(lambda server: dribbled(server, b"", b""))
case("stalled-body")(
    lambda server: dribbled(
        server, server.head(headers={"Content-Length": 100}) + b"stalled-body,run=r v=1\n", b""
    )
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("hostile"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def patient(server):
    """Answers to come of the cases that wait, all begun at once."""
    with ThreadPoolExecutor(len(PATIENT)) as threads:
        yield {name: threads.submit(CASES[name], server) for name in PATIENT}


def test_every_row_has_a_case_and_every_case_a_row():
    names = [row.case for row in rows()]
    assert len(names) == len(set(names))
    assert set(names) == CASES.keys()


@pytest.mark.parametrize(
    "row", sorted(rows(), key=lambda row: row.case in PATIENT), ids=lambda row: row.case
)
def test_hostile_input_is_answered_as_the_table_says(server, patient, row):
    answer = patient[row.case].result(60) if row.case in PATIENT else CASES[row.case](server)
    assert (answer.status, answer.code) == (row.status, row.code), answer
    assert row.says in answer.text
    assert not any(key.split("_", 2)[2] in str(answer) for key in server.keys.values())
    if row.status == 503:
        assert int(answer.headers["retry-after"]) >= 1
    if row.ends:
        assert answer.ended
    assert server.stored(row.case) == row.stored
    assert server.dead(answer) == row.dead
    assert server.process.process.running
    assert " ERROR " not in server.log
    assert " CRITICAL " not in server.log


def test_nothing_of_a_key_is_logged(server):
    assert not any(key.split("_", 2)[2] in server.log for key in server.keys.values())


def test_the_bounds_of_connections_are_those_of_the_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPCLOCK_MAX_HEADERS", "8")
    server = Server(tmp_path)
    try:
        assert server.ask(b"m v=1", headers={f"X-{n}": n for n in range(9)}).status == 431
        assert server.ask(b"m v=1").status == 204
    finally:
        server.stop()
