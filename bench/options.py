"""The fields of a plan as options of the command line."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer


def options(plan: Any) -> list[inspect.Parameter]:
    """The fields of a plan as parameters of a command, its values as their defaults."""
    hints = get_type_hints(type(plan), include_extras=True)
    return [
        _option(field.name, hints[field.name], getattr(plan, field.name)) for field in fields(plan)
    ]


def changed(plan: Any, values: Mapping[str, Any]) -> Any:
    """The plan with the values of its options. Raises BadParameter for what it refuses."""
    numbers = {name: _numbers(v) if isinstance(v, str) else v for name, v in values.items()}
    try:
        return replace(plan, **numbers)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


def _option(name: str, hint: Any, value: Any) -> inspect.Parameter:
    kind, text = get_args(hint) if get_origin(hint) is Annotated else (hint, None)
    least = None if kind is bool else 1
    if get_origin(kind) is Sequence:
        kind, least = str, None
        value = ",".join(map(str, value))
    option = typer.Option(min=least, help=text)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=value,
        annotation=Annotated[kind, option],
    )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split(","))) if text else ()
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r} are no whole numbers joined by commas") from exc
