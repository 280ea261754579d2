"""What of a record is written again, by view, namespace, experiment and run."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.batches.batch import PlacedBlock
from consumers.records.selection import Selection
from consumers.writing.deliveries import delivery_lines
from schemas.line_protocol.codec import Line, encode
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block, Delivery, encode_headers
from schemas.log.protocols import Record
from tests.fakes.worker_rig import EVENTS, RAW, line, lines

START_NS = 1_700_000_000 * 10**9


def record_of(text: bytes, *, topic: str = RAW, offset: int = 3, **changes: object) -> Record:
    fields = {"points": text.count(b"\n") + 1, "lines": text, "namespace": "lab"} | changes
    block = Block(tenant="vision", precision=Precision.NS, received_ns=7, **fields)  # type: ignore[arg-type]  # keywords of a test
    return Record(topic, 0, offset, block.lines, encode_headers(block), 9)


def chosen(selection: Selection, record: Record) -> Block | None:
    placed = selection(record).placed
    return None if placed is None else placed.block


def lines_of(selection: Selection, text: bytes, **changes: object) -> list[bytes]:
    block = chosen(selection, record_of(text, **changes))  # type: ignore[arg-type]  # keywords of a test
    if block is None:
        return []
    assert block.points == block.lines.count(b"\n") + 1
    return block.lines.split(b"\n")


def request(sequence: int, first: int, points: int) -> Delivery:
    return Delivery("s1", sequence, START_NS, "resnet", "a", 0, 1, first, points)


def test_without_a_choice_blocks_are_as_workers_read_them():
    record = record_of(lines(1, 2), deliveries=(request(0, 0, 2),))
    block = chosen(Selection(), record)
    assert (block.lines, block.points, block.deliveries) == (lines(1, 2), 2, (request(0, 0, 2),))


def test_other_namespaces_are_left_out():
    selection = Selection(namespaces=["lab"])
    assert lines_of(selection, line(1)) == [line(1)]
    assert lines_of(selection, line(1), namespace="other") == []


def test_a_block_that_is_for_another_view_is_left_out_and_not_refused():
    intake = Selection(["steps"])(record_of(line(1), view="wall"))
    assert (intake.placed, intake.refused) == (None, ())
    assert lines_of(Selection(["steps"]), line(1), view="steps") == [line(1)]


def test_lines_of_other_runs_are_left_out():
    text = b"\n".join([line(1), line(1, run="b"), line(2)])
    assert lines_of(Selection(runs=["a"]), text) == [line(1), line(2)]
    assert lines_of(Selection(runs=["b", "c"]), text) == [line(1, run="b")]
    assert lines_of(Selection(runs=["c"]), text) == []


def test_class_events_names_the_experiment_in_a_tag():
    selection = Selection(experiments=["resnet"], runs=["a"])
    ours = b"nonfinite,experiment=resnet,run=a count=1,step=7i 7"
    others = b"nonfinite,experiment=vit,run=a count=1,step=7i 7"
    own_name = b"resnet,run=a f=1 7"
    text = b"\n".join([ours, others, own_name, b"run_state,run=a f=1 7"])
    assert lines_of(selection, text, topic=EVENTS) == [ours, own_name]


@pytest.mark.parametrize("name", ["a b", "a,b", "a=b", "größe", "a\\c"])
def test_names_are_compared_as_they_are_meant(name):
    ours = encode(Line(name.encode(), ((b"run", name.encode()),), ((b"f", b"1"),), 7))
    assert lines_of(Selection(experiments=[name], runs=[name]), ours) == [ours]
    assert lines_of(Selection(experiments=[name], runs=["r"]), ours) == []


def test_a_line_that_begins_with_a_space_has_its_series_all_the_same():
    assert lines_of(Selection(runs=["a"]), b" " + line(1)) == [b" " + line(1)]


def test_a_string_with_a_newline_is_part_of_its_line():
    text = line(1) + b'\nresnet,run=b text="x\nresnet,run=a f=1 7" 7\n' + line(2)
    block = chosen(Selection(runs=["a"]), record_of(text, multiline=True, points=3))
    assert block.lines == line(1) + b"\n" + line(2)
    assert block.points == 2


def test_lines_that_are_to_be_left_out_are_counted_and_only_in_their_record():
    selection = Selection(without={(RAW, 0, 3): [line(2)]})
    assert lines_of(selection, lines(1, 2), offset=3) == [line(1)]
    assert lines_of(selection, lines(1, 2), offset=4) == [line(1), line(2)]
    assert selection.left_out == 1


def test_with_one_view_nothing_is_said_about_deliveries():
    record = record_of(line(1), deliveries=(request(0, 0, 1),))
    assert chosen(Selection(["steps"]), record).deliveries == ()
    assert chosen(Selection(["wall"]), record).deliveries == ()


@given(runs=st.lists(st.sampled_from("ab"), min_size=1, max_size=12), data=st.data())
def test_deliveries_that_are_kept_say_what_they_would_say_of_the_whole_block(runs, data):
    texts = [line(n, run=run) for n, run in enumerate(runs)]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(texts)))) | {0, len(texts)})
    requests = tuple(request(n, a, b - a) for n, (a, b) in enumerate(pairwise(cuts)))
    record = record_of(b"\n".join(texts), deliveries=requests)
    whole = [one for one in requests if set(runs[one.first : one.first + one.points]) == {"a"}]
    block = chosen(Selection(runs=["a"]), record)
    if block is None:
        assert not whole
        return
    assert [one.sequence for one in block.deliveries] == [one.sequence for one in whole]
    original = chosen(Selection(), record)
    said = list(delivery_lines(PlacedBlock(block, record.topic_partition, 3, 1), ()))
    expected = replace(original, deliveries=tuple(whole))
    assert said == list(delivery_lines(PlacedBlock(expected, record.topic_partition, 3, 1), ()))


def test_what_no_gateway_wrote_is_chosen_by_its_lines_and_its_namespace():
    record = Record(RAW, 0, 3, line(1) + b"\n" + line(1, run="b") + b"\nbad", (), 9)
    intake = Selection(runs=["a"])(record)
    assert intake.placed.block.lines == line(1)
    assert [letter.lines for letter in intake.refused] == [b"bad"]
    assert Selection(namespaces=["lab"])(record).refused == ()
