"""One point on its whole way: a finding for each hop, with the remedy where one fails."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Callable
from urllib.parse import quote, urlencode

from stepclock.cli.doctor.reach import Finding, address_of, reach, speaks_tls, through_proxy
from stepclock.cli.terminal import duration, size
from stepclock.record.lines import clean, escape
from stepclock.send.proxy import proxy_for
from stepclock.send.sync import streams
from stepclock.send.transport import Answer, GatewayConnection
from stepclock.settings import Settings

#: Where the test points lie, one for each time, until class raw keeps them no longer.
EXPERIMENT = "stepclock-doctor"

_SPOOL_MARGIN = 1024**3

#: A clock that is off by this much is worth a word; the gateway refuses points from so far ahead.
_CLOCK_S, _REFUSED_S = 5.0, 3600.0

_ENDPOINT = "correct STEPCLOCK_ENDPOINT (--endpoint)"
_KEY = "put a key of 'stepclock-server keys create' into STEPCLOCK_TOKEN or STEPCLOCK_TOKEN_FILE"


def examine(
    settings: Settings,
    gateway: GatewayConnection,
    timeout_s: float,
    *,
    reached: Callable[[str, str | None, float], Iterator[Finding]] = reach,
    now_ns: Callable[[], int] = time.time_ns,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Finding]:
    """The findings in the order of the way; it ends with the first hop that fails."""
    yield spool_finding(settings)
    for finding in reached(settings.endpoint, settings.ca_file, timeout_s):
        yield finding
        if not finding.ok:
            return
    # The first request opens the connection; the second one is timed.
    first = gateway.get("/ping")
    began_ns, started = now_ns(), clock()
    alive = gateway.get("/livez") if first.status else first
    took_s = clock() - started
    finding = _gateway_finding(settings, first, alive, took_s, timeout_s)
    yield finding
    if not finding.ok:
        return
    skewed = _clock_finding(alive, (began_ns + now_ns()) / 2e9)
    if skewed is not None:
        yield skewed

    time_ns, run = now_ns(), clean(socket.gethostname()) or "unknown"
    value = secrets.randbits(32) / 2**32  # so that the point that comes back is this one
    line = f"{EXPERIMENT},run={escape(run)} probe={value!r} {time_ns}"
    started = clock()
    written = gateway.post("/api/v2/write?bucket=raw", line.encode(), {})
    finding = _write_finding(settings, written, clock() - started)
    if not finding.ok:
        yield _with_health(finding, gateway)
        return
    yield finding
    started = clock()
    finding = _settled_finding(
        gateway, written.headers["stepclock-receipt"], timeout_s, clock, sleep
    )
    if not finding.ok:
        yield _with_health(finding, gateway)
        return
    yield finding
    finding = _read_finding(gateway, run, time_ns, value, timeout_s, clock, sleep)
    yield finding if finding.ok else _with_health(finding, gateway)


def spool_finding(settings: Settings, usage: Callable[[str], Any] = shutil.disk_usage) -> Finding:
    """Whether rows can wait on this machine's disk, and what waits there."""
    folder = Path(settings.spool_dir)
    look = "set STEPCLOCK_SPOOL_DIR to a folder that stays"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
        free = usage(str(folder)).free
    except OSError as exc:
        text = f"{folder} can't be written: {exc.strerror or exc}; rows would wait in memory only"
        return Finding("spool", False, text, None, f"mend its permissions or disk, or {look}")
    held = [path for path, _ in streams(folder)]
    text = f"{folder}, {size(free)} free"
    if held:
        text += f", {len(held)} streams in it"
    if free < min(_SPOOL_MARGIN, settings.max_spool):
        remedy = f"free some of the disk, or {look} on a larger one"
        return Finding("spool", True, f"{text}: nearly full", None, remedy)
    return Finding("spool", True, text)


def _gateway_finding(
    settings: Settings, first: Answer, alive: Answer, took_s: float, timeout_s: float
) -> Finding:
    def failed(text: str, remedy: str) -> Finding:
        return Finding("gateway", False, text, None, remedy)

    if alive.status == 200 and _document(alive).get("status") == "alive":
        return Finding("gateway", True, "it is a Stepclock gateway and turns", took_s)
    if alive.status == 0:
        if not settings.endpoint.startswith("https") and speaks_tls(settings.endpoint, timeout_s):
            return failed("the port wants TLS", "begin STEPCLOCK_ENDPOINT with https://")
        return failed(f"it does not answer HTTP: {alive.text}", f"{_ENDPOINT}: the port is another")
    proxy = proxy_for(settings.endpoint)
    host = address_of(settings.endpoint)[0]
    refusal = through_proxy(alive.status, proxy, host) if proxy is not None else None
    if refusal is not None:
        return failed(f"{refusal[0]} to {host}: {alive.status} {alive.text[:80]}", refusal[1])
    if 300 <= alive.status < 400:
        where = alive.headers.get("location", "nowhere")
        return failed(f"it sends elsewhere, to {where}", f"{_ENDPOINT} to where the gateway is")
    if alive.status in (401, 403, 407):
        text = f"something before the gateway wants a login: {alive.status}"
        return failed(text, "a proxy is in the way; name the gateway itself in STEPCLOCK_ENDPOINT")
    if alive.status >= 500:
        text = f"a proxy or a gateway that starts or ends answers {alive.status}: {alive.text}"
        return failed(text, "look at the gateway's log and at what stands before it")
    if "x-influxdb-version" in first.headers:
        text = "that is InfluxDB itself, which would take points past the log"
        return failed(text, f"{_ENDPOINT}: the gateway's port is 8787 unless set")
    server = first.headers.get("server") or alive.headers.get("server")
    text = f"it is no Stepclock gateway: /livez answers {alive.status}"
    return failed(text + (f", from {server}" if server else ""), f"{_ENDPOINT}, host, port or path")


def _clock_finding(answer: Answer, local_s: float) -> Finding | None:
    """The clock of this machine against the server's; None if the server does not tell the time."""
    try:
        # Whole seconds, cut off: half of one is the best guess.
        server_s = parsedate_to_datetime(answer.headers["date"]).timestamp() + 0.5
    except (KeyError, TypeError, ValueError):
        return None
    ahead_s = local_s - server_s
    if abs(ahead_s) < _CLOCK_S:
        return Finding("clock", True, "agrees with the server's")
    side = "ahead of" if ahead_s > 0 else "behind"
    text = f"this machine is {duration(abs(ahead_s))} {side} the server"
    if ahead_s > _REFUSED_S:
        text += ", which refuses points from so far ahead"
    return Finding(
        "clock", ahead_s <= _REFUSED_S, text, None, "let NTP set the clock: points carry its time"
    )


def _write_finding(settings: Settings, answer: Answer, took_s: float) -> Finding:
    said = answer.text
    if 200 <= answer.status < 300 and "stepclock-receipt" in answer.headers:
        return Finding("write", True, "the log has the point", took_s)
    if 200 <= answer.status < 300:
        text, remedy = f"{answer.status} without a receipt: no gateway took the point", _ENDPOINT
    elif answer.status == 400:
        text, remedy = f"the point was refused: {said}", "where it says time, mend this clock"
    elif answer.status == 401 and settings.token is None:
        text, remedy = "there is no key", _KEY
    elif answer.status == 401:
        text, remedy = f"the key is not taken: {said}", _KEY
    elif answer.status == 403:
        text, remedy = f"the key may not write: {said}", f"{_KEY}, with role write"
    elif answer.status == 404:
        text, remedy = f"it does not take class raw: {said}", "look at the server's retention.toml"
    elif answer.status == 429:
        wait_s = answer.retry_after_s or 1.0
        text = f"the tenant is over its limit for {duration(wait_s)} more: {said}"
        remedy = "jobs wait and lose nothing; log less often, or raise rate and burst in keys.toml"
    elif answer.status == 503:
        text = f"the gateway can't reach its log: {said}"
        remedy = "look at Kafka and STEPCLOCK_KAFKA_BOOTSTRAP_SERVERS; jobs keep what they log"
    elif answer.status == 0:
        text, remedy = f"the connection was lost: {said}", "look at the gateway's log"
    else:
        text = f"{answer.status}: {said}"
        remedy = "something between here and the gateway answers so, or its log says why"
    return Finding("write", False, text, took_s, remedy)


def _settled_finding(
    gateway: GatewayConnection,
    receipt: str,
    timeout_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Finding:
    """Whether the workers pass the point on to the store in time."""

    def failed(text: str, remedy: str) -> Finding:
        return Finding("store", False, text, clock() - started, remedy)

    started = clock()
    while True:
        wait_s = max(0.0, min(20.0, timeout_s - (clock() - started)))
        path = f"/api/v1/receipts/{quote(receipt, safe='')}?wait_s={wait_s:.1f}"
        answer = gateway.get(path, wait_s + 5.0)
        verdict = _document(answer)
        if answer.status == 503:
            text = f"the log can't be asked what became of the point: {answer.text}"
            return failed(text, "look at Kafka; the point itself is safe")
        if answer.status != 200:
            text = f"receipts are not answered, {answer.status}: {answer.text}"
            return failed(text, "look at the gateway's log; the point itself is safe")
        if verdict.get("settled"):
            break
        if clock() - started >= timeout_s:
            return failed(
                f"not stored after {duration(timeout_s)}: the workers are away or behind",
                "look at the consumers and their lag (stepclock-server lag); the point is safe",
            )
        sleep(0.05)
    if verdict.get("stored") is False:
        rejected = verdict.get("rejected") or [{}]
        reason = f"{rejected[0].get('reason')}: {rejected[0].get('detail')}"
        text = f"the store refused a point of this block, {reason}"
        return failed(text, "look at the dead letters (stepclock-server dlq list)")
    return Finding("store", True, "a worker has written it", clock() - started)


def _read_finding(
    gateway: GatewayConnection,
    run: str,
    time_ns: int,
    value: float,
    timeout_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Finding:
    """Whether the read route gives the very point."""
    query = urlencode(
        {"metric": "probe", "run": run, "clock": "wall", "from": time_ns, "to": time_ns + 1}
    )
    started = clock()
    while True:
        answer = gateway.get(f"/api/v1/experiments/{EXPERIMENT}/series?{query}")
        if answer.status != 200:
            text = f"the store can't be read, {answer.status}: {answer.text}"
            remedy = "look at the store and STEPCLOCK_INFLUX_URL of the gateway"
            return Finding("read", False, text, clock() - started, remedy)
        found = [mean for each in _document(answer).get("runs", ()) for mean in each["mean"]]
        if value in found:
            return Finding("read", True, "it came back as it was sent", clock() - started)
        if clock() - started >= min(timeout_s, 5.0):
            text = "the point is stored, and is not where the gateway reads"
            remedy = "gateway and workers must have the same STEPCLOCK_INFLUX_URL"
            return Finding("read", False, text, clock() - started, remedy)
        sleep(0.2)


def _with_health(finding: Finding, gateway: GatewayConnection) -> Finding:
    """The finding, with what the gateway says of what stands behind it."""
    checks = _document(gateway.get("/health")).get("checks", ())
    ill = [f"{c.get('name')}: {c.get('message')}" for c in checks if c.get("status") == "fail"]
    if not ill:
        return finding
    text = f"{finding.text} (the gateway's health: {'; '.join(ill)})"
    return Finding(finding.name, finding.ok, text, finding.took_s, finding.remedy)


def _document(answer: Answer) -> dict[str, Any]:
    try:
        document = json.loads(answer.body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
