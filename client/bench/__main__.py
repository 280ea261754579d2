"""Compare stepclock with other clients of training jobs, all in one run, in alternation.

Exit code 1 if stepclock misses a claim; what the others reach is reported only.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import servers
from bench.lab.figures import percentile, short
from bench.lab.machine import cpu_model, load_average, load_note
from bench.report import Page, Section, Table, show
from native.process import StartFailed
from native.step import PreparationFailed
from processes import KILL_CALLS, KILL_PACE_S, ClientFailed, Kill, Processes
from rich.console import Console
from trackers import MODULES, TRACKERS

OURS, FLOOR = "stepclock", "floor: json and write"

#: What is logged: calls at most, seconds at most, values in a call, seconds between two calls.
CASES: dict[str, dict[str, Any]] = {
    "4 scalars, tight": {"width": 4, "pace_s": 0.0, "calls": 50_000, "most_s": 2.0},
    "4 scalars, every 10 ms": {"width": 4, "pace_s": 0.01, "calls": 500, "most_s": 20.0},
    "1,000 scalars, tight": {"width": 1000, "pace_s": 0.0, "calls": 100, "most_s": 2.0},
}
TIGHT, PACED, WIDE = CASES

FINISH_TIMEOUT_S = 3.0


@dataclass
class Found:
    """What one client showed."""

    calls_us: dict[str, list[float]] = field(default_factory=lambda: {case: [] for case in CASES})
    rss_mib: list[float] = field(default_factory=list)
    finish_s: list[float] = field(default_factory=list)
    imports_ms: list[float] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    incomplete: int = 0

    def p(self, case: str, percent: float) -> float:
        """A percentile of the µs that a call took."""
        return percentile(self.calls_us[case], percent)


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="interpreter with the clients")
    parser.add_argument("--rounds", type=int, default=2, help="how often each case is measured")
    parser.add_argument("--kills", type=int, default=20, help="of stepclock")
    parser.add_argument("--other-kills", type=int, default=4, help="of each other client")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    parser.add_argument("--only", nargs="*", default=list(TRACKERS), help="clients besides ours")
    parser.add_argument("--write", type=Path, help="page between whose markers the figures go")
    chosen = parser.parse_args()
    names = [name for name in TRACKERS if name in chosen.only or name == OURS]
    before = load_average()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="bench-client-") as temporary:
        folder = Path(temporary)
        try:
            with servers.running(folder, chosen.python) as (urls, store):
                processes = Processes(folder, chosen.python, urls)
                versions = [processes.version(MODULES[n]) for n in names if n in MODULES]
                found = _measure(processes, store, names, chosen, console)
                dead = _finish_without_server(processes)
        except (ClientFailed, PreparationFailed, StartFailed) as exc:
            print(f"bench-client: {exc}", file=sys.stderr)
            return 2
    failures = _failures(found, dead)
    sections = {"calls": _calls(found), "around": _around(found, dead, failures)}
    introduction = [
        f"{os.cpu_count()} cores of {cpu_model()}, Linux {platform.release()}",
        f"Python {platform.python_version()}; {', '.join(versions)}",
    ]
    for part, section in sections.items():
        show(section, console)
        if chosen.write:
            page = Page(chosen.write, list(sections))
            page.write(part, section, introduction, load_note(before))
    return 1 if failures else 0


def _measure(
    processes: Processes,
    store: servers.Store,
    names: Sequence[str],
    chosen: argparse.Namespace,
    console: Console,
) -> dict[str, Found]:
    found = {name: Found() for name in names}
    for case, how in CASES.items():
        for number in range(chosen.rounds):
            for name in names:
                console.print(f"{case}, round {number + 1}: {name}", style="dim")
                answer = processes.measure(name, **how)
                found[name].calls_us[case] += [ns / 1000 for ns in answer["took_ns"]]
                found[name].incomplete += not answer["ok"]
                if case == PACED:
                    found[name].rss_mib.append(answer["rss_mib"])
                    found[name].finish_s.append(answer["finish_s"])
    for name in names:
        if name in MODULES:
            found[name].imports_ms = processes.import_ms(name, 3)
    chance = random.Random(chosen.seed)
    for number in range(max(chosen.kills, chosen.other_kills)):
        for name in names:
            if number < (chosen.kills if name == OURS else chosen.other_kills):
                console.print(f"kill {number + 1}: {name}", style="dim")
                found[name].kills.append(processes.kill(name, store, chance))
    return found


def _finish_without_server(processes: Processes) -> dict[str, float]:
    """Seconds that `finish` takes where nobody listens, and where nobody answers."""
    took = {}
    with servers.silent() as silent:
        for what, url in (("refuses connections", servers.nobody()), ("never answers", silent)):
            server = {"endpoint": url, "token": "t", "finish_timeout": str(FINISH_TIMEOUT_S)}
            how = {**CASES[PACED], "calls": 100}
            answer = processes.measure(OURS, {"stepclock": server}, **how)
            took[what] = answer["finish_s"]
    return took


def _failures(found: Mapping[str, Found], dead: Mapping[str, float]) -> list[str]:
    """What stepclock promises and did not keep."""
    ours = found[OURS]
    others = {n: f.p(PACED, 50) for n, f in found.items() if n not in (OURS, FLOOR)}
    worst = max(ours.kills, key=lambda kill: kill.lost_ms)
    limits = [
        ("p50 of a call, tight", ours.p(TIGHT, 50), 5.0, "µs"),
        ("p50 of a call every 10 ms", ours.p(PACED, 50), 50.0, "µs"),
        ("p99.9 of a call, tight", ours.p(TIGHT, 99.9), 1000.0, "µs"),
        ("p99.9 of a call every 10 ms", ours.p(PACED, 99.9), 1000.0, "µs"),
        ("p50 of 1,000 scalars", ours.p(WIDE, 50), 100.0, "µs"),
        ("rows lost by SIGKILL", worst.lost_ms, 100.0, "ms"),
        ("import", statistics.median(ours.imports_ms), 100.0, "ms"),
        *(
            (f"finish where the server {what}", seconds, FINISH_TIMEOUT_S + 1.0, "s")
            for what, seconds in dead.items()
        ),
        *(
            (f"three times p50 every 10 ms, against {name}", 3 * ours.p(PACED, 50), p50, "µs")
            for name, p50 in others.items()
        ),
    ]
    failures = [
        f"{what}: {short(value)} {unit}, at most {short(most)} are promised"
        for what, value, most, unit in limits
        if not value <= most
    ]
    if not all(kill.gapless for kill in ours.kills):
        failures.append("after a SIGKILL rows are missing before the last one that is stored")
    if ours.incomplete:
        failures.append(f"{ours.incomplete} receipts say that not all is stored")
    return failures


def _calls(found: Mapping[str, Found]) -> Section:
    tables = []
    for case in CASES:
        rows = []
        for name, each in found.items():
            count = len(each.calls_us[case])
            cells = [
                short(each.p(case, percent)) if count >= enough else "-"
                for percent, enough in ((50, 1), (99, 100), (99.9, 1000), (100, 1))
            ]
            rows.append([name, *cells, f"{count:,}"])
        tables.append(Table([case, "p50", "p99", "p99.9", "max", "calls"], rows))
    return Section("What a call takes, in µs", tables)


def _around(found: Mapping[str, Found], dead: Mapping[str, float], failures: list[str]) -> Section:
    columns = ["client", "import, ms", "memory, MiB", "finish, s"]
    columns += ["lost by SIGKILL, ms: median", "worst", "rows", "kills"]
    rows = []
    for name, each in found.items():
        lost = [kill.lost_ms for kill in each.kills]
        cells: list[tuple[Callable[[Any], Any], list[float]]] = [
            (statistics.median, each.imports_ms),
            (max, each.rss_mib),
            (max, each.finish_s),
            (statistics.median, lost),
            (max, lost),
        ]
        gone, told = (sum(getattr(k, of) for k in each.kills) for of in ("lost", "told"))
        rows.append(
            [
                name,
                *(short(of_all(values)) if values else "-" for of_all, values in cells),
                f"{gone:,} of {told:,}",
                str(len(lost)),
            ]
        )
    notes = [
        f"finish of stepclock with a timeout of {FINISH_TIMEOUT_S:g} s, where the server {what}: "
        f"{seconds:.2f} s"
        for what, seconds in dead.items()
    ]
    notes.append(
        f"Killed at a random moment of {KILL_CALLS:,} calls, {KILL_PACE_S * 1e3:g} ms apart; rows: "
        "those that are gone of all whose call had returned, of all kills."
    )
    return Section("Around the calls", [Table(columns, rows)], notes, failures)


if __name__ == "__main__":
    sys.exit(main())
