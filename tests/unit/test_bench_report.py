from __future__ import annotations

import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench import __main__ as bench
from bench.blocks import Workload, batches
from bench.drain import outcomes
from bench.gateway import Plan
from bench.report import BEGIN, END, Section, Table, between_markers, markdown, show

SECTION = Section("Part [1]", [Table(("what", "a|b"), [("x", "1")])], ["a note"], ["too slow"])


def test_markdown_holds_tables_notes_and_failures():
    assert markdown(["a machine"], [SECTION]) == (
        "- a machine\n\n### Part [1]\n\n| what | a\\|b |\n| --- | ---: |\n| x | 1 |\n\n"
        "- a note\n- **FAILED**: too slow"
    )


def test_terminal_shows_the_same():
    output = io.StringIO()
    show(SECTION, Console(file=output, width=80))
    for text in ("Part [1]", "what", "x", "a note", "FAILED: too slow"):
        assert text in output.getvalue()


def test_only_what_stands_between_the_markers_is_replaced():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert between_markers(page, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def test_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="lacks"):
        between_markers("text", "new")


def test_the_readme_has_its_markers():
    assert "new" in between_markers(bench.README.read_text("utf-8"), "new")


@pytest.mark.parametrize("command", [[], ["rate-limit"], ["gateway"], ["consumer"]])
def test_every_command_has_help_with_an_example(command):
    result = CliRunner().invoke(bench.app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example: python -m bench" in result.output


def test_shapes_and_lengths_come_from_the_command_line(monkeypatch):
    plans = []

    def measure(_folder, plan, *, tell):
        tell("running")
        plans.append(plan)
        return SECTION

    monkeypatch.setattr(bench.gateway, "measure", measure)
    arguments = ["gateway", "--seconds", "2", "--shape", "1", "--shape", "7"]
    result = CliRunner().invoke(bench.app, arguments)
    assert result.exit_code == 1, "a failed claim"
    assert plans == [Plan(seconds=2.0, shapes=(1, 7))]


def test_interrupted_benchmark_ends_with_130(monkeypatch):
    def measure(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.consumer, "measure", measure)
    assert CliRunner().invoke(bench.app, ["consumer"]).exit_code == 130


def test_worker_counts_are_summed_over_tenants():
    page = "".join(
        f'stepclock_consumer_points_total{{tenant="{tenant}",outcome="{outcome}"}} {count}\n'
        for tenant, outcome, count in (("a", "stored", 5), ("b", "stored", 7), ("b", "dead", 2))
    )
    assert outcomes("# TYPE stepclock_consumer_points_total counter\n" + page) == (12, 2)
    assert outcomes("") == (0, 0)


def test_batches_join_parts_and_keep_the_rest():
    assert batches(iter([b"a", b"b", b"c"]), 2) == [b"a\nb", b"c"]


def test_points_of_the_consumer_must_fill_whole_blocks():
    with pytest.raises(ValueError, match="multiple of 100,000"):
        Workload.recent(150_000)
    result = CliRunner().invoke(bench.app, ["consumer", "--points", "150000"])
    assert result.exit_code == 2
