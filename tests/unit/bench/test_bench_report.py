from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench import __main__ as bench
from bench.consumer.drain import outcomes
from bench.lab.blocks import Workload, batches
from bench.parts import PARTS, README, Part, with_table
from bench.report import (
    BEGIN,
    END,
    Drawing,
    Page,
    Section,
    Table,
    between_markers,
    markdown,
    sections,
    show,
)

SECTION = Section("Part [1]", [Table(("what", "a|b"), [("x", "1")])], ["a note"], ["too slow"])


def test_markdown_holds_tables_notes_and_failures():
    assert markdown(SECTION) == (
        "### Part [1]\n\n| what | a\\|b |\n| --- | ---: |\n| x | 1 |\n\n"
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


def test_a_section_is_replaced_alone_and_stands_in_the_order_of_the_parts(tmp_path):
    page = Page(tmp_path / "README.md", ["first", "second"])
    page.path.write_text(f"# Top\n{BEGIN}\n{END}\nbottom\n", "utf-8")
    page.write("second", Section("Two", []), ["a machine"], "Measured late.")
    page.write("first", Section("One", []), ["a machine"], "Measured later.")
    page.write("second", Section("Zwei", []), ["another"], "Measured last.")
    text = page.path.read_text("utf-8")
    assert text.startswith(f"# Top\n{BEGIN}\n- another\n\n<!-- part: first -->\n### One\n")
    assert text.endswith(f"{END}\nbottom\n")
    assert sections(text) == {
        "first": "### One\n\n- Measured later.",
        "second": "### Zwei\n\n- Measured last.",
    }


def test_a_drawing_lies_beside_the_page_that_shows_it(tmp_path):
    page = Page(tmp_path / "README.md", ["part"])
    page.path.write_text(BEGIN + END, "utf-8")
    drawn = Section("Part", [], drawings=[Drawing("part.svg", "Two bars", "<svg/>")])
    page.write("part", drawn, [], "Measured.")
    assert "![Two bars](part.svg)" in page.path.read_text("utf-8")
    assert (tmp_path / "part.svg").read_text("utf-8") == "<svg/>"


def test_the_readme_lists_the_parts_there_are():
    page = README.read_text("utf-8")
    assert page == with_table(page, PARTS), "run: python -m bench.parts"
    assert set(sections(page)) <= {part.name for part in PARTS}


@pytest.mark.parametrize("command", [[], *([part.name] for part in PARTS)])
def test_every_command_has_help_with_an_example(command):
    result = CliRunner().invoke(bench.app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example: python -m bench" in result.output


@dataclass(frozen=True)
class Plan:
    """What a part can be told."""

    seconds: Annotated[float, "How long."] = 4.0
    kafka: bool = False
    shapes: Sequence[int] = (1, 10)

    def __post_init__(self):
        if 13 in self.shapes:
            raise ValueError("shapes must not be unlucky")


def run(measure, *arguments):
    parts = (Part("part", "Something.", "None.", Plan(), measure),)
    return CliRunner().invoke(bench.build(parts, README), ["part", *arguments])


def test_fields_of_a_plan_come_from_the_command_line():
    plans = []

    def measure(_folder, plan, *, tell):
        tell("running")
        plans.append(plan)
        return SECTION

    assert run(measure).exit_code == 1, "a failed claim"
    run(measure, "--seconds", "2", "--kafka", "--shapes", "1,7")
    assert plans == [Plan(), Plan(2.0, kafka=True, shapes=(1, 7))]
    assert "How long." in run(measure, "--help").output


@pytest.mark.parametrize("arguments", [["--shapes", "x"], ["--seconds", "0"], ["--shapes", "13"]])
def test_a_plan_that_makes_no_sense_is_refused_before_anything_runs(arguments):
    assert run(None, *arguments).exit_code == 2


def test_interrupted_benchmark_ends_with_130():
    def measure(*_, **__):
        raise KeyboardInterrupt

    assert run(measure).exit_code == 130


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
