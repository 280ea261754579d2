import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.log.receipt import BlockPosition, InvalidReceipt, decode, encode

positions = st.builds(
    BlockPosition,
    st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True),
    st.integers(0, 10**6),
    st.integers(0, 10**15),
)


@given(st.lists(positions, min_size=1, max_size=20))
def test_a_receipt_gives_back_its_blocks(blocks):
    receipt = encode(blocks)
    assert decode(receipt) == tuple(blocks)
    assert receipt.isascii()
    assert " " not in receipt


@pytest.mark.parametrize("text", ["", "1", "2.raw-0-0", "1.raw-0", "1.raw-0-x", "1.RAW-0-0", "x"])
def test_what_is_no_receipt_is_refused(text):
    with pytest.raises(InvalidReceipt):
        decode(text)


@given(st.text(max_size=50))
def test_any_text_is_a_receipt_or_refused(text):
    try:
        decode(text)
    except InvalidReceipt:
        return
    assert text.startswith("1.")
