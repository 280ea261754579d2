from __future__ import annotations

from dataclasses import dataclass

from tests.structure.mutants.catalogue import Catalogue, Mutant, NotFound, Place
from tests.structure.mutants.coverage import Coverage
from tests.structure.mutants.sandbox import Sandbox

#: Test files that one mutant gets to see.
_MAX_FILES = 6


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant.

    outcome: ``killed``, ``survived``, ``timeout``, ``unsound`` where a test fails without the
    mutant too, ``uncovered`` where no test leads to it, or why its code is not found. test: the
    first test that noticed it.
    """

    mutant: Mutant
    place: str
    outcome: str
    test: str = ""


class Experiment:
    """Runs mutants of one revision, one at a time, in its sandbox."""

    def __init__(self, catalogue: Catalogue, sandbox: Sandbox) -> None:
        self._catalogue = catalogue
        self._coverage = Coverage(catalogue.revision)
        self._sandbox = sandbox
        self._sound: dict[str, bool] = {}

    def replay(self, mutant: Mutant, killer: str) -> Result:
        """Run a mutant that may come from another revision, its killer of there first."""
        try:
            place = self._catalogue.find(mutant)
        except NotFound as exc:
            return Result(mutant, "", str(exc))
        return self.run(mutant, place, self._coverage.found_again(killer))

    def run(self, mutant: Mutant, place: Place, first: list[str] | None = None) -> Result:
        """Run the tests of ``first``, and if none of them fails, those that cover the place."""
        at = f"{place.path}:{place.site.line}"
        tests = self._coverage.tests_of(place.path, _MAX_FILES)
        groups = [group for group in (first, tests) if group]
        if not groups:
            return Result(mutant, at, "uncovered")
        content = place.site.applied(self._catalogue.revision.files[place.path])
        with self._sandbox.mutated(place.path, content):
            for group in groups:
                run = self._sandbox.run(group)
                if run.outcome != "passed":
                    break
        if run.outcome == "passed":
            return Result(mutant, at, "survived")
        if run.outcome == "timeout":
            return Result(mutant, at, "timeout")
        return Result(mutant, at, "killed" if self._is_sound(run.test) else "unsound", run.test)

    def _is_sound(self, test: str) -> bool:
        """Whether a test passes without any mutant."""
        if test not in self._sound:
            self._sound[test] = self._sandbox.run([test]).outcome == "passed"
        return self._sound[test]
