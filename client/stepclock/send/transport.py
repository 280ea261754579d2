"""One keep-alive connection to the gateway. What it needs is imported at the first use."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stepclock.send.proxy import proxy_for

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

_TIMEOUT_S = 15.0

#: Answers are small; a proxy's error page need not be read whole.
_MAX_ANSWER = 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """Status 0: there was none, and `body` says why. Names of headers are in lower case."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def retry_after_s(self) -> float | None:
        """Retry-After in seconds; None for none, and for a date, which only proxies send."""
        value = self.headers.get("retry-after", "").strip()
        return float(value) if value.isdecimal() else None

    @property
    def text(self) -> str:
        """What it says, short; of a gateway's document the sentence that is for people."""
        if self.body.startswith(b"{"):
            import json

            try:
                document = json.loads(self.body)
            except ValueError:
                document = {}
            said = document.get("message") or document.get("detail")
            if said:
                return str(said)[:1000]
        return self.body[:300].decode("utf-8", "replace")


class GatewayConnection:
    """Requests to one gateway; never raises for what the network or the server does.

    The proxy is the one that the environment names when it is made.
    """

    def __init__(
        self,
        endpoint: str,
        token: str | None,
        ca_file: str | None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        parts = urlsplit(endpoint)
        self.endpoint = endpoint
        self._https = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        self._path = parts.path.rstrip("/")
        self._token = token
        self._proxy = proxy_for(endpoint)
        if self._proxy is not None and not self._https:
            # Such a proxy is asked for whole URLs; through one for https goes a tunnel.
            self._path = f"http://{parts.netloc}{self._path}"
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        self._connection: HTTPConnection | None = None
        self._used = False

    def post(self, path: str, body: bytes, headers: dict[str, bytes]) -> Answer:
        """The answer to a POST."""
        return self._ask("POST", path, body, headers, self._timeout_s)

    def get(self, path: str, timeout_s: float | None = None) -> Answer:
        """The answer to a GET."""
        return self._ask("GET", path, None, {}, timeout_s or self._timeout_s)

    def close(self) -> None:
        """End the connection; the next request opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._used = False

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connection without a word to the server."""
        sock = getattr(self._connection, "sock", None)
        self._connection = None
        if sock is not None:
            os.close(sock.detach())

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, bytes],
        timeout_s: float,
    ) -> Answer:
        from http.client import HTTPException

        for _ in range(2):
            stale = self._used
            try:
                response = self._open(method, path, body, headers, timeout_s)
                content = response.read(_MAX_ANSWER)
            except (OSError, HTTPException, ValueError) as exc:
                self.close()
                # A server may end a connection that rests; only a new one tells if it is away.
                if stale and not isinstance(exc, TimeoutError):
                    continue
                return Answer(0, {}, self._told(exc).encode())
            self._used = True
            if response.will_close or not response.isclosed():
                self.close()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, content)
        raise AssertionError("BUG: a new connection is never stale")

    def _open(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, bytes],
        timeout_s: float,
    ) -> HTTPResponse:
        """The response, unread. Raises OSError, HTTPException, ValueError."""
        connection = self._connect(timeout_s)
        sent: dict[str, str | bytes] = {"User-Agent": b"stepclock-client", **headers}
        if self._token:
            sent["Authorization"] = b"Bearer " + self._token.encode("latin-1", "replace")
        if self._proxy is not None and not self._https:
            sent.update(self._proxy.headers)
        connection.request(method, self._path + path, body, sent)
        return connection.getresponse()

    def _connect(self, timeout_s: float) -> HTTPConnection:
        if self._connection is None:
            self._connection = self._new_connection(timeout_s)
        elif self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        return self._connection

    def _new_connection(self, timeout_s: float) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        proxy = self._proxy
        host, port = self._host, self._port
        if proxy is not None:
            if proxy.fault:
                raise OSError(proxy.fault)
            host, port = proxy.host, proxy.port
        if not self._https:
            return HTTPConnection(host, port, timeout=timeout_s)
        import ssl

        context = ssl.create_default_context(cafile=self._ca_file)
        connection = HTTPSConnection(host, port, timeout=timeout_s, context=context)
        if proxy is not None:
            connection.set_tunnel(self._host, self._port or 443, proxy.headers)
        return connection

    def _told(self, exc: Exception) -> str:
        """Why there is no answer, and by which way none came."""
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        if self._proxy is None or self._proxy.fault:
            return str(reason)
        return f"{reason} (through {self._proxy})"
