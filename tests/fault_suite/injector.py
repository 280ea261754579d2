"""Makes a schedule happen, and stands in for the supervisor that restarts what ends by itself."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Self

from bench.lab.machine import peak_rss_mib
from native.process import StartFailed, log_tail
from tests.fault_suite.rig import Rig
from tests.fault_suite.schedule import Fault

WATCH_EVERY_S = 0.5
#: A process that can't be started in so many tries has failed.
STARTS = 3


class Injector:
    """Begins and ends faults. Leaving its block waits for what is under way.

    Whatever is done to one target is done on one thread, in order: a start takes seconds, and
    must hold up no fault of another target.
    """

    def __init__(self, rig: Rig, tell: Callable[[str], None]) -> None:
        self._rig = rig
        self._tell = tell
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._under_way: list[Future[None]] = []
        #: Processes that are down since a fault says so, or are being started again.
        self._down: set[str] = set()
        #: What ended by itself, and was started again, by name.
        self.ended: Counter[str] = Counter()
        #: The most memory that any process of a name has held, in MiB.
        self.peak_mib: dict[str, float] = {}
        #: When the last fault was healed (time.monotonic).
        self.healed_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads.values():
            thread.shutdown(cancel_futures=True)

    def run(self, faults: Sequence[Fault]) -> None:
        """Return once every fault is healed. Raises what a target's thread raised."""
        began = time.monotonic()
        steps = sorted(
            [(f.at_s, False, n) for n, f in enumerate(faults)]
            + [(f.end_s, True, n) for n, f in enumerate(faults)]
        )
        for at_s, healing, number in steps:
            self.watch_until(began + at_s)
            fault = faults[number]
            if not healing:
                self._tell(str(fault))
            self._submit(fault.target, self._heal if healing else self._begin, fault)
        for future in self._under_way:
            future.result()
        self.healed_at = time.monotonic()

    def watch_until(self, moment: float) -> None:
        """Sample memory, and restart what ended by itself, until then (time.monotonic)."""
        pause = threading.Event()  # never set
        while True:
            self._watch()
            left_s = moment - time.monotonic()
            if left_s <= 0:
                return
            pause.wait(min(left_s, WATCH_EVERY_S))

    def _watch(self) -> None:
        for future in self._under_way:
            if future.done():
                future.result()
        for name, process in list(self._rig.processes.items()):
            # RuntimeError and the others: it is down, or just going down.
            with suppress(RuntimeError, ProcessLookupError, FileNotFoundError):
                peak = peak_rss_mib(process.pid)
                self.peak_mib[name] = max(peak, self.peak_mib.get(name, 0.0))
            if not process.running and name not in self._down:
                self._down.add(name)
                self._submit(name, self._revive, name)

    def _submit(self, target: str, act: Callable[..., None], *arguments: object) -> None:
        if target not in self._threads:
            self._threads[target] = ThreadPoolExecutor(1, thread_name_prefix=target)
        self._under_way.append(self._threads[target].submit(act, *arguments))

    def _revive(self, name: str) -> None:
        process = self._rig.processes.get(name)
        if process is None or process.running:  # a fault that was due has ended or started it
            return
        self._note_end(name)
        self._start(name)

    def _start(self, name: str) -> None:
        """Start as a supervisor does: again, where it ends at once."""
        for _ in range(STARTS - 1):
            try:
                self._rig.start(name)
                break
            except StartFailed:
                self._note_end(name)
        else:
            self._rig.start(name)
        self._down.discard(name)

    def _note_end(self, name: str) -> None:
        self.ended[name] += 1
        self._tell(f"{name} ended by itself: {log_tail(self._rig.processes[name].log_path, 1)}")

    def _begin(self, fault: Fault) -> None:
        rig, target = self._rig, fault.target
        match fault.kind:
            case "kill":
                self._down.add(target)
                rig.processes[target].kill()
            case "restart":
                self._down.add(target)
                rig.processes[target].stop()
            case "pause":
                with suppress(RuntimeError):  # it has just ended by itself
                    rig.processes[target].pause()
            case "cut":
                rig.links[target].cut()
            case "freeze":
                rig.links[target].freeze()
            case "mute":
                rig.links[target].freeze(answers_only=True)
            case "slow":
                rig.links[target].slow(0.1)
            case "join":
                rig.join()
            case "disk-full":
                rig.fill_disk()

    def _heal(self, fault: Fault) -> None:
        rig, target = self._rig, fault.target
        match fault.kind:
            case "kill" | "restart":
                self._start(target)
            case "pause":
                rig.processes[target].resume()
            case "cut" | "freeze" | "mute" | "slow":
                rig.links[target].restore()
            case "join":
                self._down.add(target)
                rig.leave()
                self._down.discard(target)
            case "disk-full":
                rig.empty_disk()
                self._down.add(target)
                rig.processes[target].stop()  # it takes no writes until it is started again
                self._start(target)
