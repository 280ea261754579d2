import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.line_protocol.codec import field_value, parse
from schemas.metrics_row import MetricsRow, encode_row

GOOD = {"experiment": "e", "run": "r", "step": 1, "values": {"a": 1.0}}

odd_text = st.text(st.sampled_from(string.ascii_letters + ' ,="\\#!~\n\té\u2028\ud800'), max_size=8)
values = st.dictionaries(
    odd_text,
    st.one_of(
        st.floats(), st.integers(), st.booleans(), odd_text, st.none(), st.just("NaN"), st.just([1])
    ),
    max_size=4,
)
rows = st.fixed_dictionaries(
    {
        "experiment": odd_text,
        "run": odd_text,
        "step": st.integers(-5, 10**13),
        "values": values,
        "tags": st.dictionaries(odd_text, odd_text, max_size=3),
    },
    optional={"rank": st.integers(-1, 8), "attempt": st.integers(-1, 3)},
)


@given(rows)
def test_any_row_is_refused_by_name_or_becomes_lines_that_say_the_same(data):
    try:
        row = MetricsRow.model_validate(data)
    except ValidationError:
        return
    encoded = encode_row(row)
    line = parse(encoded.line)
    assert line.measurement.decode() == row.experiment
    tags = {key.decode(): value.decode() for key, value in line.tags}
    assert tags["run"] == row.run
    fields = {key.decode(): field_value(token) for key, token in line.fields}
    assert fields.pop("step") == row.step
    refused = {field for field, reason in encoded.rejected if reason}
    events = [dict(parse(event).tags) for event in encoded.events]
    for metric, value in row.values.items():
        if f"values.{metric}" in refused:
            assert metric not in fields
        elif metric in fields:
            assert fields[metric] == float(value)
        else:
            [event] = [e for e in events if e[b"metric"].decode() == metric]
            assert event[b"kind"].decode() in {"nan", "inf", "-inf"}
            assert not math.isfinite(float(value))


@pytest.mark.parametrize("name", ["", "a\\", "a\\ b", "a\nb", "a#!~b", "x" * 1025])
def test_names_that_no_line_can_carry_are_refused(name):
    for change in ({"experiment": name}, {"run": name}, {"tags": {name: "x"}}):
        with pytest.raises(ValidationError):
            MetricsRow.model_validate(GOOD | change)


def test_a_metric_that_no_line_can_carry_is_refused_and_its_neighbours_are_not():
    row = MetricsRow.model_validate(GOOD | {"values": {"a\\ b": 1, "": 2, "ok": 3}})
    encoded = encode_row(row)
    assert encoded.line == b"e,run=r ok=3.0,step=1i"
    assert [field for field, _ in encoded.rejected] == ["values.a\\ b", "values."]


def test_numbers_beyond_a_float_are_refused_by_name():
    encoded = encode_row(MetricsRow.model_validate(GOOD | {"values": {"a": 10**400}}))
    assert encoded.rejected[0][0] == "values.a"


def test_a_free_tag_can_not_take_the_place_of_an_identity():
    encoded = encode_row(MetricsRow.model_validate(GOOD | {"tags": {"run": "x", "node": "n"}}))
    assert encoded.line == b"e,run=r,node=n a=1.0,step=1i"
    assert encoded.rejected[0][0] == "tags.run"
