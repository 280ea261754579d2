"""Fuzzes one target in this process: ``python -m tests.fuzz.drive TARGET [libFuzzer options]``."""

from __future__ import annotations

import logging
import sys

import atheris

from tests.fuzz import check_of

#: Whose branches guide the mutations.
OURS = ["adapters", "consumers", "ingest", "schemas", "tests.fuzz.targets"]


def main() -> None:
    target, *options = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=OURS, enable_loader_override=False):
        check = check_of(target)
    atheris.Setup([sys.argv[0], *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
