"""No secret comes out: planted ones are looked for in everything that our processes say.

Kafka is away and InfluxDB refuses, so that every command also fails on its way; the log is at
DEBUG. What is looked through: standard output and error, files of logs, metrics, probes, every
answer's headers and body.
"""

import http.server
import os
import re
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request

import pytest

from native.ports import free_ports
from native.process import Process
from schemas.tenants.keys import Role, new_key
from schemas.tenants.keys_file import dump
from tests.certificates import Authority
from tests.e2e.pipeline.chain import is_ready

TOKEN = "canary-token-5f1c77e2"
PASSWORD = "canary-password-93ab01d4"
USER_OF_KAFKA = "stepclock"


class RefusingInflux(http.server.BaseHTTPRequestHandler):
    """Knows no token, and answers writes with what is no answer at all."""

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b'{"code":"unauthorized","message":"unauthorized access"}'
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = answer  # noqa: N815 - the base looks for these

    def log_message(self, *_):
        pass


class Planted:
    """Settings full of secrets, and everything that was said so far."""

    def __init__(self, folder, influx_url):
        self.folder = folder
        self.key, record = new_key("canary")
        self.reader_key, reader = new_key("canary", role=Role.READ)
        self.stranger, _ = new_key("stranger")
        keys = folder / "keys.toml"
        keys.write_text(dump([record, reader]))
        self.authority = Authority.new(folder / "authority")
        self.signed = self.authority.sign("gateway")
        password = folder / "password"
        password.write_text(PASSWORD + "\n")
        (port,) = free_ports(1)  # nobody listens there
        self.environment = {
            "STEPCLOCK_LOG_LEVEL": "DEBUG",
            "STEPCLOCK_KEYS_FILE": str(keys),
            "STEPCLOCK_DATA_DIR": str(folder),
            "STEPCLOCK_AUDIT_FILE": str(folder / "audit.log"),
            "STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{port}",
            "STEPCLOCK_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "STEPCLOCK_KAFKA_TLS_CA_FILE": str(self.authority.file),
            "STEPCLOCK_KAFKA_SASL_USERNAME": USER_OF_KAFKA,
            "STEPCLOCK_KAFKA_SASL_PASSWORD_FILE": str(password),
            "STEPCLOCK_INFLUX_URL": influx_url,
            "STEPCLOCK_INFLUX_TOKEN": TOKEN,
        }
        self.said = {}
        secret_of_keys = [k.split("_", 2)[2] for k in (self.key, self.reader_key, self.stranger)]
        pem = self.signed.key.read_text().splitlines()
        self.secrets = [TOKEN, PASSWORD, *secret_of_keys, *(line for line in pem if len(line) > 40)]

    def command(self, *arguments, module="admin", **environment):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=os.environ | self.environment | environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        named = f"{module} {' '.join(arguments)} {environment}"
        self.said[f"{len(self.said)} {named}"] = done.stdout + done.stderr
        return done

    def ask(self, url, path, body=None, context=None, **headers):
        """Note whatever a server answers."""
        request = urllib.request.Request(url + path, body, headers)
        try:
            answer = urllib.request.urlopen(request, timeout=30, context=context)
        except urllib.error.HTTPError as exc:
            answer = exc
        with answer:
            said = f"{answer.headers}\n{answer.read().decode()}"
        self.said[f"{len(self.said)} {answer.status} {path}"] = said
        return answer.status, said

    def note_files(self):
        for path in (*self.folder.glob("*.log"), *self.folder.glob("*.url")):
            self.said[path.name] = path.read_text(errors="replace")

    def leaks(self):
        self.note_files()
        return [
            (where, secret)
            for where, text in self.said.items()
            for secret in self.secrets
            if secret in text
        ]


@pytest.fixture
def planted(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), RefusingInflux) as influx:
        thread = threading.Thread(target=influx.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Planted(tmp_path, f"http://127.0.0.1:{influx.server_port}")
        influx.shutdown()
        thread.join()


def running(planted, module, port_variable, *, tls=False, **environment):
    (port,) = free_ports(1)
    url = f"http{'s' if tls else ''}://127.0.0.1:{port}"
    context = ssl.create_default_context(cafile=planted.authority.file)

    def ready():
        if not tls:
            return is_ready(url)
        try:
            return planted.ask(url, "/readyz", context=context)[0] == 200
        except OSError:
            return False

    argv = [sys.executable, "-m", *module.split()]
    more = {port_variable: str(port), **environment}
    log = planted.folder / f"{module.replace(' ', '-')}.log"
    process = Process(module, argv, log_path=log, ready=ready, env=planted.environment | more)
    return process, url, context


def ask_in_every_way(planted, url, context=None):
    """Requests with keys in the right and in wrong places."""
    write = "/api/v2/write?bucket=raw"
    line = b"canary,run=r loss=1,step=1i"
    statuses = set()
    for key in (planted.key, planted.reader_key, planted.stranger):
        quoted = urllib.parse.quote(key)
        asked = [
            (write, line, {"Authorization": f"Bearer {key}"}),
            (write, line, {"Authorization": f"Token {key}"}),
            (write, b"\xff bad", {"Authorization": f"Token user:{key}"}),
            (write, line, {"Authorization": f"Digest {key}"}),
            (write, line, {"Authorization": f"Basic {key}"}),
            (write, line, {"X-Api-Key": key}),
            (f"/write?db={quoted}&p={quoted}", line, {}),
            (f"/write?db=stepclock&rp={quoted}&u=x&p={quoted}", line, {}),
            (f"/api/v2/write?bucket={quoted}", line, {"Authorization": f"Bearer {key}"}),
            (
                f"/api/v2/write?bucket=raw&precision={quoted}",
                line,
                {"Authorization": f"Token {key}"},
            ),
            (f"/{quoted}", None, {}),
            (f"/api/v1/experiments?key={quoted}", None, {}),
            ("/api/v1/experiments", None, {"Authorization": f"Bearer {key}"}),
            ("/api/v1/metrics", b'{"rows": 1}', {"Authorization": f"Bearer {key}"}),
            (f"/api/v1/receipts/{quoted}", None, {"Authorization": f"Bearer {key}"}),
        ]
        for path, body, headers in asked:
            status, _ = planted.ask(url, path, body, context, **headers)
            statuses.add(status)
    for path in ("/metrics", "/health", "/livez", "/ping", "/openapi.json"):
        planted.ask(url, path, None, context)
    return statuses


def of_logs(planted):
    """What others than the client that sent a key would read."""
    return [(where, secret) for where, secret in planted.leaks() if where.endswith(".log")]


def test_a_gateway_tells_nobody_a_secret(planted):
    gateway, url, _ = running(planted, "ingest", "STEPCLOCK_PORT")
    gateway.start()
    with gateway:
        statuses = ask_in_every_way(planted, url)
    assert {401, 403, 404, 503} <= statuses
    planted.note_files()
    assert "DEBUG" in planted.said["ingest.log"]
    assert "action=request actor=key:" in planted.said["audit.log"]
    assert of_logs(planted) == []
    # A client that puts a key into a path or a query gets its own words back, nothing else.
    theirs = [w for w, secret in planted.leaks() if secret not in urllib.parse.unquote(w)]
    assert theirs == []


def test_a_server_with_tls_tells_nobody_a_secret(planted):
    files = {
        "STEPCLOCK_TLS_CERT_FILE": str(planted.signed.certificate),
        "STEPCLOCK_TLS_KEY_FILE": str(planted.signed.key),
    }
    server, url, context = running(planted, "admin serve", "STEPCLOCK_PORT", tls=True, **files)
    server.start()
    with server:
        statuses = ask_in_every_way(planted, url, context)
    assert {200, 204, 400, 401, 403} <= statuses
    assert of_logs(planted) == []


def test_a_consumer_tells_nobody_a_secret(planted):
    consumer, url, _ = running(planted, "consumers", "STEPCLOCK_PROBE_PORT")
    consumer._ready = lambda: answers(planted, url)
    consumer.start()
    with consumer:
        for path in ("/health", "/readyz", "/metrics", "/nothing"):
            planted.ask(url, path)
    planted.note_files()
    assert "waiting for Kafka" in planted.said["consumers.log"]
    assert planted.leaks() == []


def answers(planted, url):
    try:
        planted.ask(url, "/livez")
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_commands_tell_nobody_a_secret_whatever_fails(planted):
    run = planted.command
    assert run("settings").returncode == 0
    assert run("check-config").returncode == 0
    assert run("check-config", "--connect").returncode == 1
    assert run("provision").returncode == 1
    assert run("dlq", "replay", "--yes").returncode == 1
    assert run("keys", "list").returncode == 0
    # Settings that can't be. A module on its own prints a traceback; check-config looks at all.
    bad = [
        ("gateway", {"STEPCLOCK_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}),
        ("provision", {"STEPCLOCK_KAFKA_SECURITY_PROTOCOL": "TLS"}),
        ("provision", {"STEPCLOCK_KAFKA_SASL_MECHANISM": PASSWORD}),
        ("consumer", {"STEPCLOCK_KAFKA_TLS_CERT_FILE": str(planted.signed.key)}),
        ("lag", {"STEPCLOCK_KAFKA_TLS_CA_FILE": str(planted.signed.key)}),
        ("gateway", {"STEPCLOCK_PORT": TOKEN}),
        ("consumer", {"STEPCLOCK_INFLUX_TLS_CA_FILE": "/nowhere"}),
        ("serve", {"STEPCLOCK_TLS_CERT_FILE": str(planted.signed.key)}),
        ("provision", {"STEPCLOCK_KAFKA_SASL_PASSWORD_FILE": str(planted.folder)}),
    ]
    for command, wrong in bad:
        assert run(command, **wrong).returncode == 2, (command, wrong)
        assert run("check-config", **wrong).returncode == 2, wrong
    assert run(module="ingest", **bad[0][1]).returncode == 1
    assert run(module="consumers", **bad[3][1]).returncode == 1
    assert run("nonsense", TOKEN).returncode == 2
    assert planted.leaks() == []
    said = "\n".join(planted.said.values())
    assert USER_OF_KAFKA in said, "what is no secret is told"
    assert re.search("Traceback", said), "tracebacks were looked through too"
