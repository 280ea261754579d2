"""The fuzzer's seeds, through its targets, without the fuzzer."""

import pytest

from tests.fuzz import CORPUS, TARGETS, check_of, seeds_of


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed_keeps_the_promises_of_its_parser(target):
    check = check_of(target)
    seeds = seeds_of(target)
    assert len(seeds) >= 24
    for seed in seeds:
        try:
            check(seed.read_bytes())
        except BaseException as exc:
            exc.add_note(f"the seed is {seed.relative_to(CORPUS)}")
            raise


def test_every_folder_of_seeds_belongs_to_a_target():
    assert tuple(sorted(path.name for path in CORPUS.iterdir())) == TARGETS
