"""The hottest pure functions, called so many times.

Example: ``python -m bench.budgets.counted admit=20 steps=10``.

valgrind counts the instructions of this process. Its input is fixed, so that two runs differ by
nothing but the number of calls.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from itertools import count

from bench.lab.lines import body
from consumers.views import StepsView
from schemas.admission.body import admit
from schemas.line_protocol.bounds import Rules
from schemas.line_protocol.precision import Precision
from schemas.log.block import Block, decode, encode_headers
from schemas.retention import DEFAULT_CLASS, reserved_in

_LINES = 1000
_EPOCH_MS = 1_795_277_400_000
_VOLATILE = frozenset({"node", "host", "pod", "slurm_job_id"})


def functions() -> dict[str, Callable[[], object]]:
    """What is counted, by name."""
    lines = body("r12", 0, _LINES, _EPOCH_MS)
    now_ns = _EPOCH_MS * Precision.MS.ns
    rules = Rules(now_ns - 10**16, now_ns + 10**16, "90d", reserved_in(DEFAULT_CLASS))
    block = Block("bench", "bench", Precision.MS, _LINES, now_ns, lines)
    view = StepsView(_VOLATILE)
    stamps = count(now_ns)

    def admitted() -> object:
        return admit(lines, Precision.MS, rules, stamps.__next__)

    def rendered() -> object:
        return view.render(block, DEFAULT_CLASS, Precision.MS)

    def coded() -> object:
        return decode(encode_headers(block), block.lines)

    return {"admit": admitted, "steps": rendered, "block": coded}


def main(*arguments: str) -> None:
    """Call each function as often as the arguments say."""
    known = functions()
    gc.disable()
    for argument in arguments:
        name, _, times = argument.partition("=")
        for _ in range(int(times)):
            known[name]()


if __name__ == "__main__":
    main(*sys.argv[1:])
