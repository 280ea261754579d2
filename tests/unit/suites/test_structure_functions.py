"""A move of files compares equal, and whatever else changed does not."""

import pytest

from tests.fakes.git_repository import GitRepository
from tests.structure.comparison import Comparison, Side
from tests.structure.units import BENCH, PRODUCT, Definitions, units_of

FLAT = {
    "ingest/errors.py": """
        class Refused(Exception):
            '''Says no.'''
            status = 400

            def answer(self):
                return self.status

        def response(error):
            return error.answer()
        """,
    "ingest/auth.py": """
        from ingest import errors

        LIMIT = 3

        def check(key, errors_seen=()):
            if len(key) < LIMIT:
                raise errors.Refused(key)
            return errors.response(errors.Refused())
        """,
}
#: The same in subfolders: one module under another name, the other imported by what it holds.
MOVED = {
    "ingest/http/refusals.py": FLAT["ingest/errors.py"],
    "ingest/keys/auth.py": """
        from ingest.http.refusals import Refused, response

        LIMIT = 3

        def check(key, errors_seen=()):
            # Too short.
            if len(key) < LIMIT:
                raise Refused(key)
            return response(Refused())
        """,
}


@pytest.fixture
def compare(tmp_path):
    repository = GitRepository(tmp_path)

    def compare(before, after):
        sides = [
            units_of(repository.commit(files), (*PRODUCT, *BENCH)) for files in (before, after)
        ]
        return Comparison.of(*(Side(units, Definitions(units)) for units in sides))

    return compare


def told(comparison):
    return [str(difference).splitlines()[0] for difference in comparison.differences]


def test_files_that_moved_and_were_renamed_compare_equal(compare):
    found = compare(FLAT, MOVED)
    assert told(found) == []
    assert found.equal == {"function": 3, "class": 1, "statement": 1}


def test_a_module_that_is_bound_to_another_name_compares_equal(compare):
    text = FLAT["ingest/auth.py"]
    renamed = text.replace("import errors", "import errors as refusals").replace(
        "errors.", "refusals."
    )
    assert renamed != text
    assert told(compare(FLAT, {**FLAT, "ingest/auth.py": renamed})) == []


def test_a_file_that_was_merged_into_another_compares_equal(compare):
    merged = FLAT["ingest/errors.py"] + MOVED["ingest/keys/auth.py"].replace(
        "from ingest.http.refusals import Refused, response", ""
    )
    assert told(compare(FLAT, {"ingest/auth.py": merged})) == []
    assert told(compare({"ingest/auth.py": merged}, FLAT)) == []


def test_a_changed_body_is_told_with_both_places_and_a_diff(compare):
    changed = MOVED["ingest/keys/auth.py"].replace("<", "<=")
    found = compare(FLAT, {**MOVED, "ingest/keys/auth.py": changed})
    (difference,) = map(str, found.differences)
    assert "function check: ingest/auth.py:6 -> ingest/keys/auth.py:6" in difference
    assert "-    if len(key) < LIMIT:" in difference
    assert "+    if len(key) <= LIMIT:" in difference


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("status = 400", "status = 500", "class Refused"),
        ("Refused(Exception)", "Refused(ValueError)", "class Refused"),
        ("def answer", "@property\n            def answer", "function Refused.answer"),
        ("def response(error)", "def response(error, /)", "function response"),
    ],
)
def test_what_a_class_is_made_of_counts(compare, old, new, kind):
    text = FLAT["ingest/errors.py"].replace(old, new)
    assert text != FLAT["ingest/errors.py"]
    (difference,) = told(compare(FLAT, {**FLAT, "ingest/errors.py": text}))
    assert difference.startswith(kind)


def test_a_changed_constant_a_lost_and_a_new_function_are_told(compare):
    auth = MOVED["ingest/keys/auth.py"].replace("LIMIT = 3", "LIMIT = 4")
    errors = FLAT["ingest/errors.py"].replace("def response", "def reply")
    found = compare(FLAT, {"ingest/http/refusals.py": errors, "ingest/keys/auth.py": auth})
    assert told(found) == [
        "statement LIMIT: ingest/auth.py:4 -> ingest/keys/auth.py:4",
        "only before: function response at ingest/errors.py:9",
        "only after: function reply at ingest/http/refusals.py:9",
    ]


def test_a_function_that_stands_twice_after_the_move_is_told(compare):
    twice = {**MOVED, "ingest/copy.py": "def response(error):\n    return error.answer()\n"}
    (difference,) = told(compare(FLAT, twice))
    assert difference.startswith("only after: function response at ingest/")


def test_an_import_of_another_definition_with_the_same_name_is_told(compare):
    use = "from {} import cut\n\ndef pieces(text):\n    return cut(text)\n"
    own = "def cut(text):\n    return text.{}\n"
    files = {
        "ingest/origin.py": own.format("split()"),
        "consumers/batch.py": own.format("strip()"),
    }
    found = compare(
        {**files, "ingest/intake.py": use.format("ingest.origin")},
        {**files, "ingest/intake.py": use.format("consumers.batch")},
    )
    assert len(found.differences) == 1
    assert "other definitions are meant by: cut" in str(found.differences[0])


def test_a_local_variable_is_not_taken_for_a_module_of_its_name(compare):
    use = "from ingest import errors\n\ndef f({0}):\n    return {0}.response\n"
    found = compare(
        {**FLAT, "ingest/use.py": use.format("errors")},
        {**FLAT, "ingest/use.py": use.format("mistakes")},
    )
    assert told(found) == ["function f: ingest/use.py:3 -> ingest/use.py:3"]


def test_imports_inside_a_function_may_name_other_modules_and_be_split(compare):
    one = "def f():\n    from {} import Refused, response\n    return response(Refused())\n"
    two = (
        "def f():\n    from ingest.b import response\n    from ingest.a import Refused\n"
        "    return response(Refused())\n"
    )
    kept = {"ingest/b.py": "def response(e):\n    pass\n", "ingest/a.py": "class Refused: ...\n"}
    both = {"ingest/errors.py": kept["ingest/a.py"] + kept["ingest/b.py"]}
    before = {**both, "admin/f.py": one.format("ingest.errors")}
    assert told(compare(before, {**kept, "admin/f.py": two})) == []
    lazy = two.replace("    from ingest.a import Refused\n", "")
    assert told(compare(before, {**kept, "admin/f.py": "from ingest.a import Refused\n" + lazy}))


def test_texts_that_name_a_module_or_a_file_must_name_one_that_is_there(compare):
    text = 'COMMAND = ["-m", "{0}", "python -m {0}", "{0}.main", "{1}"]\n'
    hammer = "def main(): ..."
    before = {
        "bench/hammer.py": hammer,
        "bench/run.py": text.format("bench.hammer", "bench/hammer.py"),
    }
    good = text.format("bench.parts.hammer", "bench/parts/hammer.py")
    assert told(compare(before, {"bench/parts/hammer.py": hammer, "bench/run.py": good})) == []
    for stale in ("bench.parts.hammer", "bench/parts/hammer.py"):
        bad = good.replace(stale, stale.replace("/parts", "").replace(".parts", ""), 1)
        assert told(compare(before, {"bench/parts/hammer.py": hammer, "bench/run.py": bad}))


def test_a_topic_is_not_taken_for_the_module_of_its_name(compare):
    files = {"client/stepclock/system.py": "", "consumers/a.py": 'TOPIC = "stepclock.system"\n'}
    moved = {
        "client/stepclock/record/system.py": "",
        "consumers/a.py": 'TOPIC = "stepclock.record.system"\n',
    }
    assert len(compare(files, moved).differences) == 1


@pytest.mark.parametrize(("parents", "equal"), [("parents[2]", True), ("parents[1]", False)])
def test_a_path_from_its_own_file_must_lead_to_the_same_folder(compare, parents, equal):
    before = "from pathlib import Path\nROOT = Path(__file__).resolve().parents[1] / 'docs'\n"
    after = before.replace("parents[1]", parents)
    found = compare({"demo/fleet.py": before}, {"demo/fleets/fleet.py": after})
    assert bool(told(found)) is not equal
