"""The command line. Exit codes: 0 done, 1 a check failed, 2 usage, 130 Ctrl-C."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import stepclock
from stepclock.cli import export, runs, sync, tail
from stepclock.cli.doctor import command as doctor
from stepclock.cli.options import Failed, Misused
from stepclock.cli.terminal import complain


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="stepclock",
        description="Looks after the metrics of training jobs.",
        epilog="'stepclock COMMAND --help' shows examples.",
    )
    parser.add_argument("--version", action="version", version=stepclock.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (doctor, sync, runs, tail, export):
        module.add_command(commands)
    args = parser.parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read has enough, such as `head`; nothing may be written at the exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Misused as exc:
        complain(str(exc))
        return 2
    except Failed as exc:
        complain(str(exc))
        return 1
    return code
