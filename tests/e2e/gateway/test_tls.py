"""The gateway's own port with TLS: real clients, slow ones, and those that speak none."""

import json
import os
import signal
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request

import pytest
from influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS

from ingest.http.bounds import REFUSED_POLITELY
from native.process import Process
from schemas.tenants.keys import new_key
from schemas.tenants.keys_file import dump
from tests.certificates import Authority

pytestmark = pytest.mark.slow

HEADER_TIMEOUT_S = 2.0
TIMEOUT_S = 20.0
MAX_CONNECTIONS = 20


class Server:
    """`serve` with a certificate."""

    def __init__(self, folder):
        self.authority = Authority.new(folder / "authority")
        signed = self.authority.sign("gateway")
        self.key, record = new_key("tls")
        (folder / "keys.toml").write_text(dump([record]))
        address = folder / "url"
        self.process = Process(
            "serve",
            [sys.executable, "-m", "admin", "serve"],
            log_path=folder / "serve.log",
            ready=address.exists,
            env={
                "STEPCLOCK_PORT": "0",
                "STEPCLOCK_ADDRESS_FILE": str(address),
                "STEPCLOCK_DATA_DIR": str(folder),
                "STEPCLOCK_TLS_CERT_FILE": str(signed.certificate),
                "STEPCLOCK_TLS_KEY_FILE": str(signed.key),
                "STEPCLOCK_HEADER_TIMEOUT_S": str(HEADER_TIMEOUT_S),
                "STEPCLOCK_MAX_CONNECTIONS": str(MAX_CONNECTIONS),
            },
        )
        self.process.start()
        self.url = address.read_text().strip()
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))
        self.context = ssl.create_default_context(cafile=self.authority.file)

    def ask(self, path, body=None, **headers):
        """Status and body; an error of HTTP is an answer too."""
        request = urllib.request.Request(
            self.url + path, body, {"Authorization": f"Bearer {self.key}", **headers}
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self.context) as got:
                return got.status, got.read()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read()

    def tcp(self):
        return socket.create_connection(self.address, TIMEOUT_S)

    def tls(self):
        return self.context.wrap_socket(self.tcp(), server_hostname="127.0.0.1")

    def series(self, experiment):
        path = f"/api/v1/experiments/{experiment}/series?metric=loss"
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            status, body = self.ask(path)
            assert status == 200
            runs = json.loads(body)["runs"]
            if runs:
                return [mean for run in runs for mean in run["mean"]]
            time.sleep(0.05)
        raise AssertionError(f"nothing of {experiment} was stored")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("tls"))
    yield server
    server.process.stop()


def ended_after(connection):
    """Seconds until the server ends a connection on which we say nothing (more)."""
    began = time.monotonic()
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began


def test_the_address_says_https_and_a_point_goes_in_and_comes_out(server):
    assert server.url.startswith("https://127.0.0.1:")
    status, _ = server.ask("/api/v2/write?bucket=raw", b"plain,run=r loss=0.5,step=1i")
    assert status == 204
    assert server.series("plain") == [0.5]


def test_a_body_of_many_tls_records_arrives_whole(server):
    lines = "\n".join(f"many,run=r loss={n},step={n}i" for n in range(40_000)).encode()
    status, _ = server.ask("/api/v2/write?bucket=raw", lines)
    assert status == 204
    status, body = server.ask("/api/v2/write?bucket=raw", lines + b"\nmany,run=r loss=")
    assert status == 400
    assert json.loads(body)["rejected"][0]["line"] == 40_001


def test_influxdbs_own_client_writes(server):
    with InfluxDBClient(
        server.url, server.key, org="any", ssl_ca_cert=str(server.authority.file)
    ) as client:
        api = client.write_api(write_options=SYNCHRONOUS)
        api.write("raw", record="influx,run=r loss=0.25,step=1i")
    assert server.series("influx") == [0.25]


def test_a_client_that_does_not_know_the_authority_sends_nothing(server):
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(server.url + "/livez", timeout=TIMEOUT_S)
    assert server.ask("/livez")[0] == 200


def test_old_versions_of_tls_are_not_spoken(server):
    context = ssl.create_default_context(cafile=server.authority.file)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with server.tcp() as tcp, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(tcp, server_hostname="127.0.0.1")


def test_http_without_tls_gets_no_answer_and_harms_nobody(server):
    with server.tcp() as tcp:
        tcp.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        try:
            while more := tcp.recv(4096):
                got += more
        except ConnectionError:
            pass
    assert b"HTTP/" not in got
    assert server.ask("/livez")[0] == 200


def test_a_handshake_that_does_not_begin_or_stands_still_is_ended(server):
    incoming, hello = ssl.MemoryBIO(), ssl.MemoryBIO()
    half = server.context.wrap_bio(incoming, hello, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    begun = hello.read()[:50]
    for said in (b"", begun):
        with server.tcp() as tcp:
            tcp.sendall(said)
            assert ended_after(tcp) < HEADER_TIMEOUT_S + 10


def test_slow_headers_inside_tls_are_answered_and_ended(server):
    with server.tls() as tls:
        tls.sendall(b"GET /livez HTTP/1.1\r\nHost:")
        answer = tls.recv(4096)
        assert b" 408 " in answer.partition(b"\r\n")[0]
        ended_after(tls)


def test_too_large_headers_and_bodies_are_answered_before_the_connection_ends(server):
    status, _ = server.ask("/livez", **{"X-Large": "x" * 70_000})
    assert status == 431
    with server.tls() as tls:
        tls.sendall(
            b"POST /api/v2/write?bucket=raw HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n"
            b"Connection: close\r\nAuthorization: Bearer " + server.key.encode() + b"\r\n\r\n"
        )
        assert b" 413 " in tls.recv(4096).partition(b"\r\n")[0]
        ended_after(tls)


def test_requests_follow_each_other_on_one_connection(server):
    with server.tls() as tls:
        answers = tls.makefile("rb")
        for _ in range(3):
            tls.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            head = {}
            assert b" 200 " in answers.readline()
            while (line := answers.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                head[name.lower()] = value.strip()
            answers.read(int(head[b"content-length"]))


def test_connections_in_their_handshake_are_bounded_and_pass(server):
    idle = [server.tcp() for _ in range(MAX_CONNECTIONS + REFUSED_POLITELY)]
    try:
        with server.tcp() as one_more:
            assert ended_after(one_more) < HEADER_TIMEOUT_S, "before those that are in time"
    finally:
        for tcp in idle:
            tcp.close()
    wait_until_there_is_room(server)


def wait_until_there_is_room(server):
    """The server notices with the next turns of its loop who is gone."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            if server.ask("/livez")[0] == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_beyond_the_bound_a_client_is_told(server):
    held = [server.tls() for _ in range(MAX_CONNECTIONS)]
    try:
        assert server.ask("/livez")[0] == 503
    finally:
        for tls in held:
            tls.close()
    wait_until_there_is_room(server)


def test_nobody_waits_for_a_handshake_when_the_server_ends(tmp_path):
    server = Server(tmp_path)
    with server.tcp() as idle:
        assert server.ask("/livez")[0] == 200
        os.kill(server.process.pid, signal.SIGTERM)
        assert ended_after(idle) < TIMEOUT_S
    server.process.stop()
    assert "Traceback" not in (tmp_path / "serve.log").read_text()
