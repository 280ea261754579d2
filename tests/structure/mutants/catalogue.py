from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tests.structure.mutants.sites import Site, sites_of
from tests.structure.names import Names
from tests.structure.normal_form import normal_form
from tests.structure.revision import Revision, module_name
from tests.structure.units import PRODUCT, under

#: How an object shows itself, which decides nothing.
_SHOWN = {"__repr__", "__str__"}
#: What may be a module: a lower-case name before a dot, behind none, and not `self`.
_QUALIFIER = re.compile(r"(?<![\w.])(?!self\b|cls\b)[a-z]\w*\.")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One small mistake, named so that it is found again in whatever file its function is."""

    package: str
    #: ``Class.method``
    function: str
    #: A digest of the function's normal form.
    body: str
    kind: str
    ordinal: int
    original: str
    mutated: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a revision holds a mutant's code."""

    path: str
    site: Site


class NotFound(Exception):
    """A revision does not hold a mutant's code; the message says since what."""


@dataclass(frozen=True, slots=True)
class _Function:
    package: str
    path: str
    name: str
    body: str
    node: ast.FunctionDef | ast.AsyncFunctionDef


class Catalogue:
    """The mutants of a revision's product."""

    def __init__(self, revision: Revision) -> None:
        self.revision = revision

    def mutants(self, packages: tuple[str, ...]) -> list[tuple[Mutant, Place]]:
        """All mutants of these packages, in order of files and lines."""
        return [
            (self._mutant(function, site), Place(function.path, site))
            for function in self._functions
            if function.package in packages
            for site in self._sites(function)
        ]

    def find(self, mutant: Mutant) -> Place:
        """The place of a mutant that may come from another revision.

        Raises NotFound.
        """
        same_name = [one for one in self._functions if one.name == mutant.function]
        if not same_name:
            raise NotFound("function gone")
        near = [one for one in same_name if one.package == mutant.package] or same_name
        same_body = [one for one in near if one.body == mutant.body]
        if same_body:
            sites = [s for s in self._sites(same_body[0]) if s.kind == mutant.kind]
            if mutant.ordinal < len(sites) and sites[mutant.ordinal].original == mutant.original:
                return Place(same_body[0].path, sites[mutant.ordinal])
        return self._find_by_text(mutant, near)

    def _find_by_text(self, mutant: Mutant, functions: list[_Function]) -> Place:
        """The place in functions that changed, if only one there has the mutant's code.

        The names of modules before a dot may differ.
        """
        places = [
            Place(function.path, site)
            for function in functions
            for site in self._sites(function)
            if site.kind == mutant.kind and _alike(site.original, mutant.original)
        ]
        if len(places) != 1:
            raise NotFound("code gone" if not places else "code stands twice")
        return places[0]

    def _mutant(self, function: _Function, site: Site) -> Mutant:
        return Mutant(
            package=function.package,
            function=function.name,
            body=function.body,
            kind=site.kind,
            ordinal=site.ordinal,
            original=site.original,
            mutated=site.mutated,
        )

    def _sites(self, function: _Function) -> list[Site]:
        return sites_of(function.node, self.revision.files[function.path])

    @cached_property
    def _functions(self) -> list[_Function]:
        names = Names(self.revision)
        return [
            function
            for path, tree in self.revision.trees.items()
            if under(path, PRODUCT)
            for function in _functions_of(path, tree.body, (), names)
        ]


def _alike(one: str, other: str) -> bool:
    return _QUALIFIER.sub("", one) == _QUALIFIER.sub("", other)


def _functions_of(
    path: str, body: list[ast.stmt], classes: tuple[ast.ClassDef, ...], names: Names
) -> Iterator[_Function]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _functions_of(path, node.body, (*classes, node), names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in _SHOWN:
            name = ".".join([*(one.name for one in classes), node.name])
            text = normal_form(node, path, names, classes).text
            digest = hashlib.sha256(text.encode()).hexdigest()[:10]
            yield _Function(module_name(path).partition(".")[0], path, name, digest, node)
