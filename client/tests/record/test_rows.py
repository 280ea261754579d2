import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepclock.identity import Identity
from stepclock.record.rows import MAX_NAMES, MAX_STEP, RowEncoder

WHO = Identity("resnet50", "r1", 0, 0)
PREFIX = "resnet50,attempt=0,rank=0,run=r1 "


class Encoder(RowEncoder):
    """Remembers what is told, and gives all lines at once."""

    def __init__(self, identity=WHO, tags=None):
        self.told = []
        super().__init__(identity, tags or {}, lambda name, why: self.told.append((name, why)))

    def log(self, values, step=None, time_ns=1000, *, exact=False):
        return self.add(time_ns, step, values, exact=exact)

    def lines(self):
        raw, events = [], []
        for raw_lines, event_lines in self.take():
            raw += raw_lines
            events += event_lines
        return raw, events


def encoded(values, step=1):
    encoder = Encoder()
    encoder.log(values, step)
    return encoder.lines()[0]


def test_one_line_holds_all_metrics_of_a_step():
    assert encoded({"loss": 0.5, "lr": 1e-05}, step=7) == [
        f"{PREFIX}loss=0.5,lr=1e-05,step=7i 1000"
    ]


def test_nested_names_are_joined_by_a_slash():
    assert encoded({"train": {"loss": 1.0, "acc": {"top1": 0.5}}}) == [
        f"{PREFIX}train/loss=1.0,train/acc/top1=0.5,step=1i 1000"
    ]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (3, "3.0"),
        (True, "1.0"),
        (np.float32(0.5), "0.5"),
        (np.float64(0.1), "0.1"),
        (np.int64(-4), "-4.0"),
        (np.array(2.5), "2.5"),
        (np.array([2.5]), "2.5"),
        (np.bool_(True), "1.0"),
        (10**300, "1e+300"),
    ],
)
def test_numbers_of_any_kind_become_floats(value, written):
    assert encoded({"x": value}) == [f"{PREFIX}x={written},step=1i 1000"]


@pytest.mark.parametrize("value", ["text", None, [1, 2], np.zeros(3), object(), 10**400, 1j])
def test_what_is_no_number_is_left_out_and_told_once(value):
    encoder = Encoder()
    for step in range(3):
        encoder.log({"bad": value, "good": 1}, step)
    raw, _ = encoder.lines()
    assert [line.split(" ")[1] for line in raw] == [f"good=1.0,step={n}i" for n in range(3)]
    assert [name for name, _ in encoder.told] == ["bad"]
    assert encoder.ignored == 3


def test_an_object_that_raises_when_it_is_read_costs_itself_only():
    class Sly:
        def __float__(self):
            raise RuntimeError("no")

    class Nameless:
        def __str__(self):
            raise RuntimeError("no")

    encoder = Encoder()
    encoder.log({"a": Sly(), "b": 1}, 1)
    encoder.log({Nameless(): 1.0}, 2)
    encoder.log({"c": 1}, 3)
    raw, _ = encoder.lines()
    assert [line.split(" ")[1] for line in raw] == ["b=1.0,step=1i", "c=1.0,step=3i"]
    assert encoder.failed == 1


def test_nan_and_infinities_are_lines_of_nonfinite_and_the_step_stays():
    encoder = Encoder()
    encoder.log({"a": math.nan, "b": -math.inf, "c": math.inf}, 5)
    raw, events = encoder.lines()
    assert raw == [f"{PREFIX}step=5i 1000"]
    about = "nonfinite,attempt=0,experiment=resnet50,kind={},metric={},rank=0,run=r1 "
    assert events == [
        about.format(kind, name) + "count=1,step=5i 1000"
        for name, kind in [("a", "nan"), ("b", "-inf"), ("c", "inf")]
    ]


def test_two_logs_of_one_step_are_one_point_and_the_last_value_wins():
    encoder = Encoder()
    encoder.log({"a": 1, "train": {"loss": 1}}, 5, 1000)
    encoder.log({"a": 2, "train": {"acc": 3}}, 5, 2000)
    assert encoder.lines()[0] == [f"{PREFIX}a=2.0,train/loss=1.0,train/acc=3.0,step=5i 1000"]
    encoder.log({"b": 1}, 6, 3000)
    encoder.log({"late": 1}, 5, 4000)  # in another turn: the same time makes it the same point
    assert encoder.lines()[0] == [
        f"{PREFIX}b=1.0,step=6i 3000",
        f"{PREFIX}late=1.0,step=5i 1000",
    ]


values = st.floats() | st.sampled_from([1e308, -1e308, 1, True, None, np.float64(0.1)])
names = st.sampled_from(["a", "b", "c=d, e", "step", "", "a/x", 7]) | st.text(max_size=5)


@given(st.lists(st.dictionaries(names, values, max_size=5), max_size=6))
def test_a_row_makes_the_same_lines_whether_its_names_are_known_or_it_is_logged_in_two_parts(rows):
    whole, parted = Encoder(), Encoder()
    for step, row in enumerate(rows):
        whole.log(row, step)
        half = dict(list(row.items())[: len(row) // 2])
        parted.log(half, step)
        parted.log({name: row[name] for name in row if name not in half}, step)
    assert whole.lines() == parted.lines()
    assert (whole.told, whole.ignored) == (parted.told, parted.ignored)


def test_a_name_that_comes_about_in_two_ways_is_there_once():
    assert encoded({"a/b": 1, "a": {"b": 2}}) == [f"{PREFIX}a/b=2.0,step=1i 1000"]


def test_a_time_of_the_callers_own_is_kept():
    encoder = Encoder()
    encoder.log({"a": 1}, 1, 5000, exact=True)
    encoder.log({"a": 1}, 1, 4000, exact=True)
    assert [line.rsplit(" ", 1)[1] for line in encoder.lines()[0]] == ["5000", "4000"]


def test_a_missing_step_is_the_one_behind_the_largest():
    encoder = Encoder()
    for step in (None, None, 10, None, 3, None):
        encoder.log({"a": 1}, step)
    steps = [line.split("step=")[1].split("i")[0] for line in encoder.lines()[0]]
    assert steps == ["0", "1", "10", "11", "3", "12"]
    assert (encoder.first_step, encoder.last_step) == (0, 12)


@pytest.mark.parametrize("step", [-1, MAX_STEP + 1, 1.5, "x", math.nan, [1]])
def test_a_step_that_can_not_be_costs_its_row_only(step):
    encoder = Encoder()
    assert not encoder.log({"a": 1}, step)
    assert encoder.log({"a": 1}, 1)
    assert len(encoder.lines()[0]) == 1
    assert encoder.told[0][0] == "step"


@pytest.mark.parametrize("step", [3.0, np.int32(3), np.float64(3.0), np.array(3)])
def test_a_step_may_be_any_whole_number(step):
    assert encoded({"a": 1}, step) == [f"{PREFIX}a=1.0,step=3i 1000"]


def test_no_two_steps_share_a_time_however_the_clock_goes():
    encoder = Encoder()
    second = 10**9
    hour = 3600 * second
    times = [hour, hour, hour - second, hour + 1, 2 * hour, second, second + 5]
    for step, time_ns in enumerate(times):
        encoder.log({"a": 1}, step, time_ns)
    written = [int(line.rsplit(" ", 1)[1]) for line in encoder.lines()[0]]
    # Back by a second: waited out. Back by two hours: followed.
    assert written == [hour, hour + 1, hour + 2, hour + 3, 2 * hour, second, second + 5]


def test_a_name_is_told_once_when_it_is_too_long_empty_or_reserved():
    encoder = Encoder()
    for step in range(2):
        encoder.log({"n" * 251: 1, "": 1, "step": 1, "time": 2, "n" * 250: 1}, step)
    raw, _ = encoder.lines()
    assert [line.split(" ")[1].count("=") for line in raw] == [2, 2]
    assert len(encoder.told) == 4


def test_names_are_escaped_and_cleaned_and_never_fall_together():
    encoder = Encoder()
    encoder.log({"a b,c=d": 1, "x\\y": 2, "x_y": 3, "é\n#!~": 4}, 1)
    assert encoder.lines()[0] == [f"{PREFIX}a\\ b\\,c\\=d=1.0,x_y=2.0,é__=4.0,step=1i 1000"]
    assert [name for name, _ in encoder.told] == ["x_y"]


def test_names_beyond_ten_thousand_are_left_out_and_told_once():
    encoder = Encoder()
    encoder.log({f"n{number}": 1 for number in range(MAX_NAMES + 50)}, 1)
    raw, _ = encoder.lines()
    assert sum(line.count("=1.0") for line in raw) == MAX_NAMES
    assert encoder.ignored == 50
    assert len(encoder.told) == 1


def test_a_row_that_is_too_wide_for_a_line_becomes_several_of_one_point():
    encoder = Encoder()
    encoder.log({f"{'n' * 240}{number}": 1 for number in range(1000)}, 1)
    raw, _ = encoder.lines()
    assert 1 < len(raw) < 10
    assert max(map(len, raw)) < 256 * 1024
    assert {line.rsplit(",", 1)[1] for line in raw} == {"step=1i 1000"}
    assert sum(line.count("=1.0") for line in raw) == 1000


def test_free_tags_stand_in_every_line():
    encoder = Encoder(tags={"team": "vision", "empty": ""})
    encoder.log({"a": 1, "b": math.nan}, 1)
    raw, events = encoder.lines()
    assert raw == ["resnet50,attempt=0,rank=0,run=r1,team=vision a=1.0,step=1i 1000"]
    assert ",team=vision" in events[0]


def test_the_memory_for_times_of_steps_is_bounded():
    encoder = Encoder()
    for step in range(20_000):
        encoder.log({"a": 1}, step, step + 1)
    assert len(encoder.lines()[0]) == 20_000
    assert len(encoder._times) <= 16_384
