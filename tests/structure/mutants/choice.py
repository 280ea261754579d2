from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest

from tests.structure.mutants.catalogue import Catalogue, Mutant, Place

PACKAGES = ("ingest", "consumers", "stepclock")

#: Words in the names of files and classes whose functions decide something.
_DECIDES = (
    *("rate_limit", "token", "circuit", "commit", "judge", "validat", "intake", "publish"),
    *("settle", "decode", "worker", "offsets", "isolat", "batch", "waiting", "backoff", "flush"),
    *("storer", "writing", "deliver", "receipt", "spool", "journal", "segment", "sender"),
)
#: Functions that count what others have decided.
_COUNTS = "count_"
_FAVOUR = 20
#: Mistakes in conditions are the ones that tests miss most easily.
_KINDS = {"boundary": 6, "comparison": 3, "and/or": 3, "boolean": 2}
_MAX_IN_A_FUNCTION = 1
_MAX_IN_A_FILE = 2


def chosen(catalogue: Catalogue, seed: int) -> Iterator[tuple[Mutant, Place]]:
    """Mutants of the three packages in turn, in an order that the seed alone decides.

    Files whose functions decide come earlier by their weight, each as likely as the other, and
    so do mistakes in conditions. No function gives more than one mutant and no file more than two.
    """
    draw = random.Random(seed)
    queues = []
    for package in PACKAGES:
        pairs = catalogue.mutants((package,))
        totals: Counter[str] = Counter()
        for mutant, place in pairs:
            totals[place.path] += _KINDS.get(mutant.kind, 1)
        weighted = [
            # Efraimidis and Spirakis: sorting by this draws by weight without replacement.
            (math.log(draw.random()) / _weight(*pair) * totals[pair[1].path], number, pair)
            for number, pair in enumerate(pairs)
        ]
        weighted.sort(key=lambda one: one[:2], reverse=True)
        queues.append(_spread(pair for _, _, pair in weighted))
    for turn in zip_longest(*queues):
        yield from (pair for pair in turn if pair is not None)


def _weight(mutant: Mutant, place: Place) -> int:
    text = f"{place.path} {mutant.function}".lower()
    decides = any(word in text for word in _DECIDES) and "/cli/" not in place.path
    return (_FAVOUR if decides else 1) * _KINDS.get(mutant.kind, 1)


def _spread(pairs: Iterator[tuple[Mutant, Place]]) -> Iterator[tuple[Mutant, Place]]:
    functions: Counter[tuple[str, str]] = Counter()
    files: Counter[str] = Counter()
    for mutant, place in pairs:
        if mutant.function.startswith(_COUNTS):
            continue
        function = (place.path, mutant.function)
        if functions[function] < _MAX_IN_A_FUNCTION and files[place.path] < _MAX_IN_A_FILE:
            functions[function] += 1
            files[place.path] += 1
            yield mutant, place
