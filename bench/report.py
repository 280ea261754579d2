"""The report: sections of tables and notes, on the terminal and in the README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under named columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Section:
    """What one part of the benchmark found. failures: claims that did not hold."""

    title: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    failures: Sequence[str] = ()


def show(section: Section, console: Console) -> None:
    """Print a section."""
    console.print(f"\n[bold]{escape(section.title)}[/bold]")
    for table in section.tables:
        shown = RichTable()
        for number, name in enumerate(table.columns):
            shown.add_column(escape(name), justify="right" if number else "left")
        for row in table.rows:
            shown.add_row(*map(escape, row))
        console.print(shown)
    for note in section.notes:
        console.print(f"- {note}", markup=False)
    for failure in section.failures:
        console.print(f"FAILED: {failure}", style="red", markup=False)


def markdown(introduction: Iterable[str], sections: Iterable[Section]) -> str:
    """The whole report as Markdown."""
    parts = ["\n".join(f"- {line}" for line in introduction)]
    for section in sections:
        parts.append(f"### {section.title}")
        parts += [_markdown_table(table) for table in section.tables]
        points = [*section.notes, *(f"**FAILED**: {failure}" for failure in section.failures)]
        if points:
            parts.append("\n".join(f"- {point}" for point in points))
    return "\n\n".join(parts)


def between_markers(page: str, text: str) -> str:
    """The page with `text` in the place of what stands between its markers.

    Raises ValueError for a page without them.
    """
    before, begin, rest = page.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def write(path: Path, text: str) -> None:
    """Put the report between the markers of a page. Raises ValueError, OSError."""
    path.write_text(between_markers(path.read_text("utf-8"), text), "utf-8")


def _markdown_table(table: Table) -> str:
    rows = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)
