"""A mutant is one small mistake, found again after its file moved, and run in a copy alone."""

import ast
from itertools import islice
from textwrap import dedent

import pytest

from tests.fakes.git_repository import GitRepository
from tests.structure.mutants import table
from tests.structure.mutants.catalogue import Catalogue, NotFound
from tests.structure.mutants.choice import chosen
from tests.structure.mutants.coverage import Coverage
from tests.structure.mutants.experiment import Experiment, Result
from tests.structure.mutants.sandbox import Sandbox
from tests.structure.mutants.sites import sites_of


def mutations(code):
    source = dedent(code).encode()
    (function,) = ast.parse(source).body
    for site in sites_of(function, source):
        ast.parse(site.applied(source))
        yield site.kind, site.original, site.mutated


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return a < b", ("comparison", "a < b", "(a >= b)")),
        ("return a < b", ("boundary", "a < b", "(a <= b)")),
        ("return a is b", ("comparison", "a is b", "(a is not b)")),
        ("return a and b", ("and/or", "a and b", "(a or b)")),
        ("if a: b()", ("boolean", "a", "(not (a))")),
        ("return not a", ("boolean", "not a", "bool(a)")),
        ("return f(x=True)", ("boolean", "True", "False")),
        ("return a[3]", ("constant-1", "3", "(3 - 1)")),
        ("return a", ("return", "return a", "return None")),
        ("a()\n    b()", ("remove", "b()", "pass")),
        ("self.a = 'ü' if b else c.d", ("boolean", "b", "(not (b))")),
        ("self.a += b", ("remove", "self.a += b", "pass")),
        ("raise A(3)", ("remove", "raise A(3)", "pass")),
    ],
)
def test_a_mistake_is_one_of_few_kinds(body, expected):
    assert expected in mutations(f"def f(self, a=1, b: 2 = 3):\n    {body}\n")


@pytest.mark.parametrize(
    "body",
    [
        '"""A text of 3 words."""',
        "from a import b",
        "assert a < 3",
        "_log.warning('%d', 3)",
        "metrics.REQUESTS.labels(3).inc()",
        "if a < 3:\n        _log.debug('x')",
        "x: Literal[3]",
        "return None",
        "global x",
    ],
)
def test_what_decides_nothing_is_left_alone(body):
    assert list(mutations(f"def f(a: int = 3):\n    {body}\n")) == []


FLAT = {
    "ingest/rate_limit.py": """
        from ingest import errors

        class TokenBucket:
            def charge(self, points):
                if points > self.level:
                    raise errors.Refused(points)
                self.level -= points
        """,
    "ingest/errors.py": "class Refused(Exception): ...\n",
}
MOVED = {
    "ingest/limits/token_bucket.py": FLAT["ingest/rate_limit.py"].replace(
        "from ingest import", "from ingest.http import"
    ),
    "ingest/http/errors.py": FLAT["ingest/errors.py"],
}


@pytest.fixture
def commit(tmp_path):
    return GitRepository(tmp_path).commit


def test_a_mutant_is_found_again_after_its_file_moved(commit):
    before, after = Catalogue(commit(FLAT)), Catalogue(commit(MOVED))
    pairs = before.mutants(("ingest",))
    assert [mutant.kind for mutant, _ in pairs] == ["comparison", "boundary", "remove", "remove"]
    for mutant, place in pairs:
        found = after.find(mutant)
        assert found.path == "ingest/limits/token_bucket.py"
        assert (found.site.kind, found.site.line) == (place.site.kind, place.site.line)
        assert (found.site.original, found.site.mutated) == (mutant.original, mutant.mutated)


def test_a_mutant_is_found_again_though_a_module_before_a_name_is_gone(commit):
    *_, (mutant, _), _ = Catalogue(commit(FLAT)).mutants(("ingest",))
    assert mutant.original == "raise errors.Refused(points)"
    files = {
        "ingest/limits.py": FLAT["ingest/rate_limit.py"]
        .replace("from ingest import errors", "from ingest.errors import Refused")
        .replace("errors.Refused", "Refused"),
        "ingest/errors.py": FLAT["ingest/errors.py"],
    }
    found = Catalogue(commit(files)).find(mutant)
    assert (found.path, found.site.original) == ("ingest/limits.py", "raise Refused(points)")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("charge", "take", "function gone"),
        ("points > self.level", "points + self.debt > self.level", "code gone"),
        ("self.level -= points", "self.level -= points\n        points > self.level", "twice"),
    ],
)
def test_a_mutant_whose_code_is_not_there_any_more_says_why(commit, old, new, reason):
    (mutant, _), *_ = Catalogue(commit(FLAT)).mutants(("ingest",))
    path = "ingest/limits/token_bucket.py"
    changed = (
        MOVED[path].replace(old, new).replace("        points > ", "                points > ")
    )
    with pytest.raises(NotFound, match=reason):
        Catalogue(commit({**MOVED, path: changed})).find(mutant)


def test_a_mutant_is_found_by_its_code_where_the_rest_of_its_function_changed(commit):
    (mutant, _), *_ = Catalogue(commit(FLAT)).mutants(("ingest",))
    path = "ingest/limits/token_bucket.py"
    changed = MOVED[path].replace("self.level -= points", "self.level = self.level - points")
    assert Catalogue(commit({**MOVED, path: changed})).find(mutant).path == path


def test_the_same_seed_chooses_the_same_mutants_of_each_package_in_turn(commit):
    worker = "class Worker:\n    def turn(self):\n        return self.left > 3\n"
    files = {**FLAT, "consumers/worker.py": worker, "client/stepclock/spool.py": worker}
    catalogue = Catalogue(commit(files))
    first = list(islice(chosen(catalogue, 1), 3))
    assert first == list(islice(chosen(catalogue, 1), 3))
    assert [mutant.package for mutant, _ in first] == ["ingest", "consumers", "stepclock"]


def test_tests_that_import_a_file_come_before_those_that_reach_it_through_others(commit):
    coverage = Coverage(
        commit(
            {
                **FLAT,
                "ingest/app.py": "from ingest.rate_limit import TokenBucket\nclass App: ...\n",
                "tests/fakes/rig.py": "from ingest.app import App\nclass Rig: ...\n",
                "tests/unit/test_far.py": "def f():\n    from tests.fakes.rig import Rig\n",
                "tests/unit/test_near.py": "import ingest.rate_limit\n",
                "tests/contract/test_real.py": "import ingest.rate_limit\n",
                "tests/unit/test_none.py": "import consumers\n",
            }
        )
    )
    assert coverage.tests_of("ingest/rate_limit.py", 9) == [
        "tests/unit/test_near.py",
        "tests/unit/test_far.py",
    ]


def test_a_test_is_found_again_by_its_class_and_name(commit):
    text = "class TestA:\n    def test_b(self): ...\n\nTestM = M.TestCase\n"
    coverage = Coverage(commit({"tests/unit/ingest/test_new.py": text}))
    assert coverage.found_again("tests/unit/test_old.py::TestA::test_b") == [
        "tests/unit/ingest/test_new.py::TestA::test_b"
    ]
    assert coverage.found_again("tests/unit/test_old.py::TestM") == [
        "tests/unit/ingest/test_new.py::TestM"
    ]
    assert coverage.found_again("tests/unit/test_old.py::test_b") == []


RUN = {
    "ingest/limit.py": """
        def fits(size):
            return size < 3

        def spare(size):
            return size > 5
        """,
    "tests/unit/test_limit.py": """
        import subprocess
        import sys

        from ingest import limit

        def test_spare_takes_large_sizes():
            assert limit.spare(9)

        def test_a_process_in_another_folder_has_the_same_code(tmp_path):
            code = "from ingest.limit import fits; raise SystemExit(fits(2))"
            done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={})
            assert done.returncode == 1
        """,
}


@pytest.mark.slow
def test_a_mutant_is_killed_in_a_copy_and_again_after_its_file_moved(commit, tmp_path):
    revision = commit(RUN)
    catalogue = Catalogue(revision)
    of = {(m.function, m.kind): (m, place) for m, place in catalogue.mutants(("ingest",))}
    with Sandbox(revision) as sandbox:
        experiment = Experiment(catalogue, sandbox)
        noticed = experiment.run(*of["fits", "comparison"])
        unnoticed = experiment.run(*of["spare", "boundary"])
        copy = sandbox.root
    assert (noticed.outcome, unnoticed.outcome) == ("killed", "survived")
    assert noticed.test.endswith("::test_a_process_in_another_folder_has_the_same_code")
    assert not copy.exists()
    assert (tmp_path / "ingest/limit.py").read_bytes() == revision.files["ingest/limit.py"]

    moved = commit(
        {
            "ingest/limits/size.py": RUN["ingest/limit.py"],
            "tests/unit/ingest/test_size.py": RUN["tests/unit/test_limit.py"]
            .replace("from ingest import limit", "from ingest.limits import size as limit")
            .replace("ingest.limit ", "ingest.limits.size "),
        }
    )
    with Sandbox(moved) as sandbox:
        again = Experiment(Catalogue(moved), sandbox).replay(noticed.mutant, noticed.test)
    name = noticed.test.removeprefix("tests/unit/test_limit.py")
    assert (again.outcome, again.test) == ("killed", f"tests/unit/ingest/test_size.py{name}")


def test_a_table_is_read_as_it_was_written(commit, tmp_path):
    results = [
        Result(mutant, f"{place.path}:{place.site.line}", "killed", "tests/unit/test_a.py::test_b")
        for mutant, place in Catalogue(commit(FLAT)).mutants(("ingest",))
    ]
    table.write(tmp_path / "build" / "mutants.tsv", results)
    assert table.read(tmp_path / "build" / "mutants.tsv") == results
