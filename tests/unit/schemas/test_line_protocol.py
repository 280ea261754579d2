import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.line_protocol import codec
from schemas.line_protocol.codec import (
    Line,
    Refused,
    encode,
    encode_string,
    escape_key,
    escape_measurement,
    field_value,
    parse,
    scan,
    split,
)

UNTIMED = settings(deadline=None)

TAKEN = [
    # (line, measurement, tags, fields, time)
    (b"m a=1", b"m", (), ((b"a", b"1"),), None),
    (b"m a=1 5", b"m", (), ((b"a", b"1"),), 5),
    (b"m a=1 -5", b"m", (), ((b"a", b"1"),), -5),
    (b"m a=1 007", b"m", (), ((b"a", b"1"),), 7),
    (b"  m   a=1   5  ", b"m", (), ((b"a", b"1"),), 5),
    (b"m,t=v,s=w a=1,b=2i 5", b"m", ((b"t", b"v"), (b"s", b"w")), ((b"a", b"1"), (b"b", b"2i")), 5),
    (rb"m\,x\ y a=1", b"m,x y", (), ((b"a", b"1"),), None),
    (rb"m,t\,\ \==v\,\ \= f\,\ \==1", b"m", ((b"t, =", b"v, ="),), ((b"f, =", b"1"),), None),
    (b"a=b c=1", b"a=b", (), ((b"c", b"1"),), None),
    (rb"\\a\b a\\b\c=1", rb"\\a\b", (), ((rb"a\\b\c", b"1"),), None),
    (rb"C:\x t=1", rb"C:\x", (), ((b"t", b"1"),), None),
    (b'q" "a"=1', b'q"', (), ((b'"a"', b"1"),), None),
    ("ß,t=µ ✓=1".encode(), "ß".encode(), ((b"t", "µ".encode()),), (("✓".encode(), b"1"),), None),
    (b'm a="" 1', b"m", (), ((b"a", b'""'),), 1),
    (b'm a="b c,d=e" 1', b"m", (), ((b"a", b'"b c,d=e"'),), 1),
    (rb'm a="\"" 1', b"m", (), ((b"a", rb'"\""'),), 1),
    (rb'm a="\\" 1', b"m", (), ((b"a", rb'"\\"'),), 1),
    (rb'm a="\\\"\x" 1', b"m", (), ((b"a", rb'"\\\"\x"'),), 1),
    (b'm a="1\n2\x00\r\t" 1', b"m", (), ((b"a", b'"1\n2\x00\r\t"'),), 1),
    (b"_field t=1", b"_field", (), ((b"t", b"1"),), None),
    (b"m,step=1 t=1", b"m", ((b"step", b"1"),), ((b"t", b"1"),), None),
]  # fmt: skip

REFUSED = [
    # (line, column, kind)
    (b"", 1, "no measurement"),
    (b" ", 2, "no measurement"),
    (b"# m a=1", 1, "no measurement"),
    (b",t=v a=1", 1, "no measurement"),
    (b"\nm a=1", 1, "no measurement"),
    (b"m", 2, "no fields"),
    (b"m,t=v", 6, "no fields"),
    (b"m,t=v=w a=1", 6, "no fields"),
    (b"m,t=v,", 7, "tag key is missing"),
    (b"m,=v a=1", 3, "tag key is missing"),
    (b"m, a=1", 3, "tag key is missing"),
    (b"m,t a=1", 4, "tag without value"),
    (b"m,t,s=w a=1", 4, "tag without value"),
    (b"m,t= a=1", 5, "tag value is empty"),
    (b"m,t=,s=1 a=1", 5, "tag value is empty"),
    (b"m,t==v a=1", 5, "tag value is empty"),
    (b"m,time=1 a=1", 3, "tag key is reserved"),
    (b"m,_measurement=1 a=1", 3, "tag key is reserved"),
    (b"m,t=1,_field=1 a=1", 7, "tag key is reserved"),
    (b"m,t=1,s=1,t=2 a=1", 11, "tag is there twice"),
    (rb"m,a\,b=1,a\,b=2 a=1", 10, "tag is there twice"),
    (b"m ", 3, "field key is missing"),
    (b"m =1", 3, "field key is missing"),
    (b"m a=1,", 7, "field key is missing"),
    (b"m a=1,,b=1", 7, "field key is missing"),
    (b"m a", 4, "field without value"),
    (b"m a 5", 4, "field without value"),
    (b"m a=", 5, "field value is missing"),
    (b"m a= 5", 5, "field value is missing"),
    (b"m time=1", 3, "field key is reserved"),
    (b"m a=1,time=1", 7, "field key is reserved"),
    (b"m a=1,b=2,a=1", 11, "field is there twice"),
    (b"m a=1,a=1i", 7, "field is there twice"),
    (b"m a=abc", 5, "field value not understood"),
    (b"m a=0x1", 5, "field value not understood"),
    (b"m a=1_0", 5, "field value not understood"),
    (b"m a=+1", 5, "field value not understood"),
    (b"m a=1e", 5, "field value not understood"),
    (b"m a=.", 5, "field value not understood"),
    (b"m a=-u", 5, "field value not understood"),
    (b"m a=-1u", 5, "field value not understood"),
    (b"m a=1.5i", 5, "field value not understood"),
    (b"m a=tr", 5, "field value not understood"),
    (b"m a=tRUE", 5, "field value not understood"),
    (b"m a='x'", 5, "field value not understood"),
    (b"m a=1\t5", 5, "field value not understood"),
    (b"m a=NaN", 5, "NaN or infinity"),
    (b"m b=1,a=-inf 5", 9, "NaN or infinity"),
    (b"m a=+Infinity", 5, "NaN or infinity"),
    (b"m a=9223372036854775808i", 5, "integer out of range"),
    (b"m a=-9223372036854775809i", 5, "integer out of range"),
    (b"m a=" + b"9" * 5000 + b"i", 5, "integer out of range"),
    (b"m a=18446744073709551616u", 5, "unsigned integer out of range"),
    (b"m a=1e400", 5, "float out of range"),
    (b"m a=" + b"9" * 400, 5, "float out of range"),
    (b'm a="', 5, "string is not closed"),
    (rb'm a="\"', 5, "string is not closed"),
    (rb'm a="x\\\" 5', 5, "string is not closed"),
    (b'm a="x"y', 8, "text behind a string"),
    (b'm a="x""y"', 8, "text behind a string"),
    (b"m a=1 x", 7, "time is not an integer"),
    (b"m a=1 -", 7, "time is not an integer"),
    (b"m a=1 +5", 7, "time is not an integer"),
    (b"m a=1 1.5", 8, "text behind the time"),
    (b"m a=1 5 6", 9, "text behind the time"),
    (b"m a=1 5\t", 8, "control byte"),
    (b"m a=1 9223372036854775808", 7, "time out of range"),
    (b"m a=1 -9223372036854775809", 7, "time out of range"),
    (b"m a=1 " + b"9" * 5000, 7, "time out of range"),
    (b"m a=1 5\r", 8, "carriage return"),
    (b"m a=1\r", 6, "carriage return"),
    (b"m\r a=1", 2, "carriage return"),
    (b"m a=1\r5", 6, "carriage return"),
    (b"m a=1\n", 6, "newline outside a string"),
    (b"m a=1\nm a=2", 6, "newline outside a string"),
    (b"m a=1\r\nm a=2", 6, "newline outside a string"),
    (b"\tm a=1", 1, "control byte"),
    (b"m\x00 a=1", 2, "control byte"),
    (b"m,t=\x7f a=1", 5, "control byte"),
    (b"m \ta=1", 3, "control byte"),
    (b"m,t=\xff a=1", 5, "not UTF-8"),
    (b'm a="\xe2\x82"', 6, "not UTF-8"),
    # InfluxDB 2.7.12 dies of this one.
    (rb'0 \\="="', 3, "backslash is ambiguous"),
    (rb"m\=x a=1", 2, "backslash is ambiguous"),
    (rb"m\"x a=1", 2, "backslash is ambiguous"),
    (rb"m\\ b a=1", 2, "backslash is ambiguous"),
    (rb"m\\\ b a=1", 2, "backslash is ambiguous"),
    (rb"m,t\\=v a=1", 4, "backslash is ambiguous"),
    (rb"m,t=v\\ a=1", 6, "backslash is ambiguous"),
    (rb"m,t=v\\,s=w a=1", 6, "backslash is ambiguous"),
    (rb"m,t=v\"w a=1", 6, "backslash is ambiguous"),
    (rb"m a\\=1", 4, "backslash is ambiguous"),
    (rb"m a\"=1", 4, "backslash is ambiguous"),
    (b"m a\\", 4, "backslash is ambiguous"),
    # Two series share one key in the storage engine: 500 for ever, and queries panic.
    (b"m,t=x#!~#y a=1", 6, "name holds #!~"),
    (b"m#!~ a=1", 2, "name holds #!~"),
    (b"m y#!~#v=1", 3, "name holds #!~"),
    # Takes the lines behind it for part of a string.
    (b' a="b x=1', 1, "space before the line"),
    (b"m,t=" + b"v" * 65_530 + b" a=1", 65_536, "series too long"),
    (b"m " + b"a" * 65_531 + b"=1", 3, "series too long"),
]


def kind(reason):
    return reason.partition(":")[0]


@pytest.mark.parametrize(("text", "measurement", "tags", "fields", "when"), TAKEN)
def test_a_line_is_read_as_both_parsers_read_it(text, measurement, tags, fields, when):
    assert parse(text) == Line(measurement, tags, fields, when)


@pytest.mark.parametrize(
    ("text", "column", "expected"), REFUSED, ids=[repr(line[:40]) for line, _, _ in REFUSED]
)
def test_a_refusal_names_the_column_and_what_was_expected(text, column, expected):
    with pytest.raises(Refused) as caught:
        parse(text)
    assert (caught.value.column, kind(caught.value.reason)) == (column, expected)
    assert re.fullmatch(r"[^:]+: .+", caught.value.reason)


@pytest.mark.parametrize(
    ("token", "value"),
    [
        (b"1i", 1),
        (b"-9223372036854775808i", -(2**63)),
        (b"18446744073709551615u", 2**64 - 1),
        (b"0" * 5000 + b"1i", 1),
        (b"1", 1.0),
        (b"-.5", -0.5),
        (b"5.", 5.0),
        (b"1E-3", 0.001),
        (b"t", True),
        (b"FALSE", False),
        (b'""', ""),
        (rb'"a\"b\\c\n"', 'a"b\\c\\n'),
        (b'"\xc3\xa9\n"', "é\n"),
    ],
)
def test_a_token_stands_for_the_value_that_influxdb_stores(token, value):
    found = field_value(token)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("token", [b"", b"x", b"NaN", b'"', rb'"\"', b'"a"b', b"1e999"])
def test_what_is_no_token_has_no_value(token):
    with pytest.raises(ValueError, match=r"field value|string|NaN|float"):
        field_value(token)


@pytest.mark.parametrize(
    "name", [b"", b"\\", b"a\\", rb"a\,", rb"a\ b", rb"a\=", rb"a\"", b"a\nb", b"\xff", b"a#!~b"]
)
def test_names_that_no_line_can_carry_are_not_escaped(name):
    with pytest.raises(ValueError, match="a name"):
        escape_key(name)
    with pytest.raises(ValueError, match="a name"):
        escape_measurement(name)


def test_a_measurement_can_not_look_like_a_comment():
    with pytest.raises(ValueError, match="comment"):
        escape_measurement(b"#m")


names = st.one_of(
    st.text(min_size=1, max_size=8), st.text(alphabet='ab\\,= "#!~1é', min_size=1, max_size=8)
).map(lambda text: text.encode("utf-8", "replace"))


@st.composite
def values(draw):
    token = draw(
        st.one_of(
            st.floats(allow_nan=False, allow_infinity=False).map(lambda x: repr(x).encode()),
            st.integers(-(2**63), 2**63 - 1).map(lambda x: b"%di" % x),
            st.integers(0, 2**64 - 1).map(lambda x: b"%du" % x),
            st.sampled_from([b"t", b"F", b"true", b"False"]),
            st.text().map(lambda text: encode_string(text.encode("utf-8", "replace").decode())),
        )
    )
    assert isinstance(token, bytes)
    return token


@st.composite
def lines(draw):
    return Line(
        draw(names),
        tuple(draw(st.dictionaries(names, names, max_size=3)).items()),
        tuple(draw(st.dictionaries(names, values(), min_size=1, max_size=4)).items()),
        draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
    )


@UNTIMED
@given(lines())
def test_what_can_be_encoded_is_parsed_back_to_the_same(line):
    try:
        text = encode(line)
    except ValueError:
        return
    reserved = {b"time", b"_measurement", b"_field"} & dict(line.tags).keys()
    if reserved or b"time" in dict(line.fields):
        with pytest.raises(Refused, match="reserved"):
            parse(text)
    else:
        assert parse(text) == line


@UNTIMED
@given(st.text(alphabet='ab\\,= "#1i.\n\té', max_size=30))
def test_what_is_parsed_is_encoded_back_to_the_same(text):
    try:
        line = parse(b"m " + text.encode())
    except Refused:
        return
    assert parse(encode(line)) == line


@UNTIMED
@given(st.text())
def test_a_string_comes_back_as_it_was(text):
    text = text.encode("utf-8", "replace").decode()
    assert field_value(encode_string(text)) == text


def test_split_numbers_lines_and_leaves_out_blanks_and_comments():
    body = b'm a=1\n\n  \n# x="\nm a="1\n2" 5\n  \r\nbad\nm a=3'
    assert list(split(body)) == [(1, b"m a=1"), (5, b'm a="1\n2" 5'), (8, b"bad"), (9, b"m a=3")]


def test_one_missing_quote_costs_one_line():
    body = b'm a="open 5\nm a=1 6\nm a="x" 7'
    assert [line for _, line in split(body)] == body.split(b"\n")


@UNTIMED
@given(st.lists(lines(), max_size=5))
def test_encoded_lines_are_split_as_they_were_joined(batch):
    texts = []
    for line in batch:
        try:
            text = encode(line)
            parse(text)
        except (ValueError, Refused):
            continue
        texts.append(text)
    assert [line for _, line in split(b"\n".join(texts))] == texts


# Each leaves a string open, or seems to.
ENTANGLED = [
    b'm a="\n',
    b'm a="x",b="\n',
    b'm a=",b="\n',
    b'm",b="x c=",d=",e="\n',
    b'm \\"="x"\n',
    b'"\n',
    b"\\\n",
    b'm a="\\"\n',
    b'm,t=\xff a="\n',
]


@pytest.mark.parametrize("line", ENTANGLED)
def test_splitting_takes_time_in_proportion_to_the_body(line):
    def duration_s(repeats):
        body = line * repeats + b'm a="'
        begin = time.process_time()
        for _ in split(body):
            pass
        return time.process_time() - begin

    few, many = 200, 3200
    quickest = min(duration_s(few) for _ in range(3)) + 1e-3
    assert duration_s(many) < 8 * quickest * many / few


@UNTIMED
@given(st.text(alphabet='amt,,=="  15i.-1e\\#é', max_size=30))
def test_the_short_way_reads_a_line_as_the_scanner_does(text):
    line = b"m" + text.encode()
    plain = codec._parse_plain(line)
    if plain is not None:
        scanned = scan(line, 0)
        assert (plain, scanned.end) == (scanned.line, len(line))


def test_lines_of_jobs_are_read_the_short_way():
    line = (
        b'resnet50,run=r12,rank=0 train/loss=0.31,lr=1e-3,step=12i,s="a, b=c" 1795277400000000000'
    )
    assert codec._parse_plain(line) == scan(line, 0).line
