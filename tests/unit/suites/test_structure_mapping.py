"""Every test keeps its claim and its body, whatever file it is in."""

import pytest

from tests.fakes.git_repository import GitRepository
from tests.structure.mapping import Mapping, id_of
from tests.structure.units import PRODUCT, TESTS, units_of

FOLDERS = (*PRODUCT, *TESTS)
BEFORE = {
    "ingest/body.py": "def read(): ...\n",
    "tests/fakes/rig.py": "class Rig:\n    def answer(self):\n        return 200\n",
    "tests/unit/test_body.py": """
        import pytest
        from ingest import body
        from tests.fakes.rig import Rig

        CASES = [1, 2]

        @pytest.fixture
        def rig():
            return Rig()

        @pytest.mark.parametrize("case", CASES)
        def test_a_body_is_read(rig, case):
            assert body.read() == case

        class TestCompressed:
            def test_a_bomb_is_refused(self, rig):
                assert rig.answer() == 413
        """,
}
TEXT = BEFORE["tests/unit/test_body.py"]
MOVED = {
    "ingest/http/body.py": BEFORE["ingest/body.py"],
    "tests/fakes/rig.py": BEFORE["tests/fakes/rig.py"],
    "tests/unit/ingest/http/test_body.py": TEXT.replace("from ingest", "from ingest.http"),
}


@pytest.fixture
def map_tests(tmp_path):
    repository = GitRepository(tmp_path)

    def map_tests(after):
        return Mapping.of(
            *(units_of(repository.commit(files), FOLDERS) for files in (BEFORE, after))
        )

    return map_tests


def test_tests_that_moved_are_mapped_one_to_one(map_tests):
    found = map_tests(MOVED)
    assert found.holds
    assert found.table() == [
        (f"tests/unit/test_body.py::{name}", f"tests/unit/ingest/http/test_body.py::{name}")
        for name in ("TestCompressed::test_a_bomb_is_refused", "test_a_body_is_read")
    ]
    assert found.helpers.equal.total() == 5


def changed(old, new, path="tests/unit/ingest/http/test_body.py"):
    text = MOVED[path].replace(old, new)
    assert text != MOVED[path]
    return {**MOVED, path: text}


def test_a_changed_body_is_listed_and_does_not_hold(map_tests):
    found = map_tests(changed("== 413", ">= 400"))
    assert [new.name for _, new in found.changed] == ["TestCompressed.test_a_bomb_is_refused"]
    assert (found.lost, found.new, found.holds) == ([], [], False)


def test_a_test_that_is_lost_does_not_hold(map_tests):
    found = map_tests(changed("def test_a_body_is_read", "def a_body_is_read"))
    assert [unit.name for unit in found.lost] == ["test_a_body_is_read"]
    assert not found.holds


def test_a_test_that_stands_twice_does_not_hold(map_tests):
    path = "tests/unit/ingest/http/test_body.py"
    found = map_tests({**MOVED, "tests/unit/test_again.py": MOVED[path]})
    assert {id_of(unit) for unit in found.doubled} == {
        "tests/unit/test_again.py::test_a_body_is_read",
        "tests/unit/test_again.py::TestCompressed::test_a_bomb_is_refused",
    }
    assert not found.holds


def test_a_test_that_only_has_another_name_is_mapped_as_renamed(map_tests):
    found = map_tests(changed("test_a_bomb_is_refused", "test_a_bomb_is_answered_413"))
    assert [new.name for _, new in found.renamed] == ["TestCompressed.test_a_bomb_is_answered_413"]
    assert found.holds


def test_a_test_of_another_definition_with_the_same_name_does_not_hold(map_tests):
    other = {"consumers/body.py": "def read():\n    return 2\n"}
    found = map_tests({**changed("from ingest.http", "from consumers"), **other})
    assert [one.misled for one in found.misled] == [("read",)]
    assert not found.holds


def test_a_new_test_is_listed_and_holds(map_tests):
    found = map_tests({**MOVED, "tests/unit/test_new.py": "def test_new():\n    assert 1\n"})
    assert [id_of(unit) for unit in found.new] == ["tests/unit/test_new.py::test_new"]
    assert found.holds


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("CASES = [1, 2]", "CASES = [1]", "tests/unit/ingest/http/test_body.py"),
        ("return Rig()", "return Rig", "tests/unit/ingest/http/test_body.py"),
        ("return 200", "return 413", "tests/fakes/rig.py"),
    ],
)
def test_a_constant_a_fixture_or_a_rig_that_differs_does_not_hold(map_tests, old, new, path):
    found = map_tests(changed(old, new, path))
    assert len(found.helpers.differences) == 1
    assert not found.holds


def test_a_state_machine_is_a_test_by_the_class_that_runs_it(tmp_path):
    text = "from consumers.machine import M\n\nTestM = M.TestCase\nTested = 3\n"
    files = {"consumers/machine.py": "class M: ...\n", "tests/unit/test_m.py": text}
    units = units_of(GitRepository(tmp_path).commit(files), TESTS)
    found = Mapping.of(units, units)
    assert found.table() == [("tests/unit/test_m.py::TestM", "tests/unit/test_m.py::TestM")]
