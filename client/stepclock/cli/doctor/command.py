"""`stepclock doctor`: one point on its whole way, each hop timed, and what is wrong named."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from stepclock.cli.doctor.examination import examine
from stepclock.cli.doctor.reach import Finding
from stepclock.cli.options import add_gateway_options, new_parser, settings_of
from stepclock.cli.terminal import Terminal, duration, printable
from stepclock.send.transport import GatewayConnection

_EXAMPLES = """\
  stepclock doctor
  stepclock doctor --endpoint https://metrics.example:8787 --ca-file ca.pem
  STEPCLOCK_TOKEN_FILE=~/key stepclock doctor --timeout 60"""


def add_command(commands: Any) -> None:
    """Add it to the command line."""
    parser = new_parser(
        commands,
        "doctor",
        "send a test point through gateway, log and store, read it back, and say what is wrong",
        _EXAMPLES,
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=15.0,
        metavar="S",
        help="seconds that each hop may take (default: 15)",
    )
    add_gateway_options(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    terminal = Terminal(secret=settings.token)
    gateway = GatewayConnection(settings.endpoint, settings.token, settings.ca_file, args.timeout)
    try:
        return report(examine(settings, gateway, args.timeout), terminal, settings.endpoint)
    finally:
        gateway.close()


def report(findings: Iterable[Finding], terminal: Terminal, endpoint: str) -> int:
    """Print findings as they come; the exit code."""
    terminal.say(f"gateway {endpoint}")
    failed = warned = 0
    for each in findings:
        word, color = ("ok", "green") if each.ok else ("FAIL", "red")
        if each.ok and each.remedy:
            word, color = "warn", "yellow"
        failed += word == "FAIL"
        warned += word == "warn"
        took = "" if each.took_s is None else duration(each.took_s)
        terminal.say(
            f"{terminal.paint(f'{word:4}', color)}  {each.name:9}  {took:>8}  "
            f"{printable(each.text)}"
        )
        if each.remedy:
            terminal.say(f"{'':27}{terminal.paint('→ ' + each.remedy, 'bold')}")
    if failed:
        terminal.say(f"{failed} check failed" if failed == 1 else f"{failed} checks failed")
        return 1
    terminal.say("all is well" if not warned else "it works; look at the warnings")
    return 0
