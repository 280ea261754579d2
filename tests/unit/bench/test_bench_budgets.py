import asyncio

import pytest
from typer.testing import CliRunner

from bench import __main__ as bench
from bench.budgets import budgets, counted, requests

ALLOWED = {"instructions": {"admit": 1000}, "requests": {"objects kept": 0}}


def failures(measured, allowed=ALLOWED):
    return budgets.compare(measured, allowed).failures


def test_figures_within_ten_percent_keep_their_budget():
    for admit in (900, 1000, 1100):
        measured = {"instructions": {"admit": admit}, "requests": {"objects kept": 0}}
        assert failures(measured) == []


def test_a_figure_beyond_its_budget_is_a_failure_and_so_is_a_gain_that_is_not_kept():
    found = failures({"instructions": {"admit": 1101}, "requests": {"objects kept": 1}})
    assert [text.partition(" is ")[0] for text in found] == [
        "instructions: admit",
        "requests: objects kept",
    ]
    (gain,) = failures({"instructions": {"admit": 899}, "requests": {"objects kept": 0}})
    assert gain.endswith("below: renew the file (--write)")


def test_a_figure_that_one_side_lacks_is_a_failure():
    assert len(failures({"instructions": {"steps": 5}, "requests": {"objects kept": 0}})) == 2


def test_the_file_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "budgets.toml"
    budgets.write(ALLOWED, path)
    assert budgets.load(path) == ALLOWED


def test_a_file_of_another_python_is_not_compared(tmp_path):
    path = tmp_path / "budgets.toml"
    path.write_text('python = "2.7"\n')
    with pytest.raises(budgets.OtherPython, match=r"holds for Python 2\.7"):
        budgets.load(path)


def test_the_file_has_a_budget_for_everything_that_is_counted():
    content = budgets.FILE.read_text("utf-8")
    assert all(f"\n{name} = " in content for name in counted.functions())


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_without_valgrind_budgets_are_skipped_but_not_in_ci(monkeypatch, ci, status):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(budgets, "load", lambda: ALLOWED)
    monkeypatch.setattr(budgets.shutil, "which", lambda _: None)
    result = CliRunner().invoke(bench.app, ["budgets"])
    assert result.exit_code == status
    assert "valgrind, which is not installed" in result.output


def test_a_counted_process_calls_what_it_is_told_as_often(monkeypatch):
    called = []
    monkeypatch.setattr(counted, "functions", lambda: {"admit": lambda: called.append(1)})
    counted.main("admit=3")
    assert called == [1, 1, 1]


def test_memory_of_requests_is_the_same_twice():
    first, second = requests.measure(), requests.measure()
    assert {name: value for name, value in first.items() if "objects" in name} == {
        name: value for name, value in second.items() if "objects" in name
    }


def test_a_request_that_is_not_taken_is_no_figure():
    async def refuse(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 503})

    with pytest.raises(RuntimeError, match="503"):
        asyncio.run(requests._post(refuse, "key", b""))
