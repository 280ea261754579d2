from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.views import StepsView, WallView
from schemas.line_protocol.bounds import MAX_STEP
from schemas.line_protocol.codec import Line, Refused, encode, encode_string, parse
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block

VOLATILE = ("node", "host", "pod", "slurm_job_id")


def block(*lines, precision=Precision.NS, multiline=False):
    return Block(
        "vision", "stepclock", precision, len(lines), 0, b"\n".join(lines), multiline=multiline
    )


def steps(*lines, retention_class="raw", **kwargs):
    view = StepsView(VOLATILE, **kwargs)
    multiline = any(b"\n" in line for line in lines)
    return view.render(block(*lines, multiline=multiline), retention_class, Precision.MS)


def reference(line, only=None):
    """Parse, swap, encode."""
    parsed = parse(line)
    token = dict(parsed.fields).get(b"step")
    if token is None or (only is not None and parsed.measurement != only):
        return None
    tags = tuple(t for t in parsed.tags if t[0].decode() not in VOLATILE)
    return encode(replace(parsed, tags=tags, time=int(token[:-1])))


# -- wall ---------------------------------------------------------------------------------


def test_wall_sends_lines_of_one_precision_as_they_are():
    view, found = WallView(), block(b"m f=1 1", b"m f=2 2", precision=Precision.MS)
    assert view.precision([found, found]) is Precision.MS
    assert view.render(found, "raw", Precision.MS) is found.lines


def test_wall_scales_mixed_precisions_to_ns_by_appending_zeros():
    view = WallView()
    found = [
        block(b"m f=1 1", b"m f=2 -2", precision=p)
        for p in (Precision.S, Precision.MS, Precision.US, Precision.NS)
    ]
    assert view.precision(found) is Precision.NS
    assert [view.render(one, "raw", Precision.NS) for one in found] == [
        b"m f=1 1000000000\nm f=2 -2000000000",
        b"m f=1 1000000\nm f=2 -2000000",
        b"m f=1 1000\nm f=2 -2000",
        b"m f=1 1\nm f=2 -2",
    ]


def test_wall_never_splits_a_string_that_holds_a_newline():
    found = block(b'm s="a\nb" 1', b"m f=1 2", precision=Precision.S, multiline=True)
    assert WallView().render(found, "raw", Precision.NS) == (
        b'm s="a\nb" 1000000000\nm f=1 2000000000'
    )
    assert [line.original for line in WallView().lines(found, "raw", Precision.NS)] == [
        b'm s="a\nb" 1',
        b"m f=1 2",
    ]


def test_wall_names_each_line_with_what_is_sent():
    found = list(WallView().lines(block(b"m f=1 1", precision=Precision.S), "raw", Precision.NS))
    assert [(line.number, line.original, line.sent) for line in found] == [
        (1, b"m f=1 1", b"m f=1 1000000000")
    ]


# -- steps --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"m,run=a loss=1,step=7i 99", b"m,run=a loss=1,step=7i 7"),
        (b"m,run=a step=7i,loss=1 99", b"m,run=a step=7i,loss=1 7"),
        (b"m,run=a step=7i 99", b"m,run=a step=7i 7"),
        (b"m step=0i 99", b"m step=0i 0"),
        (b"m step=007i 99", b"m step=007i 7"),
        (b"m step=%di 99" % MAX_STEP, b"m step=%di %d" % (MAX_STEP, MAX_STEP)),
        # no step of its own
        (b"m,run=a loss=1 99", b""),
        (b"m,run=a laststep=1i 99", b""),
        (b"m,run=a last_step=1i,loss=1 99", b""),
        (b"m,step=3 loss=1 99", b""),
        # volatile tags
        (b"m,host=n1,run=a,pod=p step=7i 99", b"m,run=a step=7i 7"),
        (b"m,hostname=n1,run=a step=7i 99", b"m,hostname=n1,run=a step=7i 7"),
        # strings that look like steps
        (b'm,run=a s=",step=1i ",loss=1 99', b""),
        (b'm,run=a s=",step=1i ",step=8i 99', b'm,run=a s=",step=1i ",step=8i 8'),
        (b'm,run=a step=8i,s="x,step=9i" 99', b'm,run=a step=8i,s="x,step=9i" 8'),
        # several spaces
        (b"m,run=a  step=7i  99", b"m,run=a step=7i 7"),
        (b"m,run=a  loss=1,step=7i 99 ", b"m,run=a loss=1,step=7i 7"),
        # escapes
        (b"m\\ x,host=a\\,b,run=a\\ b step=7i 99", b"m\\ x,run=a\\ b step=7i 7"),
    ],
)
def test_steps_shows_lines_with_a_step_at_that_step(line, shown):
    assert steps(line) == shown
    assert (reference(line) or b"") == shown


@pytest.mark.parametrize(
    "odd",
    [
        b"m,run=a loss=1,step=7i -99",
        b"m,host=n1,run=a loss=1,host=3,step=7i 99",
        b"m,run=a loss=1,step=007i 99",
        b"m,run=a loss=1,step=0i 99",
        b"m,run=a loss=1,step=%di 99" % MAX_STEP,
        b"m,run=a step=7i 99",
        b"m,run=a loss=1 99",
        b"m,step=5i loss=1 99",
        b"m,step=5i loss=1,step=7i 99",
        b"m,run=a  loss=1,step=7i 99",
        b"m,run=a loss=1,step=7i 99 ",
        b'm,run=a s="x,step=9i 99",step=7i 99',
    ],
)
def test_steps_shows_many_lines_as_it_shows_each_of_them(odd):
    usual = [b"m,run=a loss=0.5,step=%di 1700000000" % n for n in (1, 20, 300)]
    for place in range(4):
        found = [*usual[:place], odd, *usual[place:]]
        assert steps(*found) == b"\n".join(filter(None, map(reference, found)))


def test_steps_shows_a_string_that_holds_a_newline():
    line = b'm,run=a s="a\nb,step=1i 5",step=3i 99'
    assert steps(line, b"m step=4i 9") == b'm,run=a s="a\nb,step=1i 5",step=3i 3\nm step=4i 4'


def test_steps_shows_only_nonfinite_of_events():
    found = steps(
        b"nonfinite,run=a count=1,step=7i 9",
        b"nonfinite count=1,step=8i 9",
        b"checkpoint,run=a size=1,step=7i 9",
        b"nonfinites,run=a count=1,step=7i 9",
        b'run_config,run=a value=",step=1i " 9',
        retention_class="events",
    )
    assert found == b"nonfinite,run=a count=1,step=7i 7\nnonfinite count=1,step=8i 8"


def test_steps_has_no_place_for_other_classes():
    view = StepsView(VOLATILE)
    assert view.target("system") is None
    assert view.target("raw") == view.target("events") == "steps"


@pytest.mark.parametrize("token", [b"1.5", b"-1i", b"7u", b"%di" % (MAX_STEP + 1), b'"7"', b"t"])
def test_a_step_that_is_no_step_is_refused_and_never_left_out_in_silence(token):
    view = StepsView(VOLATILE)
    found = block(b"m step=1i 9", b"m step=%b 9" % token)
    with pytest.raises(Refused, match="step is not an integer"):
        view.render(found, "raw", Precision.MS)
    good, bad = view.lines(found, "raw", Precision.MS)
    assert (good.sent, good.refused) == (b"m step=1i 1", None)
    assert bad.original == b"m step=%b 9" % token
    assert bad.refused.startswith("column 3: step is not")


def test_the_cache_of_series_is_bounded():
    view = StepsView(VOLATILE, max_series=10)
    found = block(*(b"m,run=r%d step=1i 9" % n for n in range(100)))
    assert view.render(found, "raw", Precision.MS).count(b"\n") == 99
    assert len(view._series) <= 10


NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=6
) | st.sampled_from(["step", "run", "host", "pod", "nonfinite", ",step=1i ", "a b", "x=y"])
NUMBERS = st.sampled_from([b"1", b"0.5", b"-1e3", b"3i", b"t", b"7u"])
STRINGS = st.text(max_size=8).map(encode_string) | st.just(b'",step=1i "')
STEPS = st.integers(0, MAX_STEP).map(lambda n: b"%di" % n)


@st.composite
def admitted_lines(draw):
    fields = draw(st.dictionaries(NAMES, NUMBERS | STRINGS, max_size=4))
    fields.pop("step", None)
    rows = [(name.encode(), token) for name, token in fields.items()]
    if draw(st.booleans()) or not rows:
        rows.insert(draw(st.integers(0, len(rows))), (b"step", draw(STEPS)))
    tags = draw(st.dictionaries(NAMES, NAMES, max_size=4))
    line = Line(
        draw(NAMES).encode(),
        tuple((k.encode(), v.encode()) for k, v in tags.items()),
        tuple(rows),
        draw(st.integers(-(2**62), 2**62)),
    )
    try:
        text = encode(line)
        parse(text)
    except (ValueError, Refused):
        text = b"m,run=a loss=1,step=%di 5" % draw(st.integers(0, 99))
    if draw(st.integers(0, 9)) == 0:
        text = text.replace(b" ", b"  ", 1) if b'"' not in text and b"\\" not in text else text
    return text


@settings(max_examples=500)
@given(st.lists(admitted_lines(), min_size=1, max_size=6), st.sampled_from(["raw", "events"]))
def test_the_step_clock_equals_parse_swap_encode_for_every_admitted_line(found, retention_class):
    only = b"nonfinite" if retention_class == "events" else None
    expected = [shown for line in found if (shown := reference(line, only)) is not None]
    assert steps(*found, retention_class=retention_class) == b"\n".join(expected)
    view = StepsView(VOLATILE)
    multiline = any(b"\n" in line for line in found)
    one_by_one = view.lines(block(*found, multiline=multiline), retention_class, Precision.MS)
    assert [line.sent for line in one_by_one] == expected
