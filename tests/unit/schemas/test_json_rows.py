import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic_core import from_json

from schemas import json_rows
from schemas.json_rows import (
    MAX_ROW_BYTES,
    PAUSE,
    InvalidRows,
    RowTooLarge,
    Unrepresentable,
    decode_rows,
)

GOOD = b'{"experiment":"e","run":"r","step":1,"values":{"a":0.5,"b":NaN}}'
BRACKETS = 20_000

text = st.text(st.sampled_from('a "\\}{],[:\n\t\0é\u2028😀'), max_size=6)
numbers = st.one_of(
    st.integers(), st.floats(), st.integers(-(10**320), 10**320), st.sampled_from([0, 1e308])
)
values = st.recursive(
    st.one_of(numbers, text, st.booleans(), st.none()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
blanks = st.text(st.sampled_from(" \t\r\n"), max_size=3)
windows = st.integers(1, 80)


def drained(body, **bounds):
    return [row for row in decode_rows(body, **bounds) if row is not PAUSE]


def expected(body):
    """What the rows are if the whole body is parsed at once; None if it is not what is taken."""
    try:
        document = from_json(body, allow_inf_nan=True)
    except ValueError:
        return None
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        return None
    if len(json.loads(body, object_pairs_hook=list)) != 1:  # from_json makes one of equal names
        return None
    return document["rows"]


def said(value):
    """The value with its types, and NaN like itself."""
    if isinstance(value, Unrepresentable):
        return "-inf" if value.startswith("-") else "inf"
    if isinstance(value, list):
        return [said(member) for member in value]
    if isinstance(value, dict):
        return [(name, said(member)) for name, member in value.items()]
    return repr(value)


def check(body, **bounds):
    rows = expected(body)
    if rows is None:
        with pytest.raises(InvalidRows) as caught:
            drained(body, **bounds)
        assert len(str(caught.value)) < 250
    else:
        assert said(drained(body, **bounds)) == said(rows)


@given(st.lists(values, max_size=6), blanks, blanks, st.booleans(), windows)
def test_rows_are_what_parsing_the_whole_body_gives_wherever_windows_end(
    rows, before, after, ascii_only, window
):
    separators = (f"{before},{after}", f"{after}:{before}")
    document = json.dumps({"rows": rows}, separators=separators, ensure_ascii=ascii_only)
    check(f"{after}{document}{before}".encode(), _window_bytes=window)


@given(
    st.lists(values, max_size=4),
    st.lists(
        st.tuples(
            st.integers(0, 400),
            st.integers(0, 3),
            st.sampled_from(list(b'{}[]",:\\ 0-.eEuda1N\xff\xc3\0\x0c')) | st.integers(0, 255),
        ),
        min_size=1,
        max_size=3,
    ),
    windows,
)
def test_a_changed_body_is_refused_exactly_if_parsing_it_whole_refuses_it(rows, changes, window):
    body = bytearray(json.dumps({"rows": rows}, separators=(",", ":")).encode())
    for at, dropped, byte in changes:
        at %= len(body) + 1  # noqa: PLW2901
        body[at : at + dropped] = bytes([byte])
    check(bytes(body), _window_bytes=window)


@given(st.lists(st.sampled_from([b"{", b"}", b"[", b"]", b",", b"{}", b'"a":', b"1"])), windows)
@example([b"{}", b",", b"{}", b"]", b",", b"[", b"{}", b",", b"{}"], 10)
@example([b"{}", b"]", b"]", b",", b"[", b"[", b"{}", b",", b"{}"], 10)
def test_no_arrangement_of_brackets_passes_for_rows(tokens, window):
    check(b'{"rows":[%b]}' % b"".join(tokens), _window_bytes=window)


@pytest.mark.parametrize(
    "member",
    [
        *(b"1.5", b"1e5", b"-1", b"-Infinity", b"Infinity", b"NaN", b"true", b"null", b"-0", b"01"),
        *(b"1.", b"-", b".5", b"1e", b"+1", b"-NaN", b"Inf", b"nan", b"tru", b"truex", b"1x", b""),
        *(b'"\\ud83d\\ude00"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u12"', b'"\\x"', b'"a\0b"'),
        *(b'"\\u0000"', "é😀".encode(), '"é😀"'.encode(), b'"\xff"', b'"\xed\xa0\x80"', b'"\xc3"'),
        *(
            b"{1:2}",
            b'{"a"}',
            b'{"a":1,}',
            b"[1,]",
            b'{"a":1,"a":2}',
            b"{},",
            b"{} {}",
            b"{}]",
            b"]",
        ),
        *(b"9" * 4300, b"9" * 4301, b"1e400", b"1.7976931348623159e308", b"1" * 310 + b".5"),
    ],
)
@pytest.mark.parametrize("body", [b'{"rows":[%b]}', b'{"rows":[{},%b,{"a":"b"}, 1]}\n'])
def test_windows_that_end_anywhere_find_the_same(body, member):
    body %= member
    for window in (*range(1, min(len(body) + 2, 60)), 1000):
        check(body, _window_bytes=window)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"5", b"[]", b"{}", b"null", b'{"rows":{}}', b'{"rows":null}', b'{"rows":[]}'),
        *(b'{"rows":[{}],"more":1}', b'{"more":1,"rows":[{}]}', b'{"rows":[],"rows":[{}]}'),
        *(
            b'\xef\xbb\xbf{"rows":[{}]}',
            b'{"rows":[{}]}x',
            b'{"rows":[{}]}\0',
            b'{"rows":[{}]',
            b"\xff",
        ),
        *(
            b'{"row":[{}]}',
            b'{"r\\u006fws" : [ {} ] } ',
            b'{"\\x":[]}',
            b"{'rows':[]}",
            b"{rows:[{}]}",
        ),
    ],
)
def test_only_an_object_of_rows_alone_is_taken(body):
    check(body)


def test_names_that_come_twice_end_as_when_parsed_whole():
    [row] = drained(b'{"rows":[{"b":1,"a":1,"b":2}]}')
    assert list(row.items()) == [("b", 2), ("a", 1)]


@pytest.mark.parametrize("depth", range(195, 205))
@pytest.mark.parametrize(("opens", "closes"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("rest", [b"", b",{},{}"])
def test_nesting_is_bounded_where_parsing_the_whole_body_bounds_it(depth, opens, closes, rest):
    body = b'{"rows":[%b1%b%b]}' % (opens * depth, closes * depth, rest)
    check(body)
    check(body, _window_bytes=10)


def test_what_nests_without_end_is_refused_and_not_followed():
    for opens in (b"[", b'{"a":'):
        with pytest.raises(InvalidRows, match=r"rows\[1\] at byte 12: .* nested too deeply"):
            drained(b'{"rows":[{},' + opens * 100_000)


@pytest.mark.parametrize(
    "literal", ["1e400", "-1E999", "1e+0400", "1" * 310 + ".0", "1" * 250 + "e99", "-1.8e308"]
)
def test_a_number_beyond_a_float_stays_as_written_and_its_neighbours_are_numbers(literal):
    body = b'{"rows":[{"a":%b,"b":1.5,"c":Infinity},{"a":1}]}' % literal.encode()
    first, second = drained(body)
    assert isinstance(first["a"], Unrepresentable)
    assert literal.startswith(first["a"])
    assert len(first["a"]) <= 40
    assert (first["b"], first["c"], second) == (1.5, math.inf, {"a": 1})


def test_very_many_numbers_beyond_a_float_in_one_row_are_refused_at_once():
    row = b'{"a":[%b1.5]}'
    fitting = row % (b"1e400," * 1_000)
    assert len(drained(b'{"rows":[%b,%b]}' % (fitting, fitting))) == 2
    with pytest.raises(InvalidRows, match=r"rows\[1\] .* over 1000 numbers beyond"):
        drained(b'{"rows":[%b,%b]}' % (fitting, row % (b"1e400," * 1_001)))


@given(st.floats(1e290, allow_infinity=False), st.sampled_from(["{:e}", "{:E}", "{:f}", "{!r}"]))
def test_the_largest_floats_are_numbers_in_any_notation(number, notation):
    literal = notation.format(number)
    [row] = drained(b'{"rows":[%b]}' % literal.encode())
    assert row == float(literal) or row == Unrepresentable(literal[:40])
    assert isinstance(row, float) == math.isfinite(float(literal))


def test_errors_name_the_row_its_byte_the_cause_and_the_remedy():
    rows = b",".join([GOOD] * 500)
    body = b'{"rows":[%b,{"a":1,"b" 2},%b]}' % (rows, rows)
    at = body.index(b" 2}")
    with pytest.raises(InvalidRows, match=rf"rows\[500\].*':' delimiter at byte {at + 1}: send"):
        drained(body)


def test_a_lone_surrogate_is_refused_by_the_number_of_its_row():
    with pytest.raises(InvalidRows, match=r"rows\[2\] at byte 15: .*surrogate"):
        drained(b'{"rows":[{},{},{"experiment":"\\udc00\\ud800"},{}]}')


def test_a_row_of_the_largest_size_is_taken_and_one_that_is_longer_is_not():
    def body(size, rest):
        return b'{"rows":[{},{"a":"%b"}%b' % (b"x" * (size - len('{"a":""}')), rest)

    for rest in (b"]}", b" ,{}]}", b",{}" * 1000 + b"]}"):
        assert len(drained(body(MAX_ROW_BYTES, rest))[1]["a"]) == MAX_ROW_BYTES - 8
        with pytest.raises(RowTooLarge, match=r"rows\[1\] at byte 12 is longer than 262144 bytes"):
            drained(body(MAX_ROW_BYTES + 1, rest))


@pytest.mark.parametrize(
    "long",
    [b'"' + b"x" * 500, b"[" + b"1," * 250, b"1" * 500, b"0." + b"1" * 500, b'"' + b"\\n" * 250],
)
def test_a_row_without_an_end_is_too_large_and_not_malformed(long):
    body = b'{"rows":[%b' % long + b"1" * 1000
    with pytest.raises(RowTooLarge):
        drained(body, _window_bytes=7, _max_row_bytes=300)


def test_a_malformed_row_is_not_called_too_large_in_a_long_body():
    with pytest.raises(InvalidRows, match="at byte 12: send") as caught:
        drained(b'{"rows":[[1 2' + b" " * 1000, _window_bytes=7, _max_row_bytes=300)
    assert type(caught.value) is InvalidRows


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'{"a":0},', b"[" * 150 + b"]" * 150 + b","])
def test_a_row_of_very_many_containers_is_refused_and_many_such_rows_are_taken(unit):
    brackets = unit.count(b"[") + unit.count(b"{")
    fitting = b"[%b1]" % (unit * ((BRACKETS - 1) // brackets))
    row = drained(b'{"rows":[%b,%b]}' % (fitting, fitting))[0]
    assert len(row) == 1 + (BRACKETS - 1) // brackets
    with pytest.raises(RowTooLarge, match="over 20000 brackets"):
        drained(b'{"rows":[[%b%b1]]}' % (unit * (BRACKETS // brackets), unit))
    large = b'"%b",' % (b"x" * 200_000)
    many = 3 * BRACKETS // brackets
    assert len(drained(b'{"rows":[%b%b1]}' % (large, unit * many))) == many + 2


class Counted:
    """Counts the bytes that are parsed between two items of decode_rows."""

    def __init__(self, monkeypatch):
        self.bytes = self.worst = self.total = 0
        for name in ("from_json", "_find_end"):
            monkeypatch.setattr(f"schemas.json_rows.{name}", self._counting(name))

    def _counting(self, name):
        parse = getattr(json_rows, name)

        def counting(text, at=0, **options):
            try:
                result = parse(text, at) if at else parse(text, **options)
            except Exception:
                self.bytes += len(text) - at
                raise
            self.bytes += result[1] - at if name == "_find_end" else len(text)
            return result

        return counting

    def drain(self, body):
        items = decode_rows(body)
        count = 0
        while True:
            self.bytes = 0
            try:
                count += next(items) is not PAUSE
            except (StopIteration, InvalidRows):
                return count
            finally:
                self.worst = max(self.worst, self.bytes)
                self.total += self.bytes


ROW = 250_000
FLOODS = {
    "empty rows": b"{}," * 200_000,
    "numbers": b"1," * 30_000,
    "lists": b"[]," * 30_000,
    "rows that look like borders": b'{"a":"},{"},' * 30_000,
    "rows of several rows": b"[{},{}]," * 30_000,
    "large rows": b'{"a":[%b1]},' % (b"1," * (ROW // 2)) * 8,
    "large and small rows": b'1,{"a":"%b"},' % (b"a" * ROW) * 8,
    "a large row, then small ones": b'{"a":"%b"},' % (b"a" * ROW) + b"{}," * 30_000,
    "a large row, then false borders": b'{"a":"%b"},' % (b"a" * ROW) + b"[{},{}]," * 30_000,
    "a number beyond a float": b'{"a":[%b1e400]},' % (b"1.5," * (ROW // 5)) * 8,
    "blanks": b"1" + b" " * 2_000_000 + b",",
    "blanks between rows": (b"{}" + b" " * 300_000 + b",") * 6,
    "escapes": b'{"a":"%b"},' % (b"\\n" * (ROW // 2)) * 8,
    "borders in a string": b'"%b",' % (b"} , {%50b" % b"" * (ROW // 60)) * 8,
    "digits": b"1" * 199 + b"," + (b"1" * 199 + b",") * 10_000,
}


@pytest.mark.parametrize("kind", FLOODS)
def test_work_between_two_items_is_bounded_and_all_work_grows_with_the_body(monkeypatch, kind):
    counted = Counted(monkeypatch)
    body = b'{"rows":[%b1]}' % FLOODS[kind]
    assert counted.drain(body) == len(expected(body))
    assert counted.worst <= 2 * MAX_ROW_BYTES + 100
    assert counted.total <= 6 * len(body)


@pytest.mark.parametrize(
    "body",
    [
        b" " * 2_000_000,
        b'{"rows":[' + b"1 " + b" " * 2_000_000 + b"]}",
        b'{"rows":["' + b"a" * 10**6,
    ],
)
def test_long_stretches_without_a_row_give_the_caller_its_turn(body):
    turns = 0
    try:
        for item in decode_rows(body):
            turns += item is PAUSE
    except InvalidRows:
        pass
    assert len(body) // MAX_ROW_BYTES <= turns < 20
