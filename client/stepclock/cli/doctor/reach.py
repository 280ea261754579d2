"""The way to the server below HTTP: its name, its port, its certificate."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, Callable
from urllib.parse import urlsplit

from stepclock.send.proxy import HttpProxy, proxy_for

# Of OpenSSL's x509_vfy.h.
_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64
_FORM = range(80, 94)  # all that RFC 5280 asks for, which Python checks from 3.13 on


@dataclass(frozen=True)
class Finding:
    """What one check found. took_s: seconds, None where there is nothing to time.

    remedy: what to change, and the setting to look at; beside `ok` it makes a warning.
    """

    name: str
    ok: bool
    text: str
    took_s: float | None = None
    remedy: str = ""


def address_of(endpoint: str) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(endpoint)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def reach(
    endpoint: str,
    ca_file: str | None,
    timeout_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Finding]:
    """Resolve, connect and, for https, the handshake; ends with the first that fails.

    With a proxy in between it is that one's name and port, and a tunnel through it for https.
    """
    goal = host, port = address_of(endpoint)
    https = urlsplit(endpoint).scheme == "https"
    proxy = proxy_for(endpoint)
    remedy = "correct the host in STEPCLOCK_ENDPOINT (--endpoint)"
    if proxy is not None:
        remedy = f"correct {proxy.variable}, or name {goal[0]} in NO_PROXY"
        if proxy.fault:
            yield Finding("proxy", False, proxy.fault, None, remedy)
            return
        host, port = proxy.host, proxy.port
        yield Finding("proxy", True, f"{goal[0]} is reached through {proxy}")
    started = clock()
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        yield Finding("resolve", False, f"{host} has no address: {exc}", clock() - started, remedy)
        return
    yield Finding("resolve", True, f"{host} is {found[0][4][0]}", clock() - started)
    started = clock()
    try:
        connection = _connected(found, timeout_s)
    except OSError as exc:
        yield _not_connected(host, port, timeout_s, exc, clock() - started, remedy if proxy else "")
        return
    with connection:
        yield Finding("connect", True, f"port {port} is open", clock() - started)
        if not https:
            return
        if proxy is not None:
            started = clock()
            finding = _tunnel(connection, proxy, goal, lambda: clock() - started)
            yield finding
            if not finding.ok:
                return
        started = clock()
        yield _handshake(connection, goal[0], ca_file, lambda: clock() - started)


def speaks_tls(endpoint: str, timeout_s: float) -> bool:
    """Whether something behind the port wants TLS; False with a proxy in between."""
    if proxy_for(endpoint) is not None:
        return False
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection(address_of(endpoint), timeout_s) as plain:
            context.wrap_socket(plain).close()
    except (OSError, ValueError):
        return False
    return True


def through_proxy(status: int, proxy: HttpProxy, host: str) -> tuple[str, str] | None:
    """What a proxy's own refusal means, and the remedy; None for a status that is no proxy's."""
    direct = f"or name {host} in NO_PROXY"
    if status == 407:
        return (
            "the proxy wants a login",
            f"{proxy.variable}=http://user:password@host:port, {direct}",
        )
    if status in (403, 405):
        return "the proxy does not let through", f"have the proxy allow it, {direct}"
    if status in (502, 503, 504):
        return "the proxy does not get through", f"correct STEPCLOCK_ENDPOINT, {direct}"
    return None


def _tunnel(
    connection: socket.socket, proxy: HttpProxy, goal: tuple[str, int], took_s: Callable[[], float]
) -> Finding:
    """Have the proxy connect the socket with the gateway."""
    named = f"{goal[0]}:{goal[1]}"
    lines = [f"CONNECT {named} HTTP/1.1", f"Host: {named}"]
    lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
    direct = f"correct {proxy.variable}, or name {goal[0]} in NO_PROXY"
    try:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        response = HTTPResponse(connection, method="CONNECT")
        response.begin()
    except (OSError, HTTPException, ValueError) as exc:
        text = f"{proxy} does not answer as a proxy does: {exc!r}"
        return Finding("tunnel", False, text, took_s(), direct)
    if 200 <= response.status < 300:
        return Finding("tunnel", True, f"the proxy lets through to {named}", took_s())
    known = through_proxy(response.status, proxy, goal[0])
    text, remedy = known or (f"{proxy} is no proxy for this", direct)
    return Finding(
        "tunnel", False, f"{text} to {named}: {response.status} {response.reason}", took_s(), remedy
    )


def _connected(found: list[Any], timeout_s: float) -> socket.socket:
    """A connection to the first address that takes one. Raises OSError."""
    problem = OSError("it has no address")
    for address in found:
        try:
            return socket.create_connection(address[4][:2], timeout_s)
        except OSError as exc:
            problem = exc
    raise problem


def _not_connected(
    host: str, port: int, timeout_s: float, exc: OSError, took_s: float, proxy_remedy: str
) -> Finding:
    if isinstance(exc, ConnectionRefusedError):
        text = f"nothing listens on {host}:{port}"
        remedy = (
            "start the gateway (on one machine: stepclock-server serve), or correct the port in "
            "STEPCLOCK_ENDPOINT (--endpoint)"
        )
    elif isinstance(exc, (socket.timeout, TimeoutError)):
        text = f"{host}:{port} does not answer within {timeout_s:.0f} s"
        remedy = "a firewall may be in the way, or STEPCLOCK_ENDPOINT names another machine"
    else:
        text = f"{host}:{port} can't be reached: {exc}"
        remedy = "look at the network of this machine and at STEPCLOCK_ENDPOINT (--endpoint)"
    return Finding("connect", False, text, took_s, proxy_remedy or remedy)


def _handshake(
    connection: socket.socket, host: str, ca_file: str | None, took_s: Callable[[], float]
) -> Finding:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as exc:
        text = f"the authorities in {ca_file} can't be read: {exc}"
        return Finding("TLS", False, text, None, "look at STEPCLOCK_CA_FILE (--ca-file)")
    try:
        with context.wrap_socket(connection, server_hostname=host) as wrapped:
            return Finding("TLS", True, f"{wrapped.version()}, {host} is who it says", took_s())
    except ssl.SSLCertVerificationError as exc:
        text, remedy = _of_certificate(exc, host, ca_file)
    except ssl.SSLError as exc:
        text = f"the server speaks no TLS that this machine does: {exc.reason or exc}"
        remedy = "if it has no certificate, STEPCLOCK_ENDPOINT begins with http://"
    except OSError as exc:
        text = f"the server ended the handshake: {exc}"
        remedy = "if it has no certificate, STEPCLOCK_ENDPOINT begins with http://"
    return Finding("TLS", False, text, took_s(), remedy)


def _of_certificate(
    exc: ssl.SSLCertVerificationError, host: str, ca_file: str | None
) -> tuple[str, str]:
    code = exc.verify_code
    if code in (_OTHER_HOST, _OTHER_ADDRESS):
        return (
            f"the certificate is not for {host}: {exc.verify_message}",
            "name the host in STEPCLOCK_ENDPOINT as the certificate does",
        )
    if code in (_EXPIRED, _NOT_YET_VALID):
        return (
            f"the certificate is not valid now: {exc.verify_message}",
            "renew the server's STEPCLOCK_TLS_CERT_FILE, or set this machine's clock",
        )
    if code in _FORM:
        return (
            f"the certificate or its authority's has not the form it needs: {exc.verify_message}",
            "make them anew, the authority's with keyUsage=critical,keyCertSign",
        )
    known = f"the authorities in {ca_file}" if ca_file else "the authorities that this system knows"
    return (
        f"the certificate is not signed by {known}: {exc.verify_message}",
        "set STEPCLOCK_CA_FILE (--ca-file) to the PEM file of the authority that signed it",
    )
