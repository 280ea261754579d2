"""Validation alone: lines/s and MB/s of `schemas.admission` on one core, by kind of body."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.lab.figures import column, short, whole
from bench.lab.lines import STEP_MS, body
from bench.lab.services import Tell
from bench.report import Section, Table
from schemas.admission.body import admit
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.precision import Precision
from schemas.retention import DEFAULT_CLASS, reserved_in

_LINES = 1000
_HOUR_NS = 3600 * 10**9
_DAY_NS = 24 * _HOUR_NS

#: What else a job may send beside the lines of `bench.lab.lines`, without its time.
_OTHER_SHAPES = (
    b"metric,project=p,run=r1 eval/loss=0.41,eval/acc=0.87,step=%di",
    b"gpu,node=n17,gpu=3 util=0.97,mem=71303168i,temp=64.5",
    b'checkpoints,run=r1,rank=0 path="s3://bucket/run r1/step.pt",bytes=%di',
    b"layers,run=r1 layer1/grad=0.001,layer2/grad=0.002,layer3/grad=%d",
)
#: Names and numbers that no pattern takes, each admitted by the exact parser.
_HOSTILE = rb'me\tric,pro\ject=a\,b,run=r\ 1 te\xt="say \"a,b=c\" ",big=1234567890123456789i,n=%d'
_NOT_A_NUMBER = b"metric,project=p,run=r1 train/loss=NaN,step=%di"


@dataclass(frozen=True)
class Plan:
    """How long each kind of body is judged in each round."""

    seconds: float = 1.0
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Kind:
    """A body of 1,000 lines, and how many of them are good."""

    body: bytes
    good: int = _LINES


def measure(folder: Path, plan: Plan, *, tell: Tell) -> Section:
    """Judge each kind of body again and again, the kinds taking turns."""
    del folder  # nothing is started
    now_ns = time.time_ns()
    judged = kinds(now_ns // 10**6 - 2 * _LINES * STEP_MS)
    judge = judge_at(now_ns)
    took_s: dict[str, list[float]] = defaultdict(list)
    failures = []
    for name, kind in judged.items():
        points, refused = judge(kind.body)
        if (points, refused) != (kind.good, _LINES - kind.good):
            failures.append(f"{name}: {points} lines were taken, expected {kind.good}")
    for number in range(plan.rounds):
        for name, kind in judged.items():
            took_s[name].append(_seconds_of(partial(judge, kind.body), plan.seconds))
        tell(f"round {number + 1} of {plan.rounds}")
    return _section(plan, judged, took_s, failures)


def kinds(epoch_ms: int) -> Mapping[str, Kind]:
    """The bodies by their names. epoch_ms: time of the first line."""
    times = [b"%d" % (epoch_ms + number * STEP_MS) for number in range(_LINES)]
    plain = body("r1", 0, _LINES, epoch_ms).split(b"\n")
    shapes = [b"", *_OTHER_SHAPES]
    mixed = [
        b"%b %b" % (_numbered(shapes[n % len(shapes)], n), times[n])
        if n % len(shapes)
        else plain[n]
        for n in range(_LINES)
    ]
    some_bad = [
        line if n % 100 else b"%b %b" % (_numbered(_NOT_A_NUMBER, n), times[n])
        for n, line in enumerate(plain)
    ]
    hostile = [b"%b %b" % (_numbered(_HOSTILE, n), times[n]) for n in range(_LINES)]
    bad = [b"%b %b" % (_numbered(_NOT_A_NUMBER, n), times[n]) for n in range(_LINES)]
    return {
        "one shape": Kind(b"\n".join(plain)),
        "five shapes in turns": Kind(b"\n".join(mixed)),
        "1 % bad lines": Kind(b"\n".join(some_bad), good=_LINES - _LINES // 100),
        "quotes and escapes, all to the exact parser": Kind(b"\n".join(hostile)),
        "bad lines only": Kind(b"\n".join(bad), good=0),
    }


def judge_at(now_ns: int) -> Callable[[bytes], tuple[int, int]]:
    """A judge of bodies in ms: how many of a body's lines it takes and refuses."""
    rules = Rules(now_ns - 90 * _DAY_NS, now_ns + _HOUR_NS, "90d", reserved_in(DEFAULT_CLASS))

    def judge(text: bytes) -> tuple[int, int]:
        admission = admit(text, Precision.MS, rules, time.time_ns)
        return admission.points, admission.refused_total

    return judge


def _numbered(line: bytes, number: int) -> bytes:
    return line.replace(b"%d", b"%d" % number)


def _seconds_of(act: Callable[[], object], at_least_s: float) -> float:
    """CPU seconds that one call takes, on average over so many seconds."""
    calls, began_s = 0, time.thread_time()
    while (spent_s := time.thread_time() - began_s) < at_least_s:
        act()
        calls += 1
    return spent_s / calls


def _section(
    plan: Plan,
    judged: Mapping[str, Kind],
    took_s: Mapping[str, Sequence[float]],
    failures: Sequence[str],
) -> Section:
    return Section(
        "Validation: one core, bodies of 1,000 lines",
        [
            Table(
                ("lines", "bytes a line", "lines/s", "MB/s", "CPU s/M"),
                [
                    [
                        name,
                        whole(len(kind.body) / _LINES),
                        column([_LINES / s for s in took_s[name]], whole),
                        column([len(kind.body) / s / 1e6 for s in took_s[name]], short),
                        column([s * 1e6 / _LINES for s in took_s[name]], short),
                    ]
                    for name, kind in judged.items()
                ],
            )
        ],
        [
            (
                f"Least / median / greatest of {plan.rounds} runs of {plan.seconds:g} s of CPU "
                "time, the kinds taking turns. s/M: CPU seconds for a million lines. The gateway "
                "lets a tenant rest after bad lines, so what they cost harms nobody else."
            )
        ],
        failures,
    )
