import itertools
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.admission import body as admission_body
from schemas.admission import run_pattern, skeleton
from schemas.admission.admission import MAX_LISTED, Part, Refusal
from schemas.admission.body import admit
from schemas.admission.digit_range import digit_range
from schemas.admission.shape import shaped
from schemas.admission.skeleton import doubtful_lines
from schemas.line_protocol.bounds import Rules, check
from schemas.line_protocol.codec import Refused, is_blank, parse, scan, split
from schemas.line_protocol.precision import BLOCK_PRECISIONS, Precision
from schemas.retention import reserved_in
from tests.unit.schemas.test_line_protocol import ENTANGLED, REFUSED, kind

DOCUMENT = Path(__file__).parents[3] / "docs" / "line-protocol.md"

HOUR_NS = 3600 * 10**9
NOW_NS = 1_795_277_400 * 10**9
OLDEST_NS = NOW_NS - 90 * 24 * HOUR_NS
NEWEST_NS = NOW_NS + HOUR_NS
RAW = Rules(OLDEST_NS, NEWEST_NS, "90d", reserved_in("raw"))
OPEN = Rules(None, 2**63 - 2, "forever", frozenset())
T = b"%d" % NOW_NS

OUT_OF_BOUNDS = [
    # (line in ns, column, kind)
    (b"m step=1", 3, "step is not an integer"),
    (b"m step=1.0", 3, "step is not an integer"),
    (b"m step=1u", 3, "step is not an integer"),
    (b"m step=t", 3, "step is not an integer"),
    (b'm a=1,step="1i"', 7, "step is not an integer"),
    (b'm step="i', 8, "string is not closed"),
    (b"m step=-1i", 3, "step out of range"),
    (b"m a=1,step=9200000000001i", 7, "step out of range"),
    (b"m a=1 %d" % (OLDEST_NS - 1), 7, "time too old"),
    (b"m a=1  0", 8, "time too old"),
    (b"m a=1 -1", 7, "time too old"),
    (b"m a=1 %d" % (NEWEST_NS + 1), 7, "time too far ahead"),
    (b"nonfinite a=1", 1, "name is reserved"),
    (b"run_config,t=1 a=1", 1, "name is reserved"),
    (b" run_state a=1", 2, "name is reserved"),
    (b"checkpoint a=1", 1, "name is reserved"),
    (b"delivery a=1", 1, "name is reserved"),
    (b"_x a=1", 1, "name is reserved"),
    (b'm a="' + b"x" * 512 * 1024 + b'"', 1, "line too long"),
]

IN_BOUNDS = [
    b"m step=0i",
    b"m step=9200000000000i",
    b"m a=1 %d" % OLDEST_NS,
    b"m a=1 %d" % NEWEST_NS,
    b"m,step=x a=1",
    b"nonfinite2 a=1",
    b"nonfinit a=1",
    b"run_config_ a=1",
    b"r a=1",
    b"steps a=1",
    b"m ste=1,steps=2,stepx=t,s=1,timer=1,tim=2",
    b"m,times=1,_fields=2,_measure=3 a=1",
    b"m,layer1=a,layer2=b x1=1,x2=2",
    b"m,t=" + b"v" * 65_000 + b" a=1",
]


def clock():
    counter = itertools.count(NOW_NS)
    return lambda: next(counter)


def admit_in(precision, body, rules=RAW):
    return admit(body, precision, rules, clock())


def lines_of(admission):
    """All admitted lines, parsed, with the unit of their time."""
    return [
        (parse(line), part.precision) for part in admission.parts for _, line in split(part.lines)
    ]


# Within a body blanks, comments and CR LF are fine, and a newline ends a line.
BAD = [
    (line, column, expected)
    for line, column, expected in [*REFUSED, *OUT_OF_BOUNDS]
    if not line.startswith(b"#")
    and line.strip()
    and line == line.rstrip(b"\r\n")
    and b"\n" not in line
]


@pytest.mark.parametrize(
    ("line", "column", "expected"), BAD, ids=[repr(line[:40]) for line, _, _ in BAD]
)
def test_a_bad_line_between_good_ones_is_refused_alone(line, column, expected):
    body = b"good a=1 %b\n%b\ngood a=2 %b" % (T, line, T)
    admission = admit_in(Precision.NS, body)
    assert [(r.line, r.column, kind(r.reason)) for r in admission.refusals] == [
        (2, column, expected)
    ]
    assert admission.refused_total == 1
    assert admission.parts == (
        Part(b"good a=1 %b\ngood a=2 %b" % (T, T), 2, Precision.NS, multiline=False),
    )


@pytest.mark.parametrize("line", IN_BOUNDS)
def test_what_only_looks_out_of_bounds_is_taken(line):
    admission = admit_in(Precision.NS, line)
    assert (admission.points, admission.refusals) == (1, ())


def test_the_document_lists_the_kinds_of_refusals_and_no_others():
    rows = re.findall(r"^\| `([^`]+)` \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted({row[2] for row in [*REFUSED, *OUT_OF_BOUNDS]})


@pytest.mark.parametrize("precision", sorted(BLOCK_PRECISIONS))
@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_good_body_comes_out_as_the_same_bytes(precision, ending):
    now = NOW_NS // precision.ns
    body = b"\n".join(
        b"resnet50,run=r%d,rank=%d train/loss=%d.5,step=%di %d" % (i % 3, i % 8, i, i, now)
        for i in range(1000)
    )
    admission = admit_in(precision, body + ending)
    assert admission.parts == (Part(body, 1000, precision, multiline=False),)
    assert (admission.points, admission.stamped, admission.refused_total) == (1000, 0, 0)


def test_a_line_without_a_time_gets_one_in_ns():
    body = b"m a=1\nm a=2 %d\nm a=3\n" % (NOW_NS // 10**9)
    admission = admit_in(Precision.S, body)
    assert admission.parts == (
        Part(b"m a=2 %d" % (NOW_NS // 10**9), 1, Precision.S, multiline=False),
        Part(b"m a=1 %d\nm a=3 %d" % (NOW_NS, NOW_NS + 1), 2, Precision.NS, multiline=False),
    )
    assert (admission.points, admission.stamped) == (3, 2)


def test_stamped_lines_of_a_body_in_ns_stay_in_its_order():
    admission = admit_in(Precision.NS, b"m a=1 %b\nm a=2\nm a=3 %b" % (T, T))
    assert admission.parts == (
        Part(b"m a=1 %b\nm a=2 %b\nm a=3 %b" % (T, T, T), 3, Precision.NS, multiline=False),
    )


@pytest.mark.parametrize("precision", [Precision.M, Precision.H])
def test_minutes_and_hours_become_ns(precision):
    now = NOW_NS // precision.ns
    admission = admit_in(precision, b"m a=1 %d\nm a=2" % now)
    expected = b"m a=1 %d\nm a=2 %b" % (now * precision.ns, T)
    assert admission.parts == (Part(expected, 2, Precision.NS, multiline=False),)


def test_lines_with_a_newline_in_a_string_have_a_part_of_their_own_in_ns():
    now = NOW_NS // 10**9
    body = b'm a=1 %d\nm a="x\ny" %d\nm a="\n"\nm b=1 %d' % (now, now, now)
    admission = admit_in(Precision.S, body)
    assert admission.parts == (
        Part(b"m a=1 %d\nm b=1 %d" % (now, now), 2, Precision.S, multiline=False),
        Part(b'm a="x\ny" %b\nm a="\n" %b' % (T, T), 2, Precision.NS, multiline=True),
    )
    assert admission.stamped == 1


def test_a_string_that_is_never_closed_costs_its_line_only():
    admission = admit_in(Precision.NS, b'm a=1\nm a="open\nm b="x" %b\nm c=1' % T)
    assert [(r.line, r.column, kind(r.reason)) for r in admission.refusals] == [
        (2, 5, "string is not closed")
    ]
    assert admission.points == 3


def test_a_fault_behind_a_newline_in_a_string_is_told():
    admission = admit_in(Precision.NS, b'm a="x\ny",b=NaN')
    assert "NaN or infinity" in admission.refusals[0].reason
    assert admission.refused_total == 2


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n", b"# a\n\n  \n#b", b" "])
def test_nothing_comes_of_blanks_and_comments(body):
    admission = admit_in(Precision.NS, body)
    assert (admission.parts, admission.points, admission.refused_total) == ((), 0, 0)


@pytest.mark.parametrize("blank", [b"", b" ", b"\r", b"#", b' # "\xff\r'])
def test_blanks_and_comments_are_not_looked_at_one_by_one(blank, monkeypatch):
    looked_at = []

    def noting(line):
        looked_at.append(line)
        return is_blank(line)

    monkeypatch.setattr(admission_body, "is_blank", noting)
    blanks = (blank + b"\n") * 50_000
    good = b"m f=1 %b\n" % T
    body = blanks + good + b"bad\n" + blanks + b"bad\n" + blanks + blank
    admitted = admit_in(Precision.NS, body)
    assert [(r.line, r.column) for r in admitted.refusals] == [(50_002, 4), (100_003, 4)]
    assert admitted.points == 1
    assert len(looked_at) < 300


@pytest.mark.parametrize(
    "body",
    [
        b"m a=1 %b\r\nm a=2 %b\r\n",
        b"m a=1 %b\nm a=2 %b\r",
        b"  m   a=1   %b  \n\n# x\nm a=2 %b ",
        b"m a=1 0%b\n m a=2 %b",
    ],
)
def test_line_ends_and_spaces_come_out_in_one_form(body):
    admission = admit_in(Precision.NS, body % (T, T))
    assert admission.parts == (
        Part(b"m a=1 %b\nm a=2 %b" % (T, T), 2, Precision.NS, multiline=False),
    )


def test_a_carriage_return_in_a_string_is_kept():
    body = b'm a="x\r\ny" %b\r\nm a="\r" %b\r\n' % (T, T)
    admission = admit_in(Precision.NS, body)
    assert [part.lines for part in admission.parts] == [
        b'm a="\r" %b' % T,
        b'm a="x\r\ny" %b' % T,
    ]


def test_lines_that_are_not_utf8_are_refused_alone():
    good = b"m,t=\xc3\xa9 a=1 %b" % T
    body = b"\n".join([good, b"m,t=\xff a=1", good, b'm a="\xe2\x82"', good])
    admission = admit_in(Precision.NS, body)
    assert [(r.line, kind(r.reason)) for r in admission.refusals] == [
        (2, "not UTF-8"),
        (4, "not UTF-8"),
    ]
    assert admission.parts[0].lines == b"\n".join([good] * 3)


def test_refusals_are_listed_up_to_a_bound_and_all_counted():
    admission = admit_in(Precision.NS, b"bad\n" * (MAX_LISTED + 5))
    assert len(admission.refusals) == MAX_LISTED
    assert admission.refusals[-1] == Refusal(MAX_LISTED, 4, admission.refusals[0].reason)
    assert admission.refused_total == MAX_LISTED + 5


@pytest.mark.parametrize(
    "line", [*ENTANGLED, b"m a=1\nm a=NaN\n", b"m,t=\xff a=1\n", b"\n", b"#\n"]
)
def test_admission_takes_time_in_proportion_to_the_body(line):
    def duration_s(repeats):
        begin = time.process_time()
        admit_in(Precision.NS, line * repeats + b'm a="')
        return time.process_time() - begin

    few, many = 200, 3200
    quickest = min(duration_s(few) for _ in range(3)) + 1e-3
    assert duration_s(many) < 8 * quickest * many / few


@pytest.mark.parametrize(
    ("precision", "when", "hint"),
    [
        (Precision.NS, NOW_NS // 10**9, "precision=s?"),
        (Precision.NS, NOW_NS // 10**6, "precision=ms?"),
        (Precision.MS, NOW_NS // 10**9, "precision=s?"),
        (Precision.S, NOW_NS, "precision=ns?"),
    ],
)
def test_a_time_in_another_unit_is_recognised(precision, when, hint):
    admission = admit_in(precision, b"m a=1 %d" % when)
    assert admission.refusals[0].reason.endswith(f"did you mean {hint}")


@pytest.mark.parametrize("precision", sorted(BLOCK_PRECISIONS))
def test_the_pattern_takes_now_and_nothing_outside_the_window(precision):
    pattern = run_pattern.timed(precision, RAW)

    def takes(time_ns):
        line = b"m a=1 %d" % (time_ns // precision.ns)
        return pattern.end(line, 0, len(line)) == len(line)

    assert takes(NOW_NS)
    assert takes(OLDEST_NS + HOUR_NS)
    assert not takes(OLDEST_NS - precision.ns)
    assert not takes(NEWEST_NS + precision.ns)


@settings(deadline=None)
@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_digit_range_holds_its_numbers_and_no_others(lowest, highest, number):
    pattern = re.compile(digit_range(lowest, highest))
    for candidate in (number, lowest, highest, lowest - 1, highest + 1):
        matches = pattern.fullmatch(b"%d" % candidate) is not None
        assert matches == (lowest <= candidate <= highest)


def test_a_digit_range_below_zero_is_an_error():
    with pytest.raises(ValueError, match="negative"):
        digit_range(-1, 5)


# -- properties: what the patterns take, the exact parser takes ---------------------------------

names = st.text(alphabet='astepim_1\\,= "#é', min_size=1, max_size=6).map(str.encode)
tokens = st.sampled_from(
    b'1 -1.5 1e9 1e99 .5 5. 7i -7i 7u t TRUE NaN x "'.split()
    + rb'"s" "\"" "\\" "\x" 1234567890123i 9200000000001i 999999999999999999i'.split()
    + [b"", b"1" * 19, b'"a,step=1i "', b'"\n"']
)
keys = names | st.sampled_from([b"step", b"time", b"a", b"a1", b"a2", b"_field", b"loss"])
times = st.sampled_from(
    [b"", *(b" %d" % (edge + n) for edge in (OLDEST_NS, NOW_NS, NEWEST_NS) for n in (-1, 0, 1))]
) | st.sampled_from([b" 0", b" -1", b" 1.5", b"  " + T, b" " + T + b" "])


@st.composite
def odd_lines(draw):
    measurement = draw(keys | st.sampled_from([b"nonfinite", b"run_config", b"delivery", b"m"]))
    tags = draw(st.lists(st.tuples(keys, names), max_size=3))
    fields = draw(st.lists(st.tuples(keys, tokens), min_size=1, max_size=3))
    return (
        b",".join([measurement, *(b"%b=%b" % tag for tag in tags)])
        + b" "
        + b",".join(b"%b=%b" % field for field in fields)
        + draw(times)
    )


def is_admitted_exactly(line, rules):
    try:
        check(scan(line, 0), Precision.NS, rules)
        parse(line)
    except Refused:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(odd_lines(), st.sampled_from([RAW, Rules(None, NEWEST_NS, "forever", frozenset())]))
def test_what_a_pattern_takes_is_admitted_exactly_or_doubted(line, rules):
    for pattern in (
        run_pattern.timed(Precision.NS, rules),
        run_pattern.untimed(rules.reserved),
    ):
        if pattern.end(line, 0, len(line)) == len(line) and line not in doubtful_lines(line):
            assert is_admitted_exactly(line, rules)
            assert parse(line)


@st.composite
def lines_of_one_shape(draw):
    """A plain good line, and one of its names that may be anything."""
    tags = draw(st.lists(st.sampled_from([b"a", b"a1", b"a2", b"step"]), max_size=2, unique=True))
    fields = draw(
        st.lists(st.sampled_from([b"step", b"a", b"loss"]), min_size=1, max_size=3, unique=True)
    )
    good = [b"%b=1i" % key for key in fields]
    odd = [b"%b=%b" % (key, draw(tokens)) for key in fields]
    values = [b"%b=%b" % (key, draw(names)) for key in tags]
    return (
        b",".join([b"m", *(b"%b=x" % key for key in tags)]) + b" " + b",".join(good) + b" " + T,
        b",".join([draw(keys), *values]) + b" " + b",".join(odd) + draw(times),
    )


def known_shape(line, rules=RAW):
    return shaped(line, Precision.NS, rules) or shaped(line, Precision.NS, rules)


@settings(max_examples=400, deadline=None)
@given(lines_of_one_shape() | st.tuples(odd_lines(), odd_lines()))
def test_what_the_pattern_of_a_shape_takes_is_admitted_exactly(pair):
    first, line = pair
    pattern = known_shape(first)
    if pattern is not None and pattern.end(line, 0, len(line)) == len(line) and b"#!~" not in line:
        assert is_admitted_exactly(line, RAW)
        assert not doubtful_lines(line)


def test_the_pattern_of_a_shape_takes_its_lines_and_no_others():
    line = b"m,run=r1,rank=0 loss=0.5,step=1i " + T
    pattern = known_shape(line)
    for other, taken in [
        (b"n,run=r\\ 2,rank=77 loss=-1e3,step=2i " + T, True),
        (b'm,run=r1,rank=0 loss="a,b",step=2i ' + T, True),
        (b"m,run=r1,rank=0 loss=1,step=2 " + T, False),
        (b"m,run=r1,rank=0 loss=1 " + T, False),
        (b"m,rank=0,run=r1 loss=1,step=2i " + T, False),
        (b"m,run=r1,rank=0 loss=1,step=2i", False),
        (b"delivery,run=r1,rank=0 loss=1,step=2i " + T, False),
        (b"m,run=r1,rank=0 loss=1,step=2i %d" % (OLDEST_NS - 1), False),
    ]:
        assert pattern.end(other, 0, len(other)) == (len(other) if taken else 0)


@pytest.mark.parametrize("first", [b"m a=1,a=2", b"m,t=1,t=2 a=1", b"m,t=#!~ a=1", b"m,time=1 a=1"])
def test_nothing_is_learned_from_a_line_that_is_not_certainly_good(first):
    assert known_shape(b"%b %b" % (first, T)) is None


@settings(max_examples=100, deadline=None)
@given(lines_of_one_shape(), st.lists(odd_lines(), max_size=4))
def test_a_long_body_of_a_known_shape_gives_what_its_lines_give_alone(pair, others):
    good, same_names = pair
    known_shape(good)
    body = b"\n".join([*[good] * 100, same_names, *others, good, same_names])
    together = admit_in(Precision.NS, body)
    alone = [admit_in(Precision.NS, line) for _, line in split(body)]

    def kept(admission):
        return [(line.measurement, line.tags, line.fields) for line, _ in lines_of(admission)]

    assert together.refused_total == sum(admission.refused_total for admission in alone)
    assert sorted(kept(together)) == sorted(line for each in alone for line in kept(each))


@settings(max_examples=150, deadline=None)
@given(st.lists(odd_lines(), max_size=8), st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
def test_a_body_gives_what_its_lines_give_alone(body_lines, newline):
    body = newline.join(body_lines)
    admission = admit_in(Precision.NS, body)
    expected = []
    refused = 0
    for _, line in split(body):
        text = line.removesuffix(b"\r")
        if is_admitted_exactly(text, RAW):
            expected.append(parse(text))
        else:
            refused += 1
    expected.sort(key=lambda line: any(b"\n" in value for _, value in line.fields))
    found = [line for line, _ in lines_of(admission)]
    assert [(line.measurement, line.tags, line.fields) for line in found] == [
        (line.measurement, line.tags, line.fields) for line in expected
    ]
    assert all(
        there.time == line.time
        for there, line in zip(found, expected, strict=True)
        if line.time is not None
    )
    assert admission.stamped == sum(line.time is None for line in expected)
    assert (admission.points, admission.refused_total) == (len(expected), refused)


@settings(max_examples=150, deadline=None)
@given(st.lists(odd_lines(), max_size=6))
def test_what_was_admitted_is_admitted_again_unchanged(body_lines):
    for part in admit_in(Precision.NS, b"\n".join(body_lines)).parts:
        again = admit_in(part.precision, part.lines)
        assert again.parts == (part,)


@pytest.mark.parametrize(
    ("lines", "doubtful"),
    [
        ([b"m,a=1,b=2 x=1,y=2"], []),
        ([b"m,a=1,a=2 x=1"], [0]),
        ([b"m x=1,x=2"], [0]),
        ([b"m,a1=x,a2=y x1=1,x2=2", b"m,a3=x,a4=y x1=1,x2=2", b"m,a3=x,a3=y x1=1,x2=2"], [2]),
        ([b"m x1=1,x2=2", b"m x1=1,x2=2", b"m x1=1,x1=2"], [2]),
        ([*[b"m x1=1,x2=2"] * 40, b"m x1=1,x1=2"], [40]),
        ([*[b"m,t=a x1=1,x2=2"] * 40, b"m,t=#!~# x1=1,x2=2", b"m,t=#!1~# x1=1,x2=2"], [40]),
        ([b'm x1="a",x2=2', b'm x1="a",x1=2'], [1]),
        ([rb"m,a\,b=1,b=2 x=1", rb"m,a\ b=1,a\ b=2 x=1"], [1]),
        ([b'm x="a=1,a=2",a=3'], []),
        ([b"m,t=#!~# x=1"], [0]),
        ([b"m,t=#!1~# x=1"], []),
        ([b"m,t=#!1~# x=1", b"m,t=#!~# x=1", b"m,t=#!2~# x=1"], [1]),
    ],
)
def test_lines_with_a_name_twice_are_found(lines, doubtful):
    assert doubtful_lines(b"\n".join(lines)) == {lines[i] for i in doubtful}


def test_names_that_hardly_come_again_are_looked_at_without_a_pattern_of_their_own(monkeypatch):
    made = []
    compile_pattern = skeleton.re2.compile

    def counted(*arguments):
        made.append(arguments)
        return compile_pattern(*arguments)

    monkeypatch.setattr(skeleton.re2, "compile", counted)
    names = ["".join(letters) for letters in itertools.product("abcdefghij", repeat=3)]
    assert doubtful_lines("\n".join(f"m {n}1=1,{n}2=2" for n in names).encode()) == frozenset()
    assert not made
    for _ in range(40):
        doubtful_lines(b"m again1=1,again2=2")
    assert len(made) == 1
