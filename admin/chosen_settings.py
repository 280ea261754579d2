"""Settings of a process as flags and environment have them."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from adapters.settings import CommonSettings, problems, unknown_variables
from admin.terminal import errors
from consumers.settings import ConsumerSettings
from embedded.settings import ServeSettings
from ingest.settings import GatewaySettings
from janitor.settings import JanitorSettings

S = TypeVar("S", bound=CommonSettings)


def chosen_settings(kind: type[S], **flags: Any) -> S:
    """Flag over environment over default. Exit code 2 for what can't be."""
    for variable, near in unknown_variables(
        os.environ, [GatewaySettings, ConsumerSettings, JanitorSettings, ServeSettings]
    ):
        hint = f"; did you mean {near}?" if near else ""
        errors.print(f"warning: {variable} is not a setting{hint}", style="yellow")
    try:
        return kind(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as exc:
        for name, wrong in problems(exc):
            errors.print(f"error: {name}: {wrong}", style="red", markup=False)
        raise typer.Exit(2) from exc
    except SettingsError as exc:
        errors.print(f"error: {exc}", style="red", markup=False)
        raise typer.Exit(2) from exc
