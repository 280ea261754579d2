"""Drives the gateway's ASGI application in the test's own event loop, without a socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)


class AsgiClient:
    def __init__(self, app, key=None):
        self._app = app
        self._key = key

    async def request(self, method, path, body=b"", *, query="", headers=None, key=None):
        sent = {"content-length": str(len(body)), **(headers or {})}
        key = key or self._key
        if key is not None and "authorization" not in sent:
            sent["authorization"] = f"Bearer {key}"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": quote(path).encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode()) for k, v in sent.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        answered = []

        async def receive():
            if not messages:
                await asyncio.Event().wait()  # the client stays until it is answered
            return messages.pop(0)

        async def send(message):
            answered.append(message)

        await self._app(scope, receive, send)
        headers_out = {k.decode().lower(): v.decode() for k, v in answered[0]["headers"]}
        content = b"".join(m.get("body", b"") for m in answered[1:])
        return Answer(answered[0]["status"], headers_out, content)

    async def write(self, lines, *, query="bucket=raw", headers=None, key=None):
        body = lines if isinstance(lines, bytes) else lines.encode()
        return await self.request(
            "POST", "/api/v2/write", body, query=query, headers=headers, key=key
        )

    async def post_rows(self, rows, **arguments):
        body = json.dumps({"rows": rows}).encode()
        return await self.request("POST", "/api/v1/metrics", body, **arguments)


@contextlib.asynccontextmanager
async def lifespan(app):
    """Start the application and stop it again, as a server would."""
    inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    outbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    task = asyncio.create_task(app(scope, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    started = await outbox.get()
    assert started["type"] == "lifespan.startup.complete", started
    try:
        yield
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
        await task
