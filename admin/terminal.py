"""What commands print: text that no terminal obeys, and an error before the exit code."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text


def errors() -> Console:
    """Standard error, so that standard output holds what was asked for and nothing else."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def plain(text: str, *, style: str = "") -> Text:
    """Text as it is: a client may have sent markup or control characters."""
    return Text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), style)


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Say what is wrong and end: 1 a check failed or something is away, 2 wrong usage."""
    errors().print(plain(f"error: {message}", style="red"))
    raise typer.Exit(code)


def agreed(question: str, otherwise: str) -> bool:
    """Ask whoever is there. Ends the command with 2 where nobody is, with 130 on Ctrl-C.

    otherwise: what is true if it ends here, as in "nothing was sent".
    """
    if not sys.stdin.isatty():
        fail(f"{otherwise}; say --yes where nobody can be asked", code=2)
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        raise typer.Exit(130) from None
