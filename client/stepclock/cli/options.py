"""Options that all commands share: where the gateway is and which key it gets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stepclock.settings import Settings


class Misused(Exception):
    """The command line or a setting can't be: exit code 2."""


class Failed(Exception):
    """The command can't do what it was asked for: exit code 1."""


def add_gateway_options(parser: argparse.ArgumentParser) -> None:
    """Options that win over the STEPCLOCK_* variables, those over the key's file."""
    group = parser.add_argument_group("gateway")
    group.add_argument("--endpoint", metavar="URL", help="base URL; else STEPCLOCK_ENDPOINT")
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with the key; else STEPCLOCK_TOKEN, STEPCLOCK_TOKEN_FILE, or the key that a "
        "server on this machine left",
    )
    group.add_argument(
        "--ca-file",
        metavar="FILE",
        help="PEM file of the authorities that may sign its certificate; else STEPCLOCK_CA_FILE",
    )


def token_of(args: argparse.Namespace) -> str | None:
    """The key of --token-file; none without. Raises Misused."""
    if args.token_file is None:
        return None
    try:
        token = Path(args.token_file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise Misused(f"--token-file can't be read: {exc}") from exc
    if not token:
        raise Misused(f"--token-file {args.token_file} is empty")
    return token


def settings_of(args: argparse.Namespace, spool_dir: str | None = None) -> Settings:
    """The settings of a command. Raises Misused."""
    given = {
        "endpoint": args.endpoint,
        "token": token_of(args),
        "ca_file": args.ca_file,
        "spool_dir": spool_dir,
    }
    try:
        return Settings.resolve(given, forgiving=False)
    except ValueError as exc:
        raise Misused(str(exc)) from exc


def new_parser(commands: Any, name: str, about: str, examples: str) -> argparse.ArgumentParser:
    """The parser of one command. commands: where argparse keeps them."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser
