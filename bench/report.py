"""The report: sections of tables and notes, on the terminal and in the README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
_MARK = re.compile(r"<!-- part: (\S+) -->\n")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under named columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture beside the page. says: what it shows, for those who don't see it."""

    name: str
    says: str
    svg: str


@dataclass(frozen=True, slots=True)
class Section:
    """What one part of the benchmark found. failures: claims that did not hold."""

    title: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    failures: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()


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


def markdown(section: Section) -> str:
    """A section as Markdown."""
    points = [*section.notes, *(f"**FAILED**: {failure}" for failure in section.failures)]
    return "\n\n".join(
        [
            f"### {section.title}",
            *(f"![{drawing.says}]({drawing.name})" for drawing in section.drawings),
            *map(_markdown_table, section.tables),
            *(["\n".join(f"- {point}" for point in points)] if points else []),
        ]
    )


@dataclass(frozen=True, slots=True)
class Page:
    """A page whose sections are replaced one by one; they stand in the given order of parts."""

    path: Path
    order: Sequence[str]

    def write(
        self, part: str, section: Section, introduction: Iterable[str], measured: str
    ) -> None:
        """Replace the section of a part, and its drawings beside the page.

        introduction: above all sections. measured: when, and with what beside it. Raises
        ValueError for a page without markers, OSError.
        """
        page = self.path.read_text("utf-8")
        text = markdown(replace(section, notes=[*section.notes, measured]))
        texts = {**sections(page), part: text}
        parts = ["\n".join(f"- {line}" for line in introduction)]
        parts += [f"{_mark(name)}\n{texts[name]}" for name in self.order if name in texts]
        for drawing in section.drawings:
            self.path.with_name(drawing.name).write_text(drawing.svg, "utf-8")
        self.path.write_text(between_markers(page, "\n\n".join(parts)), "utf-8")


def sections(page: str) -> dict[str, str]:
    """The sections between the markers of a page, as they stand there, by part."""
    _before, _begin, rest = page.partition(BEGIN)
    figures, _end, _after = rest.partition(END)
    _introduction, *found = _MARK.split(figures)
    return {name: text.strip() for name, text in zip(found[::2], found[1::2], strict=True)}


def between_markers(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """The page with `text` in the place of what stands between its markers.

    Raises ValueError for a page without them.
    """
    before, found_begin, rest = page.partition(begin)
    _old, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"the page lacks {begin} … {end}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def _mark(part: str) -> str:
    return f"<!-- part: {part} -->"


def _markdown_table(table: Table) -> str:
    rows = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)
