"""The figures of a revision count what they say."""

import pytest

from tests.fakes.git_repository import GitRepository
from tests.structure.figures import Figures
from tests.structure.passages import passages_of

SEVEN = "".join(f"x{n} = {n}  # a comment\n\n" for n in range(7))


@pytest.fixture
def figures(tmp_path):
    repository = GitRepository(tmp_path)
    return lambda files: Figures(repository.commit(files))


def test_folders_tell_their_number_of_files_and_the_largest(figures):
    files = {f"ingest/f{n}.py": "x = 1\n" * (n + 30) for n in range(11)}
    found = figures({**files, "ingest/__init__.py": '"""Nothing but this."""\n'})
    assert found.rows["files in ingest/"] == "11, largest 40 (f10.py)"
    assert found.lists["folders with over 10 files, product and bench"] == ["ingest/ 11"]
    assert found.lists["files under 30 lines, product and bench"] == []


def test_small_folders_and_small_files_are_listed(figures):
    found = figures({"bench/a.py": "x = 1\n", "bench/__init__.py": "y = 1\n", "docs/c.py": ""})
    assert found.lists["folders with under 3 files, product and bench"] == ["bench/ 2"]
    assert found.lists["files under 30 lines, product and bench"] == [
        "bench/__init__.py 1",
        "bench/a.py 1",
    ]


def test_classes_that_share_a_name_are_listed_with_their_places(figures):
    found = figures(
        {
            "ingest/a.py": "class Plan: ...\nclass Other: ...\n",
            "consumers/a.py": "class Plan:\n    class Other: ...\n",
            "bench/a.py": "class Other: ...\n",
        }
    )
    assert found.lists["names that several classes share, product"] == [
        "Plan: consumers/a.py, ingest/a.py"
    ]
    assert found.rows["names that several classes share, product and bench"] == "2"


def test_statements_count_without_docstrings(figures):
    text = '"""Doc."""\nimport os\n\ndef f():\n    """Doc."""\n    if os:\n        return 1\n'
    found = figures({"client/stepclock/a.py": text, "tests/unit/test_a.py": "x = 1\n"})
    assert found.rows["statements in client/stepclock/"] == "4"
    assert found.rows["statements, product"] == "4"
    assert found.rows["statements, tests"] == "1"


def passages(tmp_path, files):
    found = passages_of(GitRepository(tmp_path).commit(files), ("ingest",))
    return [(one.lines, *one.places) for one in found]


def test_a_passage_is_found_in_other_indentation_and_with_other_comments(tmp_path):
    nine = SEVEN + "y = 1\nz = 2\n"
    again = "def f():\n" + "".join(
        f"    {line}\n" for line in nine.replace("  #", " #").split("\n")
    )
    assert passages(tmp_path, {"ingest/a.py": nine, "ingest/b.py": again}) == [
        (9, "ingest/a.py:1", "ingest/b.py:2")
    ]


def test_eight_lines_are_no_passage(tmp_path):
    files = {"ingest/a.py": SEVEN + "y = 1\nz = 2\n", "ingest/b.py": SEVEN + "y = 1\nz = 3\n"}
    assert passages(tmp_path, files) == []


def test_a_long_passage_in_three_places_is_told_once(tmp_path):
    long = SEVEN + "y = 1\nz = 2\na = 3\n"
    files = {f"ingest/{name}.py": f"{name} = 0\n" + long for name in "pqr"}
    assert passages(tmp_path, {**files, "consumers/a.py": long}) == [
        (10, "ingest/p.py:2", "ingest/q.py:2", "ingest/r.py:2")
    ]
