"""A gateway that answers as a script says, without a socket."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass

from stepclock.send.transport import Answer


@dataclass
class Request:
    path: str
    headers: dict
    lines: list

    @property
    def sequence(self):
        return int(self.headers["Stepclock-Sequence"])

    @property
    def class_name(self):
        return self.path.partition("bucket=")[2]


class ScriptedGateway:
    """Answers with the next word of the script, and with 204 behind its end.

    A word is a status, an Answer, or a function of the request that gives one.
    """

    endpoint = "http://scripted"

    def __init__(self, *script):
        self.script = list(script)
        self.requests = []
        self.taken = []  # (sequence, class, lines) of what was answered with 204
        self.verdict = {"settled": True, "stored": True, "rejected": []}
        self.receipts = []

    def post(self, path, body, headers):
        if headers.get("Content-Encoding") == b"gzip":
            body = gzip.decompress(body)
        request = Request(path, headers, body.split(b"\n"))
        self.requests.append(request)
        word = self.script.pop(0) if self.script else 204
        if callable(word):
            word = word(request)
        answer = word if isinstance(word, Answer) else Answer(word)
        if answer.status == 204:
            self.taken.append((request.sequence, request.class_name, request.lines))
            answer = Answer(204, {"stepclock-receipt": f"1.raw-0-{len(self.requests)}"})
        return answer

    def get(self, path, timeout_s=None):
        self.receipts.append(path)
        return Answer(200, {}, json.dumps(self.verdict).encode())

    def close(self):
        pass

    def abandon(self):
        pass

    @property
    def lines(self):
        return [line for _, _, lines in self.taken for line in lines]


def limited(retry_after_s):
    return Answer(429, {"retry-after": str(retry_after_s)})


def refusing(*numbers, listed=None):
    """A 400 that names the lines, by number from 1, as the gateway does."""

    def answer(request):
        rejected = [{"line": n, "column": 1, "reason": f"reason {n}"} for n in numbers]
        document = {
            "code": "invalid",
            "message": "lines refused",
            "rejected": rejected[:listed],
            "rejected_total": len(rejected),
        }
        headers = {} if len(numbers) == len(request.lines) else {"stepclock-receipt": "1.raw-0-9"}
        return Answer(400, headers, json.dumps(document).encode())

    return answer


class WholeChain:
    """A gateway with log and store behind it, as the doctor sees them: it works unless told.

    `answers` by the beginning of a path replace what it would say.
    """

    def __init__(self, **answers):
        self.answers = {f"/{path.replace('_', '/')}": answer for path, answer in answers.items()}
        self.date = "Wed, 18 Nov 2026 12:00:00 GMT"
        self.line = b""
        self.asked = []

    def get(self, path, timeout_s=None):
        self.asked.append(path)
        for beginning, answer in self.answers.items():
            if path.startswith(beginning):
                return answer
        if path == "/ping":
            return Answer(204, {"x-influxdb-version": "0.1.0"})
        if path == "/livez":
            return said({"status": "alive"}, date=self.date)
        if path == "/health":
            return said({"checks": [{"name": "log", "status": "pass", "message": "fine"}]})
        if "/receipts/" in path:
            return said({"settled": True, "stored": True, "rejected": []})
        value = float(self.line.split(b"probe=")[1].split(b" ")[0])
        return said({"runs": [{"run": "here", "mean": [value]}]})

    def post(self, path, body, headers):
        self.line = body
        answer = self.answers.get("/api/v2/write")
        return answer or Answer(204, {"stepclock-receipt": "1.raw-0-7"})


def said(document, status=200, **headers):
    return Answer(status, headers, json.dumps(document).encode())
