import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.admission.body import admit
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.codec import Line, encode, escape_key, escape_measurement, parse
from schemas.line_protocol.precision import Precision
from schemas.line_protocol.series import MEASUREMENT, distinct_series, tags_of

OPEN = Rules(None, 2**63 - 2, "forever", frozenset())

names = st.text(st.sampled_from('ab ,="é\\'), min_size=1, max_size=5).map(str.encode)
values = st.sampled_from([b"1", b"t", b'"a b"', b'"x,y=1 z"', b'"\\" "', b'"two\nlines"'])


@st.composite
def lines(draw):
    tags = draw(st.lists(st.tuples(names, names), max_size=3, unique_by=lambda tag: tag[0]))
    line = Line(draw(names), tuple(tags), ((b"f", draw(values)),), draw(st.integers(1, 9)))
    try:
        return encode(line)
    except ValueError:
        return b"plain f=1 1"


def series_by_parsing(line):
    parsed = parse(line)
    tags = [b"%b=%b" % (escape_key(key), escape_key(value)) for key, value in parsed.tags]
    return b",".join([escape_measurement(parsed.measurement), *tags])


@given(st.lists(lines(), min_size=1, max_size=8))
def test_the_series_of_admitted_lines_are_what_the_parser_says(body):
    admission = admit(b"\n".join(body), Precision.NS, OPEN, lambda: 1)
    found = set()
    for part in admission.parts:
        found |= distinct_series(part.lines, part.points, multiline=part.multiline)
    assert admission.refused_total == 0
    assert found == {series_by_parsing(line) for line in body}


@pytest.mark.parametrize(
    ("lines", "series"),
    [
        (b"a f=1 1", {b"a"}),
        (b"a f=1 1\na f=2 2\na f=3 3", {b"a"}),
        (b"a f=1 1\nb f=1 1\na f=1 2", {b"a", b"b"}),
        (b"a f=1 1\nab f=1 1\na f=1 2", {b"a", b"ab"}),
        (b"a,t=1 f=1 1\na,t=1 f=1 2\na,t=2 f=1 3", {b"a,t=1", b"a,t=2"}),
        (b'a f="x y" 1\nb f=1 1', {b"a", b"b"}),
        (b"a\\ b f=1 1\na\\ b,t=c\\ d f=1 1", {b"a\\ b", b"a\\ b,t=c\\ d"}),
    ],
)
def test_each_way_of_finding_series_finds_all_of_them(lines, series):
    assert distinct_series(lines, lines.count(b"\n") + 1) == series


def test_tags_come_with_their_keys_and_the_measurement_with_a_key_of_its_own():
    assert tags_of(b"a\\,b,k\\=x=v\\,w,run=r1") == [
        (MEASUREMENT, b"a\\,b"),
        (b"k\\=x", b"v\\,w"),
        (b"run", b"r1"),
    ]
    assert tags_of(b"a") == [(MEASUREMENT, b"a")]
