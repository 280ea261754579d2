"""`stepclock-server settings`: every STEPCLOCK_ variable, with unit, default and advice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.table import Table

from adapters.settings import PREFIX
from admin.context import SETTINGS_OF


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable: which commands read it, what it is without, and when to change it."""

    variable: str
    commands: tuple[str, ...]
    default: str
    description: str


def all_settings() -> Iterator[Setting]:
    """Every setting once, in the order of the commands that read it."""
    seen: set[str] = set()
    for model in SETTINGS_OF.values():
        for name, field in model.model_fields.items():
            if name in seen:
                continue
            seen.add(name)
            commands = tuple(c for c, other in SETTINGS_OF.items() if name in other.model_fields)
            yield Setting(
                PREFIX + name.upper(), commands, _default(name, field), field.description or ""
            )


def markdown() -> str:
    """The table of README.md."""
    rows = [
        f"| `{s.variable}` | {', '.join(s.commands)} | {s.default} | {s.description} |"
        for s in all_settings()
    ]
    return "\n".join(["| variable | read by | default | meaning |", "|---|---|---|---|", *rows])


def settings_command(
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as it stands in README.md.")
    ] = False,
) -> None:
    """Every setting with unit, default and when to change it."""
    if as_markdown:
        typer.echo(markdown())
        return
    table = Table("variable", "read by", "default", "meaning")
    for setting in all_settings():
        table.add_row(
            setting.variable, ", ".join(setting.commands), setting.default, setting.description
        )
    Console().print(table)


def _default(name: str, field: FieldInfo) -> str:
    if name == "data_dir":
        return "user's data folder"
    default = field.default
    if default is None or not str(default):
        return "unset"
    if "SecretStr" in str(field.annotation):
        return "unset"
    if isinstance(default, frozenset):
        return ", ".join(sorted(default))
    if isinstance(default, int) and default >= 1024 * 1024 and default % (1024 * 1024) == 0:
        return f"{default} ({default // (1024 * 1024)} MiB)"
    return str(default)
