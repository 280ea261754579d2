"""A hostile client: raw bytes over sockets, to a real server, and the table of docs/errors.md."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from schemas.tenants.keys import Role, new_key
from schemas.tenants.keys_file import dump
from tests.e2e.pipeline.chain import service

DOCUMENT = Path(__file__).parents[3] / "docs" / "errors.md"
TIMEOUT_S = 30.0
WRITE = "/api/v2/write?bucket=raw"
METRICS = "/api/v1/metrics"


@dataclass(frozen=True)
class Row:
    """One line of the table. status: None where no answer comes. stored: how many points."""

    case: str
    status: int | None
    code: str
    says: str
    stored: int
    dead: int
    ends: bool


def rows():
    """The table of docs/errors.md."""
    found = []
    for line in DOCUMENT.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) != 6 or not cells[0].startswith("`"):
            continue
        case, _sent, status, code, says, rest = cells
        counted = re.match(r"(nothing|\d+) (is|are) stored", rest)
        assert counted, f"{case}: say first how many are stored"
        dead = re.search(r"(\d+) becomes? a dead letter", rest)
        found.append(
            Row(
                case.strip("`"),
                None if status == "none" else int(status),
                code.strip("-"),
                says.strip("-`"),
                0 if counted[1] == "nothing" else int(counted[1]),
                int(dead[1]) if dead else 0,
                "the connection ends" in rest,
            )
        )
    return found


@dataclass(frozen=True)
class Answer:
    """What came back; status None if the connection ended without an answer."""

    status: int | None
    headers: dict[str, str]
    body: bytes
    #: Whether the server closed the connection behind the answer; None: nobody looked.
    ended: bool | None = None

    @property
    def document(self):
        return json.loads(self.body) if self.body else {}

    @property
    def code(self):
        return self.document.get("code") or self.document.get("title") or ""

    @property
    def text(self):
        """Everything that the answer says in words."""
        words = [self.document.get(name, "") for name in ("message", "detail")]
        words += [refused["reason"] for refused in self.document.get("rejected", [])]
        return "\n".join(words)


NO_ANSWER = Answer(None, {}, b"", ended=True)


class Incoming(io.BufferedReader):
    """What a socket receives. http.client closes its file behind each answer; this one stays.

    With a file for each answer, the first would swallow what has come of the next ones.
    """

    def makefile(self, _mode):
        return self

    def close(self):
        pass


class Connection:
    """One TCP connection to the server."""

    def __init__(self, server):
        self.socket = socket.create_connection(server.address, TIMEOUT_S)
        self._incoming = Incoming(socket.SocketIO(self.socket, "r"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """Send; a server that has hung up is no error, its answer may still be read."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def read(self, *, until_end=False):
        """The next answer."""
        response = http.client.HTTPResponse(self._incoming)
        try:
            response.begin()
            body = response.read()
        except (http.client.HTTPException, ConnectionResetError):
            return NO_ANSWER
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, body, self.ends() if until_end else None)

    def ends(self):
        """Whether the server closes now, and sends nothing before."""
        try:
            return self._incoming.read(1) == b""
        except ConnectionResetError:
            return True


class Server:
    """The embedded server as a process, with keys of every kind."""

    def __init__(self, folder):
        generous = {"rate": 10**9, "burst": 10**9}
        records = {
            "write": new_key("vision", **generous),
            "read": new_key("analyst", role=Role.READ),
            "expired": new_key("late", expires=datetime(2020, 1, 1, tzinfo=UTC)),
            "revoked": new_key("gone"),
        }
        self.keys = {name: key for name, (key, _) in records.items()}
        path = folder / "keys.toml"
        text = dump(record for _, record in records.values())
        revoked = records["revoked"][1]
        path.write_text(
            text.replace(f"[keys.{revoked.id}]", f"[keys.{revoked.id}]\nrevoked = true")
        )
        environment = {
            "STEPCLOCK_DATA_DIR": str(folder),
            "STEPCLOCK_KEYS_FILE": str(path),
            "STEPCLOCK_BATCH_AGE_S": "0.01",
            "STEPCLOCK_LOG_LEVEL": "DEBUG",
        }
        self.process = service("serve", ["admin", "serve"], folder, environment)
        where = urlsplit(self.process.url)
        self.address = (where.hostname, where.port)

    @property
    def log(self):
        return self.process.process.log_path.read_text("utf-8")

    def stop(self):
        self.process.process.stop()

    def head(self, path=WRITE, headers=(), *, method="POST", key="write"):
        """A request's head as bytes; key: a name, a key, or None."""
        lines = [f"{method} {path} HTTP/1.1", "Host: stepclock"]
        if key is not None:
            lines.append(f"Authorization: Bearer {self.keys.get(key, key)}")
        lines += [f"{name}: {value}" for name, value in dict(headers).items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def ask(self, body=b"", path=WRITE, headers=(), *, method="POST", key="write"):
        """One request on a connection of its own."""
        with Connection(self) as connection:
            return self.ask_on(connection, body, path, headers, method=method, key=key)

    def ask_on(self, connection, body=b"", path=WRITE, headers=(), *, method="POST", key="write"):
        """One request on a given connection."""
        sized = {"Content-Length": len(body), **dict(headers)}
        connection.send(self.head(path, sized, method=method, key=key) + body)
        return connection.read()

    def raw(self, data):
        """Whatever bytes on a connection of their own; the answer and whether it ends."""
        with Connection(self) as connection:
            connection.send(data)
            return connection.read(until_end=True)

    def stored(self, experiment):
        """Points of the metric v in the store, once all that was acknowledged is there."""
        marker = self.ask(b"sentinel,run=r v=1")
        assert marker.status == 204
        receipt = marker.headers["stepclock-receipt"]
        state = self.ask(method="GET", path=f"/api/v1/receipts/{receipt}?wait_s=20").document
        assert state["settled"], state
        path = f"/api/v1/experiments/{experiment}/series?metric=v&clock=wall"
        runs = self.ask(method="GET", path=path).document["runs"]
        return sum(sum(run["count"]) for run in runs)

    def dead(self, answer):
        """Dead letters of an acknowledged request."""
        receipt = answer.headers.get("stepclock-receipt")
        if receipt is None:
            return 0
        state = self.ask(method="GET", path=f"/api/v1/receipts/{receipt}?wait_s=20").document
        return sum(rejected["lines"] for rejected in state["rejected"])
