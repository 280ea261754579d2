"""A forward proxy on this machine: tunnels for https, whole URLs for http."""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ForwardProxy(ThreadingHTTPServer):
    """Passes everything on to `goal`, whatever host it is asked for.

    asked: (method, target, headers) of what came. refusal: a status that it answers instead.
    """

    daemon_threads = True

    def __init__(self, goal):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.goal = goal
        self.asked = []
        self.refusal = None

    @property
    def address(self):
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _refused(self):
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        if self.server.refusal:
            self.send_error(self.server.refusal)
            self.close_connection = True
        return self.server.refusal

    def do_CONNECT(self):
        if self._refused():
            return
        with socket.create_connection(self.server.goal) as upstream:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_pump, args=(upstream, self.connection), daemon=True)
            back.start()
            _pump(self.connection, upstream)
            back.join()
        self.close_connection = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._refused():
            return
        upstream = http.client.HTTPConnection(*self.server.goal)
        path = "/" + self.path.split("/", 3)[3]
        upstream.request(self.command, path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"server", "date", "connection"}:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        upstream.close()

    do_GET = do_POST  # noqa: N815 -- the name that is called

    def log_message(self, *_):
        pass


def _pump(source, sink):
    """Bytes from one socket to the other until the source has no more."""
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def serving(server):
    """The server, in a thread, until the block ends."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
