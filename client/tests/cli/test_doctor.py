import io
import socket
import ssl
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from gateways import WholeChain, said

from stepclock.cli.doctor import command as doctor
from stepclock.cli.doctor import examination
from stepclock.cli.doctor.reach import Finding, _of_certificate, reach
from stepclock.cli.main import main
from stepclock.cli.terminal import Terminal
from stepclock.send.transport import Answer
from stepclock.settings import Settings

SECRET = "sk_0123456789ab_very-secret"
NOON_NS = 1_795_003_200 * 10**9


class Clock:
    """Seconds; each look takes a second off whoever waits."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture
def examined(tmp_path):
    """Findings by name of a chain that answers as it is told."""

    def findings(chain, *, token=SECRET, ahead_s=0.0):
        settings = Settings(token=token, spool_dir=str(tmp_path / "spool"))
        found = examination.examine(
            settings,
            chain,
            10.0,
            reached=lambda *_: iter([Finding("connect", True, "open")]),
            now_ns=lambda: NOON_NS + int(ahead_s * 1e9),
            clock=Clock(),
            sleep=lambda _: None,
        )
        return {each.name: each for each in found}

    return findings


def problem(status, message, **headers):
    return said({"code": "x", "message": message}, status, **headers)


def test_each_hop_of_a_chain_that_works_is_timed_and_the_point_is_the_one_that_was_sent(examined):
    chain = WholeChain()
    found = examined(chain)
    assert list(found) == ["spool", "connect", "gateway", "clock", "write", "store", "read"]
    assert all(each.ok and not each.remedy for each in found.values())
    assert all(found[name].took_s for name in ("gateway", "write", "store", "read"))
    assert chain.line.startswith(b"stepclock-doctor,run=")
    assert chain.line.endswith(b" %d" % NOON_NS)
    assert f"from={NOON_NS}&to={NOON_NS + 1}" in chain.asked[-1]


ALIVE = [
    (Answer(0, {}, b"BadStatusLine()"), "does not answer HTTP", "STEPCLOCK_ENDPOINT"),
    (Answer(404, {"server": "nginx"}), "no Stepclock gateway: /livez answers 404", "ENDPOINT"),
    (Answer(200, {}, b"<html>Grafana"), "no Stepclock gateway", "STEPCLOCK_ENDPOINT"),
    (said(["alive"]), "no Stepclock gateway", "STEPCLOCK_ENDPOINT"),
    (Answer(302, {"location": "https://login"}), "sends elsewhere, to https://login", "ENDPOINT"),
    (Answer(407), "wants a login", "proxy"),
    (Answer(502, {}, b"Bad Gateway"), "answers 502: Bad Gateway", "log"),
]


@pytest.mark.parametrize(("answer", "text", "remedy"), ALIVE)
def test_what_is_no_gateway_is_told_and_gets_no_point(examined, answer, text, remedy):
    first = answer if answer.status == 0 else Answer(404, answer.headers)
    chain = WholeChain(livez=answer, ping=first)
    found = examined(chain)
    assert list(found) == ["spool", "connect", "gateway"]
    assert not found["gateway"].ok
    assert text in found["gateway"].text
    assert remedy in found["gateway"].remedy
    assert chain.line == b""


def test_influxdb_itself_is_not_taken_for_the_gateway(examined):
    found = examined(WholeChain(livez=Answer(404)))
    assert "InfluxDB itself" in found["gateway"].text


REFUSALS = [
    (problem(401, "the key is not known"), "the key is not known", "keys create"),
    (problem(401, "key 12 expired at 2026-01-01"), "expired at 2026", "STEPCLOCK_TOKEN"),
    (problem(403, "key 12 may only read"), "may only read", "role write"),
    (problem(404, "retention class 'raw' does not exist"), "'raw' does not", "retention.toml"),
    (problem(400, "line 1: time too far ahead"), "too far ahead", "clock"),
    (
        problem(429, "tenant 'a' is over its limit", **{"retry-after": "7"}),
        "over its limit for 7.0 s more",
        "keys.toml",
    ),
    (problem(503, "the log is not reachable"), "the log is not reachable", "KAFKA_BOOTSTRAP"),
    (problem(415, "no such encoding"), "415: no such encoding", "log"),
    (Answer(0, {}, b"ConnectionResetError()"), "the connection was lost", "log"),
    (Answer(204), "without a receipt", "STEPCLOCK_ENDPOINT"),
]


@pytest.mark.parametrize(("answer", "text", "remedy"), REFUSALS)
def test_why_the_point_is_not_taken_is_told_with_what_to_look_at(examined, answer, text, remedy):
    found = examined(WholeChain(api_v2_write=answer))
    assert list(found)[-1] == "write"
    assert not found["write"].ok
    assert text in found["write"].text
    assert remedy in found["write"].remedy


def test_without_a_key_the_settings_that_hold_one_are_named(examined):
    found = examined(WholeChain(api_v2_write=problem(401, "no key was sent")), token=None)
    assert found["write"].text == "there is no key"
    assert "STEPCLOCK_TOKEN_FILE" in found["write"].remedy


def test_what_the_gateway_knows_of_its_own_illness_is_passed_on(examined):
    ill = said({"checks": [{"name": "log", "status": "fail", "message": "circuit open"}]})
    found = examined(WholeChain(api_v2_write=problem(503, "away"), health=ill))
    assert "log: circuit open" in found["write"].text


VERDICTS = [
    (said({"settled": False, "stored": None}), "workers are away or behind", "lag"),
    (problem(503, "the log can't be asked"), "what became of the point", "Kafka"),
    (problem(404, "no such route"), "receipts are not answered, 404", "log"),
    (
        said(
            {
                "settled": True,
                "stored": False,
                "rejected": [{"reason": "refused", "detail": "field type conflict"}],
            }
        ),
        "refused: field type conflict",
        "dlq list",
    ),
]


@pytest.mark.parametrize(("answer", "text", "remedy"), VERDICTS)
def test_what_stands_between_log_and_store_is_told(examined, answer, text, remedy):
    found = examined(WholeChain(api_v1_receipts=answer))
    assert list(found)[-1] == "store"
    assert not found["store"].ok
    assert text in found["store"].text
    assert remedy in found["store"].remedy


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (said({"detail": "the store does not answer"}, 503), "503: the store does not answer"),
        (said({"runs": []}), "not where the gateway reads"),
        (said({"runs": [{"run": "here", "mean": [2.0]}]}), "not where the gateway reads"),
    ],
)
def test_a_point_that_does_not_come_back_is_told(examined, answer, text):
    found = examined(WholeChain(api_v1_experiments=answer))
    assert not found["read"].ok
    assert text in found["read"].text
    assert "STEPCLOCK_INFLUX_URL" in found["read"].remedy


@pytest.mark.parametrize(
    ("ahead_s", "ok", "warned", "text"),
    [
        (2.0, True, False, "agrees"),
        (90.0, True, True, "1 min 30 s ahead of"),
        (-90.0, True, True, "1 min 30 s behind"),
        (7200.0, False, True, "2 h ahead of the server, which refuses"),
    ],
)
def test_the_clock_is_held_against_the_server_s(examined, ahead_s, ok, warned, text):
    finding = examined(WholeChain(), ahead_s=ahead_s + 0.5)["clock"]
    assert (finding.ok, bool(finding.remedy)) == (ok, warned)
    assert text in finding.text


def test_a_server_that_tells_no_time_is_no_fault(examined):
    chain = WholeChain()
    chain.date = "whenever"
    assert "clock" not in examined(chain)


def test_a_spool_that_can_not_be_written_fails_and_a_disk_that_is_nearly_full_is_warned_of(
    tmp_path,
):
    (tmp_path / "file").write_text("")
    finding = examination.spool_finding(Settings(spool_dir=str(tmp_path / "file" / "spool")))
    assert not finding.ok
    assert "STEPCLOCK_SPOOL_DIR" in finding.remedy
    disk = namedtuple("disk", "free")  # noqa: PYI024 -- as shutil gives it
    settings = Settings(spool_dir=str(tmp_path / "spool"))
    finding = examination.spool_finding(settings, lambda _: disk(10 * 1024**2))
    assert finding.ok
    assert "10.0 MiB free: nearly full" in finding.text
    assert finding.remedy
    assert not examination.spool_finding(settings, lambda _: disk(1024**4)).remedy


def test_the_exit_code_is_1_as_soon_as_one_check_fails_and_a_warning_is_none():
    out = io.StringIO()
    terminal = Terminal(out, secret=SECRET)
    well, warned = Finding("a", True, "fine", 0.25), Finding("b", True, "odd", None, "look")
    failed = Finding("c", False, f"it says \x1b[2J {SECRET}", None, "mend it")
    assert doctor.report([well], terminal, "http://x") == 0
    assert doctor.report([well, warned], terminal, "http://x") == 0
    assert doctor.report([well, warned, failed], terminal, "http://x") == 1
    told = out.getvalue()
    assert "250 ms  fine" in told
    assert "→ mend it" in told
    assert SECRET not in told
    assert "\x1b" not in told


# -- below HTTP ---------------------------------------------------------------------------------


def last(endpoint, ca_file=None):
    *before, finding = reach(endpoint, ca_file, 5.0)
    assert all(each.ok for each in before)
    return finding


def test_a_host_without_an_address_and_a_port_without_a_server_are_told(monkeypatch):
    finding = last("http://no-such-host.invalid:1")
    assert (finding.name, finding.ok) == ("resolve", False)
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        finding = last(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert (finding.name, finding.ok) == ("connect", False)
    assert "nothing listens" in finding.text
    assert "STEPCLOCK_ENDPOINT" in finding.remedy

    def silent(*_):
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", silent)
    assert "firewall" in last("http://127.0.0.1:1").remedy


class Strange(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.fixture
def strange():
    """A web server that knows nothing of Stepclock."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Strange) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_https_to_a_server_without_a_certificate_is_told(strange):
    finding = last(f"https://{strange}")
    assert (finding.name, finding.ok) == ("TLS", False)
    assert "http://" in finding.remedy


def test_authorities_that_can_not_be_read_are_told_by_their_setting(strange, tmp_path):
    finding = last(f"https://{strange}", str(tmp_path / "none.pem"))
    assert not finding.ok
    assert "STEPCLOCK_CA_FILE" in finding.remedy


def test_a_certificate_that_is_refused_for_its_form_is_told_as_that():
    error = ssl.SSLCertVerificationError()
    error.verify_code = 92  # as Python 3.13 gets it
    error.verify_message = "CA cert does not include key usage extension"
    text, remedy = _of_certificate(error, "h", "ca.pem")
    assert "does not include key usage" in text
    assert "keyUsage=critical,keyCertSign" in remedy


def test_the_command_prints_its_diagnosis_and_never_the_key(strange, capsys, monkeypatch):
    monkeypatch.setenv("STEPCLOCK_TOKEN", SECRET)
    assert main(["doctor", "--endpoint", f"http://{strange}"]) == 1
    out = capsys.readouterr().out
    assert "it is no Stepclock gateway: /livez answers 404" in out
    assert "1 check failed" in out
    assert SECRET not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--endpoint", "ftp://x"], "endpoint must be like"),
        (["--endpoint", "http://x:99999"], "with a port from 1 to 65535"),
        (["--token-file", "/no/such/file"], "--token-file can't be read"),
    ],
)
def test_what_can_not_be_is_a_mistake_of_use(arguments, said, capsys):
    assert main(["doctor", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_key_that_no_header_can_carry_is_told_and_not_shown(capsys, monkeypatch):
    monkeypatch.setenv("STEPCLOCK_TOKEN", "sk_secret\nsk_another")
    assert main(["doctor"]) == 2
    shown = capsys.readouterr()
    assert "characters that no key has" in shown.err
    assert "sk_" not in shown.err + shown.out


@pytest.mark.parametrize("command", ["doctor", "sync", "runs", "tail", "export"])
def test_the_help_of_each_command_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"examples:\n  stepclock {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nosuch"], ["tail"], ["sync", "-j", "x"]])
def test_a_command_line_that_can_not_be_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: stepclock" in capsys.readouterr().err
