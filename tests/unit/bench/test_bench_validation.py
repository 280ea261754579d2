from pathlib import Path

from bench.budgets import validation
from bench.budgets.validation import Plan, judge_at, kinds, measure

NOW_NS = 1_795_277_400_000_000_000


def test_each_kind_of_body_has_as_many_good_lines_as_it_says():
    judge = judge_at(NOW_NS)
    found = {name: judge(kind.body) for name, kind in kinds(NOW_NS // 10**6 - 20_000).items()}
    assert found == {
        "one shape": (1000, 0),
        "five shapes in turns": (1000, 0),
        "1 % bad lines": (990, 10),
        "quotes and escapes, all to the exact parser": (1000, 0),
        "bad lines only": (0, 1000),
    }


def test_a_body_that_is_judged_otherwise_is_a_failure(monkeypatch):
    monkeypatch.setattr(validation, "judge_at", lambda _: lambda _: (999, 1))
    section = measure(Path(), Plan(seconds=0.001, rounds=1), tell=lambda _: None)
    assert "one shape: 999 lines were taken, expected 1000" in section.failures
    assert [row[0] for row in section.tables[0].rows] == list(kinds(0))
