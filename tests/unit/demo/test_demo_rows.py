from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from demo import rows
from demo.rows import LoggedRow

ROW = LoggedRow("lr-0.1", 0, 7, {"train/loss": 0.5})


@given(st.dictionaries(st.text(min_size=1), st.floats(allow_nan=False)))
def test_a_row_comes_back_from_its_line_bit_by_bit(values) -> None:
    row = LoggedRow("lr-0.1", 3, 7, values)
    assert b"\n" not in row.encode()
    assert rows.decode(row.encode()) == row


def test_nan_and_infinities_stand_bare_in_the_line() -> None:
    row = LoggedRow("r", 0, 1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    assert b'"values":{"a":NaN,"b":Infinity,"c":-Infinity}' in row.encode()
    assert math.isnan(rows.decode(row.encode()).values["a"])


def test_a_torn_last_line_is_left_out_because_it_was_never_logged(tmp_path) -> None:
    path = tmp_path / "ledger.jsonl"
    with path.open("ab") as file:
        rows.append(file, ROW)
        rows.append(file, ROW)
        file.write(ROW.encode()[:30])
    assert list(rows.read(path)) == [ROW, ROW]
