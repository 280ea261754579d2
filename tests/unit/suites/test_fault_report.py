"""What the fault suite says in the end, and when it fails."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.fault_suite.__main__ import report
from tests.fault_suite.run import Outcome
from tests.ledger import Verdict

SOUND = Outcome(
    seed=7,
    sent=1_200,
    acknowledged=1_000,
    faults=Counter(kill=2, cut=1),
    answers=Counter({204: 20, 400: 1, 503: 3, 0: 2}),
    ended=Counter({"consumer-1": 1}),
    stall_s=4.2,
    recovery_s=3.1,
    drain_s=1.0,
    peak_mib={"gateway": 120.0, "consumer": 90.0},
    refused=5,
    verdict=Verdict(),
)


def test_the_last_line_tells_seeds_and_zeros_where_every_claim_held(capsys):
    assert report([SOUND, replace(SOUND, seed=8)], 3.0) == 0
    out = capsys.readouterr().out
    last = out.splitlines()[-1]
    assert last == "seeds=7,8 acknowledged=2,000 missing=0 invented=0 doubled=0"
    for figure in ("1,200", "4.2", "3.1", "120", "90", "kill 2", "consumer-1 1", "broken: 2"):
        assert figure in out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"verdict": Verdict(missing={"raw": {("r1", 5)}})}, "missing in raw: 1 of r1"),
        ({"verdict": Verdict(doubled={"raw": {("u7", 5)}})}, "doubled=1"),
        ({"verdict": Verdict(unaccounted={("r1", 5)})}, "unaccounted in any view: 1 of r1"),
        ({"recovery_s": 30.1}, "alive only 30.1 s after the last fault"),
        ({"peak_mib": {"gateway": 287.0, "consumer": 90.0}}, "a gateway held 287 MiB"),
        ({"peak_mib": {"gateway": 120.0, "consumer": 239.0}}, "a consumer held 239 MiB"),
        ({"answers": Counter({204: 1, 500: 1})}, "answers [500]"),
        ({"ended": Counter({"gateway-0": 1})}, "gateway-0 ended by themselves"),
    ],
)
def test_each_claim_that_does_not_hold_fails_the_suite_and_names_the_seed(capsys, change, says):
    assert report([SOUND, replace(SOUND, seed=9, **change)], 2.5) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert says in out
    assert "replay with --seed 9 --minutes 2.5" in out
    assert "failures=1" in out.splitlines()[-1]
