"""Fuzzing of every parser of foreign bytes: one file a target, its seeds beside it.

`make fuzz` runs all of them with atheris; tests/unit/suites/test_fuzz_corpus.py replays the seeds
without it. A target is a module of `targets` with a function `check(data)`, which asserts
properties: whatever leaves it is a finding. TOKENS, if there, are words for the mutator.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

TARGETS = tuple(
    sorted(p.stem for p in Path(__file__).with_name("targets").glob("*.py") if p.stem != "__init__")
)
CORPUS = Path(__file__).with_name("corpus")


def check_of(target: str) -> Callable[[bytes], None]:
    found = importlib.import_module(f"tests.fuzz.targets.{target}").check
    assert callable(found)
    return found


def seeds_of(target: str) -> list[Path]:
    return sorted(path for path in (CORPUS / target).iterdir() if path.is_file())
