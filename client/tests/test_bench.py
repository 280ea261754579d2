"""How the benchmark reads what other clients left behind."""

import importlib.util
import struct
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def trackers():
    path = Path(__file__).parents[1] / "bench" / "trackers.py"
    spec = importlib.util.spec_from_file_location("trackers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leveldb(records, at=7):
    """A file of LevelDB's log format, behind a header of `at` bytes."""
    block, out = 32768, bytearray()
    for record in records:
        rest, first = record, True
        while first or rest:
            left = block - (at + len(out)) % block
            if left < 7:
                out += bytes(left)
                continue
            piece, rest = rest[: left - 7], rest[left - 7 :]
            kind = (1 if first else 4) if not rest else (2 if first else 3)
            out += bytes(4) + struct.pack("<HB", len(piece), kind) + piece
            first = False
    return bytes(out)


def test_records_of_every_size_are_read_from_leveldb_s_log(trackers):
    records = [
        bytes([n % 251]) * size for n, size in enumerate((1, 32747, 3, 100_000, 0, 9, 65_000))
    ]
    assert list(trackers._leveldb_records(leveldb(records), at=7)) == records


def test_a_record_that_was_not_written_to_its_end_is_left_out(trackers):
    data = leveldb([b"a" * 10, b"b" * 40_000])
    assert list(trackers._leveldb_records(data[:-1], at=7)) == [b"a" * 10]
    assert list(trackers._leveldb_records(data[:20], at=7)) == [b"a" * 10]
    assert list(trackers._leveldb_records(data[:17] + bytes(500), at=7)) == [b"a" * 10]


def test_the_floor_s_rows_are_read_back(trackers, tmp_path):
    floor = trackers.Floor(tmp_path, {})
    for step in range(3):
        floor.log({"loss": 1.0}, step)
    assert floor.finish()
    assert trackers.Floor.steps(tmp_path, {}) == [0, 1, 2]
