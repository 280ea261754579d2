"""The way through a proxy, as the environment names it."""

import base64
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from proxies import ForwardProxy, serving
from tests.certificates import Authority

from stepclock.cli.doctor.examination import examine
from stepclock.cli.doctor.reach import reach
from stepclock.send.proxy import proxy_for
from stepclock.send.transport import GatewayConnection
from stepclock.settings import Settings

#: Resolved by the proxy alone: whoever goes past it finds no such host.
HOST = "gateway.test"


class Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, dict(self.headers), body))
        self.send_response(204)
        self.end_headers()

    do_GET = do_POST  # noqa: N815 -- the name that is called

    def log_message(self, *_):
        pass


def server_of(certificate=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.daemon_threads = True
    server.seen = []
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


@pytest.fixture
def upstream():
    with serving(server_of()) as server:
        yield server


@pytest.fixture
def proxy(upstream):
    with serving(ForwardProxy(upstream.server_address)) as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.new(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secure(authority):
    """A proxy before a server that speaks TLS."""
    with (
        serving(server_of(authority.sign("gateway"))) as server,
        serving(ForwardProxy(server.server_address)) as running,
    ):
        running.upstream = server
        yield running


def test_http_goes_through_the_proxy_by_whole_urls(proxy, upstream, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://us%40er:p%3Aw@{proxy.address}")
    gateway = GatewayConnection(f"http://{HOST}:8787/base", "sk_key", None, 5.0)
    assert gateway.post("/write", b"body", {}).status == 204
    assert gateway.get("/ping").status == 204
    gateway.close()
    (method, target, headers), _ = proxy.asked
    assert (method, target) == ("POST", f"http://{HOST}:8787/base/write")
    assert headers["Host"] == f"{HOST}:8787"
    login = base64.b64encode(b"us@er:p:w").decode()
    assert headers["Proxy-Authorization"] == f"Basic {login}"
    path, headers, body = upstream.seen[0]
    assert (path, headers["Authorization"], body) == ("/base/write", "Bearer sk_key", b"body")


def test_https_goes_through_a_tunnel_which_its_connection_shares(secure, authority, monkeypatch):
    monkeypatch.setenv("https_proxy", f"user:word@{secure.address}")
    gateway = GatewayConnection(f"https://{HOST}", "sk_key", str(authority.file), 5.0)
    for _ in range(2):
        assert gateway.post("/write", b"body", {}).status == 204
    gateway.close()
    ((method, target, headers),) = secure.asked
    assert (method, target) == ("CONNECT", f"{HOST}:443")
    assert headers["Proxy-Authorization"].startswith("Basic ")
    # The proxy sees none of the key, the server none of the proxy's login.
    assert "Authorization" not in headers
    _, headers, _ = secure.upstream.seen[0]
    assert headers["Authorization"] == "Bearer sk_key"
    assert "Proxy-Authorization" not in headers


def test_a_certificate_for_another_host_is_not_taken_through_a_tunnel(
    secure, authority, monkeypatch
):
    monkeypatch.setenv("HTTPS_PROXY", f"http://{secure.address}")
    answer = GatewayConnection("https://elsewhere.test", None, str(authority.file), 5.0).get(
        "/ping"
    )
    assert answer.status == 0
    assert "certificate" in answer.text


def test_why_a_proxy_gives_no_tunnel_is_told_and_its_login_is_not(proxy, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:hush@{proxy.address}")
    proxy.refusal = 407
    answer = GatewayConnection(f"https://{HOST}", None, None, 5.0).get("/ping")
    assert answer.status == 0
    assert "407" in answer.text
    assert f"HTTPS_PROXY {proxy.address}" in answer.text
    assert "hush" not in answer.text + repr(proxy_for(f"https://{HOST}"))


@pytest.mark.parametrize(
    ("environment", "endpoint", "variable"),
    [
        ({"HTTP_PROXY": "http://p:1"}, "http://gateway.test", "HTTP_PROXY"),
        ({"HTTP_PROXY": "http://p:1"}, "https://gateway.test", None),
        ({"http_proxy": "p:1", "HTTPS_PROXY": "p:2"}, "https://gateway.test", "HTTPS_PROXY"),
        ({"ALL_PROXY": "p:1"}, "https://gateway.test", "ALL_PROXY"),
        ({"HTTP_PROXY": ""}, "http://gateway.test", None),
        ({"HTTP_PROXY": "p:1"}, "http://localhost:8787", None),
        ({"HTTP_PROXY": "p:1"}, "http://127.0.0.1:8787", None),
        ({"HTTP_PROXY": "p:1"}, "http://[::1]:8787", None),
        ({"HTTP_PROXY": "p:1", "NO_PROXY": "*"}, "http://gateway.test", None),
        ({"HTTP_PROXY": "p:1", "NO_PROXY": "a, .test"}, "http://gateway.test", None),
        ({"HTTP_PROXY": "p:1", "no_proxy": "test"}, "http://gateway.test", None),
        ({"HTTP_PROXY": "p:1", "NO_PROXY": "gateway.test:8787"}, "http://gateway.test:8787", None),
        (
            {"HTTP_PROXY": "p:1", "NO_PROXY": "gateway.test:1"},
            "http://gateway.test:2",
            "HTTP_PROXY",
        ),
        ({"HTTP_PROXY": "p:1", "NO_PROXY": "way.test"}, "http://gateway.test", "HTTP_PROXY"),
        ({"HTTP_PROXY": "p:1", "NO_PROXY": "x/y,10.0.0.0/8"}, "http://10.1.2.3:8787", None),
        ({"HTTP_PROXY": "p:1", "NO_PROXY": "10.0.0.0/8"}, "http://11.1.2.3:8787", "HTTP_PROXY"),
        ({"HTTP_PROXY": "p:1", "NO_PROXY": "10.0.0.0/8"}, "http://ten.test:8787", "HTTP_PROXY"),
    ],
)
def test_the_environment_says_which_proxy_is_for_whom(environment, endpoint, variable, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(endpoint)
    assert (found and found.variable) == variable


@pytest.mark.parametrize("url", ["socks5h://p:1", "https://p:1", "http://:1", "http://p:many"])
def test_a_proxy_that_can_not_be_spoken_to_is_told_and_not_gone_around(url, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", url)
    answer = GatewayConnection(f"http://{HOST}", None, None, 5.0).get("/ping")
    assert answer.status == 0
    assert "ALL_PROXY must" in answer.text
    (finding,) = reach(f"http://{HOST}", None, 5.0)
    assert not finding.ok
    assert "ALL_PROXY must" in finding.text


# -- doctor ---------------------------------------------------------------------------------------


def test_the_doctor_names_the_proxy_and_looks_through_it(secure, authority, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:hush@{secure.address}")
    findings = list(reach(f"https://{HOST}", str(authority.file), 5.0))
    names = ["proxy", "resolve", "connect", "tunnel", "TLS"]
    assert [(each.name, each.ok) for each in findings] == [(name, True) for name in names]
    assert f"HTTPS_PROXY {secure.address}" in findings[0].text
    assert not any("hush" in each.text + each.remedy for each in findings)


@pytest.mark.parametrize(
    ("status", "text", "remedy"),
    [
        (407, "wants a login", "user:password"),
        (403, "does not let through", "NO_PROXY"),
        (502, "does not get through", "STEPCLOCK_ENDPOINT"),
        (418, "no proxy for this", "HTTPS_PROXY"),
    ],
)
def test_the_doctor_says_why_a_proxy_gives_no_tunnel(proxy, status, text, remedy, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    proxy.refusal = status
    finding = list(reach(f"https://{HOST}", None, 5.0))[-1]
    assert (finding.name, finding.ok) == ("tunnel", False)
    assert text in finding.text
    assert str(status) in finding.text
    assert remedy in finding.remedy


@pytest.mark.parametrize(("status", "remedy"), [(407, "user:password"), (403, "NO_PROXY")])
def test_the_doctor_tells_a_proxy_s_refusal_from_the_gateway_s(proxy, status, remedy, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
    proxy.refusal = status
    settings = Settings.resolve({"endpoint": f"http://{HOST}"})
    gateway = GatewayConnection(settings.endpoint, None, None, 5.0)
    finding = list(examine(settings, gateway, 5.0))[-1]
    gateway.close()
    assert (finding.name, finding.ok) == ("gateway", False)
    assert "the proxy" in finding.text
    assert remedy in finding.remedy


def test_the_doctor_names_the_proxy_s_variable_where_the_proxy_is_away(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    finding = list(reach(f"https://{HOST}", None, 5.0))[-1]
    assert (finding.name, finding.ok) == ("connect", False)
    assert "HTTPS_PROXY" in finding.remedy
    monkeypatch.setenv("HTTPS_PROXY", "http://no-such-host.invalid:9")
    finding = list(reach(f"https://{HOST}", None, 5.0))[-1]
    assert (finding.name, finding.ok) == ("resolve", False)
    assert "HTTPS_PROXY" in finding.remedy
