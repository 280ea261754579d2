"""Admission against the two programs that define line protocol: its grammar and InfluxDB.

Only lines that the grammar takes go to the server: some of the others kill it.
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.admission.admission import Admission
from schemas.admission.body import admit
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.codec import Line, Refused, field_value, parse
from schemas.line_protocol.precision import Precision
from tests.conftest import in_ci
from tests.contract.grammar.odd_lines import odd_lines, seed_lines
from tests.contract.grammar.published import Grammar, Reading, grammar
from tests.services import Absent, Influx

DOCUMENT = Path(__file__).parents[3] / "docs" / "line-protocol.md"
SEED = 20_261_122
FOR_GRAMMAR = 20_000
FOR_SERVER = 6_000
BATCH = 50
NOW_NS = 1_795_277_400 * 10**9

#: No bounds but those of InfluxDB: what the form alone decides.
OPEN = Rules(None, 2**63 - 2, "forever", frozenset())

#: Kinds of refusals that one or both programs would take some lines of.
OURS = {
    "backslash is ambiguous",
    "field key is reserved",
    "field is there twice",
    "name holds #!~",
    "name is reserved",
    "space before the line",
    "step is not an integer",
    "step out of range",
}

# Found by exploration or reported to harm InfluxDB 2.7.12; the grammar takes them.
HARMFUL = [b"c,t=x#!~#y v=1", b'c,t=x y#!~#v="s"', b"c,t=x#!~ v=1", rb'a\\ b="x c=1', b' a="b x=1']

Write = Callable[[bytes], tuple[int, str]]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grammar]:
    try:
        with grammar(tmp_path_factory.mktemp("oracle")) as found:
            yield found
    except Absent as exc:
        if in_ci():
            pytest.fail(str(exc), pytrace=False)
        pytest.skip(str(exc))


@pytest.fixture
def write(influx: Influx) -> Iterator[Write]:
    """Writes lines in ns to a bucket of its own; gives status and message."""
    host = urllib.parse.urlsplit(influx.url).netloc
    connection = http.client.HTTPConnection(host, timeout=30)

    def request(method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        connection.request(method, path, body, {"Authorization": f"Token {influx.token}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")

    org = urllib.parse.quote(influx.org)
    _, text = request("GET", f"/api/v2/orgs?org={org}")
    bucket = f"differential-{uuid.uuid4().hex[:12]}"
    order = {"orgID": json.loads(text)["orgs"][0]["id"], "name": bucket, "retentionRules": []}
    status, text = request("POST", "/api/v2/buckets", json.dumps(order).encode())
    assert status == 201, text
    path = f"/api/v2/write?org={org}&bucket={bucket}&precision=ns"
    yield lambda body: request("POST", path, body)
    connection.close()


def judge(line: bytes) -> Admission | None:
    """Admission of one line; None for a text that is none or several."""
    counter = itertools.count(NOW_NS)
    admission = admit(line, Precision.NS, OPEN, lambda: next(counter))
    return admission if admission.points + admission.refused_total == 1 else None


def kind(admission: Admission) -> str:
    reason = admission.refusals[0].reason
    return reason.rpartition("; read on behind the newline, ")[2].partition(":")[0]


def is_taken(status: int, message: str) -> bool:
    """204, or refused for what other lines have stored, not for the line's form."""
    return status == 204 or (status == 422 and "field type conflict" in message)


def reads_alike(line: Line, reading: Reading) -> bool:
    if (line.measurement, line.tags, line.time) != (
        reading.measurement,
        reading.tags,
        reading.time,
    ):
        return False
    for (key, token), (other_key, kind, value) in zip(line.fields, reading.fields, strict=True):
        if key != other_key:
            return False
        match kind, field_value(token):
            case "float", float(number):
                same = number == float.fromhex(value.decode())
            case "int" | "uint", int(number):
                same = number == int(value)
            case "bool", bool(truth):
                same = truth == (value == b"true")
            case "string", str(text):
                # The grammar reads \n, \r and \t as control characters, InfluxDB does not.
                same = text.encode() == value or re.search(rb"\\[nrt]", token) is not None
            case _:
                same = False
        if not same:
            return False
    return True


def test_the_grammar_takes_every_line_that_is_admitted_and_reads_it_alike(
    published: Grammar,
) -> None:
    admitted = 0
    for line in itertools.chain(seed_lines(), odd_lines(SEED, FOR_GRAMMAR)):
        admission = judge(line)
        if admission is None or admission.refused_total:
            continue
        admitted += 1
        lines = admission.parts[0].lines
        reading = published.read(lines)
        assert isinstance(reading, Reading), (lines, reading)
        assert reads_alike(parse(lines), reading), (lines, reading)
    assert admitted > FOR_GRAMMAR // 10


def test_influxdb_takes_every_line_that_is_admitted(write: Write) -> None:
    batch: list[bytes] = []
    for line in itertools.chain(seed_lines(), odd_lines(SEED + 1, FOR_SERVER)):
        admission = judge(line)
        if admission is None or admission.refused_total:
            continue
        lines = admission.parts[0].lines
        answer = write(lines)
        assert is_taken(*answer), (lines, answer)
        batch.append(lines)
    assert len(batch) > FOR_SERVER // 10
    # A line that is taken alone may still swallow the ones behind it.
    for start in range(0, len(batch), BATCH):
        answer = write(b"\n".join(batch[start : start + BATCH]))
        assert is_taken(*answer), (batch[start : start + BATCH], answer)


def test_influxdb_takes_every_line_that_the_parser_takes_and_the_one_behind_it(
    write: Write,
) -> None:
    for number, line in enumerate(odd_lines(SEED + 2, FOR_SERVER // 2)):
        admission = judge(line)
        try:
            parse(line)
        except Refused:
            continue
        if admission is not None and admission.points:
            answer = write(b"%b\ncanary%d v=1 5" % (line, number))
            assert is_taken(*answer), (line, answer)


def test_a_line_that_influxdb_takes_is_refused_only_for_documented_reasons_of_ours(
    published: Grammar, write: Write
) -> None:
    documented = set(re.findall(r"^\| `([^`]+)` \|", DOCUMENT.read_text("utf-8"), re.MULTILINE))
    assert documented >= OURS
    refused_by_us_alone: set[str] = set()
    for line in itertools.chain(seed_lines(), odd_lines(SEED + 3, FOR_SERVER)):
        admission = judge(line)
        if admission is None or admission.points:
            continue
        assert kind(admission) in documented, line
        if isinstance(published.read(line), str):
            continue
        status, message = write(line)
        if is_taken(status, message):
            refused_by_us_alone.add(kind(admission))
            assert kind(admission) in OURS, (line, admission.refusals)
    assert refused_by_us_alone


@pytest.mark.parametrize("line", HARMFUL)
def test_a_line_that_harms_influxdb_is_refused_although_the_grammar_takes_it(
    published: Grammar, line: bytes
) -> None:
    assert isinstance(published.read(line), Reading)
    admission = judge(line)
    assert admission is not None
    assert kind(admission) in OURS
