"""A gateway that answers as a script says, without a socket."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass

from stepclock.transport import Answer


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
