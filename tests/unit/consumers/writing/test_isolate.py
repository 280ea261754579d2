import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.batches.batch import PlacedBlock
from consumers.views import WallView
from consumers.writing.isolate import MAX_PROBES, Candidate, Isolation
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block
from schemas.log.dead_letter import Reason
from schemas.log.protocols import TopicPartition
from schemas.store.protocols import FieldConflict, LinesRefused, StoreUnavailable, WriteTooLarge


def candidates(lines):
    block = Block("vision", "stepclock", Precision.NS, len(lines), 0, b"\n".join(lines))
    placed = PlacedBlock(block, TopicPartition("stepclock.raw", 0), 0, len(block.lines))
    return [Candidate(placed, line) for line in WallView().lines(block, "raw", Precision.NS)]


def numbered(count):
    return [b"m f=1 %d" % n for n in range(count)]


class Store:
    """Refuses what it is told to: alone those lines (422), or the whole write (400)."""

    def __init__(self, bad=(), *, partial=True, says_dropped=True, max_lines=10**9):
        self.bad = set(bad)
        self.partial = partial
        self.says_dropped = says_dropped
        self.max_lines = max_lines
        self.stored = []
        self.writes = 0
        self.fail_at = None

    def __call__(self, text):
        self.writes += 1
        if self.writes == self.fail_at:
            raise StoreUnavailable("gone")
        lines = text.split(b"\n")
        if len(lines) > self.max_lines:
            raise WriteTooLarge("413")
        bad = [line for line in lines if line in self.bad]
        if not bad:
            self.stored += lines
            return
        if self.partial:
            self.stored += [line for line in lines if line not in self.bad]
        dropped = len(bad) if self.partial and self.says_dropped else None
        raise LinesRefused("no", stored_others=self.partial, dropped=dropped)

    def isolate(self, lines, **kwargs):
        with pytest.raises((LinesRefused, WriteTooLarge)) as refusal:
            self(b"\n".join(lines))
        self.writes = 0
        isolation = Isolation("wall", candidates(lines), refusal.value, **kwargs)
        search(isolation, self)
        return isolation


def search(isolation, store):
    """What the loop does: write what is next, and give the outcome back."""
    while (text := isolation.next(0.0)) is not None:
        try:
            store(text)
        except (LinesRefused, WriteTooLarge) as exc:
            isolation.answered(exc)
        else:
            isolation.answered(None)


def originals(isolation, reason):
    return [one.original for one in isolation.rejected if one.reason is reason]


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("position", [0, 1, 2499, 2500, 4998, 4999])
def test_one_bad_line_among_5000_is_found_and_the_others_are_stored(position, partial):
    lines = numbered(5000)
    store = Store([lines[position]], partial=partial)
    isolation = store.isolate(lines)
    assert originals(isolation, Reason.REFUSED) == [lines[position]]
    assert len(isolation.rejected) == 1
    assert set(store.stored) == set(lines) - {lines[position]}
    assert store.writes <= 26


class TypedStore(Store):
    """Refuses each line whose field f or g is a string, and names the first of them."""

    def __call__(self, text):
        lines = text.split(b"\n")
        self.bad = {line for line in lines if b'"' in line}
        try:
            super().__call__(text)
        except LinesRefused as exc:
            first = next(line for line in lines if line in self.bad)
            exc.conflict = FieldConflict("m", "f" if b'f="' in first else "g", "string")
            raise


def test_hundreds_of_lines_with_the_same_mistake_cost_their_neighbours_nothing():
    lines = numbered(5000)
    bad = [b'm f="1" %d' % n if n % 3 else b'm g="1" %d' % n for n in range(0, 5000, 7)]
    lines[::7] = bad
    store = TypedStore()
    isolation = store.isolate(lines)
    assert sorted(originals(isolation, Reason.REFUSED)) == sorted(bad)
    assert len(isolation.rejected) == len(bad)
    assert set(store.stored) == set(lines) - set(bad)
    assert store.writes <= 6


def test_a_store_that_names_a_field_of_no_line_is_searched_by_halves():
    lines = numbered(100)
    store = Store([lines[7]])
    with pytest.raises(LinesRefused) as refusal:
        store(b"\n".join(lines))
    refusal.value.conflict = FieldConflict('m"', "f", "float")
    isolation = Isolation("wall", candidates(lines), refusal.value)
    search(isolation, store)
    assert originals(isolation, Reason.REFUSED) == [lines[7]]


def test_an_innocent_line_of_the_accused_kind_is_stored():
    lines = [b'm f="%d" %d' % (n, n) for n in range(10)] + [b"m f=1 10"]
    store = Store([lines[4]])
    with pytest.raises(LinesRefused) as refusal:
        store(b"\n".join(lines))
    refusal.value.conflict = FieldConflict("m", "f", "string")
    isolation = Isolation("wall", candidates(lines), refusal.value)
    search(isolation, store)
    assert originals(isolation, Reason.REFUSED) == [lines[4]]
    assert set(store.stored) == set(lines) - {lines[4]}


def test_of_lines_that_are_too_old_the_oldest_are_looked_at_first():
    lines = numbered(5000)
    store = Store(lines[:400])
    with pytest.raises(LinesRefused) as refusal:
        store(b"\n".join(lines))
    refusal.value.outdated = True
    store.writes = 0
    isolation = Isolation("wall", candidates(lines), refusal.value)
    search(isolation, store)
    assert originals(isolation, Reason.REFUSED) == lines[:400]
    assert store.writes == 2


def test_the_exact_parser_finds_malformed_lines_without_a_write():
    lines = numbered(5000)
    for position in range(0, 5000, 50):
        lines[position] = b"not a line at all, really"
    store = Store([b"not a line at all, really"], partial=False)
    isolation = store.isolate(lines)
    assert len(originals(isolation, Reason.MALFORMED)) == len(isolation.rejected) == 100
    assert isolation.rejected[0].detail.startswith("column ")
    assert store.writes == 1
    assert len(store.stored) == 4900


def test_a_batch_of_bad_lines_only_is_condemned_at_once():
    lines = numbered(1000)
    store = Store(lines)
    assert originals(store.isolate(lines), Reason.REFUSED) == lines
    assert store.writes == 0


def test_an_answer_that_all_sent_lines_were_dropped_ends_the_search():
    lines = numbered(1024)
    store = Store(lines[512:])
    assert originals(store.isolate(lines), Reason.REFUSED) == lines[512:]
    assert store.writes == 2


def test_without_a_number_of_dropped_lines_halving_goes_on_to_the_end():
    lines = numbered(8)
    store = Store(lines[4:], says_dropped=False)
    assert originals(store.isolate(lines), Reason.REFUSED) == lines[4:]
    assert set(store.stored) == set(lines[:4])


def test_when_the_probes_are_spent_undecided_lines_are_unresolved():
    lines = numbered(5000)
    bad = set(lines[::7])
    store = Store(bad, partial=False)
    isolation = store.isolate(lines)
    assert store.writes == MAX_PROBES
    unresolved = set(originals(isolation, Reason.UNRESOLVED))
    refused = set(originals(isolation, Reason.REFUSED))
    assert refused <= bad
    assert set(store.stored) | unresolved | refused == set(lines)
    assert not set(store.stored) & (unresolved | refused)


def test_a_write_that_is_too_large_is_halved_without_using_up_probes():
    lines = numbered(1000)
    store = Store(max_lines=5)
    isolation = store.isolate(lines, max_probes=1)
    assert isolation.rejected == []
    assert store.stored == lines


def test_one_line_that_is_too_large_is_condemned_as_such():
    lines = numbered(3)
    isolation = Store(max_lines=0).isolate(lines)
    assert originals(isolation, Reason.TOO_LARGE) == lines


def test_a_bad_line_is_found_among_writes_that_are_too_large():
    lines = numbered(1000)
    store = Store([lines[700]], partial=False, max_lines=10)
    isolation = store.isolate(lines)
    assert originals(isolation, Reason.REFUSED) == [lines[700]]
    assert set(store.stored) == set(lines) - {lines[700]}


def test_an_unknown_outcome_passes_through_and_the_search_goes_on_from_there():
    lines = numbered(100)
    store = Store([lines[42]], partial=False)
    store.fail_at = 4
    isolation = Isolation("wall", candidates(lines), LinesRefused("no", stored_others=False))
    with pytest.raises(StoreUnavailable):
        search(isolation, store)
    already = list(store.stored)
    search(isolation, store)
    assert originals(isolation, Reason.REFUSED) == [lines[42]]
    assert set(store.stored) == set(lines) - {lines[42]}
    assert len(store.stored) == len(set(store.stored)) >= len(already)


@given(
    st.integers(1, 60).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1, max_size=3))
    ),
    st.booleans(),
    st.booleans(),
)
def test_no_line_is_left_in_doubt(case, partial, says_dropped):
    count, positions = case
    lines = numbered(count)
    bad = {lines[position] for position in positions}
    store = Store(bad, partial=partial, says_dropped=says_dropped)
    isolation = store.isolate(lines)
    assert set(originals(isolation, Reason.REFUSED)) == bad
    assert set(store.stored) == set(lines) - bad


@pytest.mark.parametrize("partial", [True, False])
def test_order_is_kept_left_before_right(partial):
    lines = numbered(64)
    store = Store([lines[9]], partial=partial)
    store.isolate(lines)
    last = {line: index for index, line in enumerate(store.stored)}
    kept = [line for line in lines if line != lines[9]]
    assert sorted(kept, key=last.__getitem__) == kept
