"""Samples of the machine, read from /proc and, where nvidia-ml-py is installed, from the GPUs."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

from stepclock.identity import Identity
from stepclock.record.state import system_line

#: A sector as the kernel counts it, whatever the disk has.
_SECTOR = 512

#: Processes of the tree that are looked at.
_MAX_PROCESSES = 500


class Sampler:
    """Rates are since the sample before: the first one has none. Never raises OSError."""

    def __init__(
        self,
        identity: Identity,
        *,
        proc: Path = Path("/proc"),
        now_ns: Callable[[], int] = time.time_ns,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity = identity
        self._host = socket.gethostname()
        self._proc = proc
        self._now_ns = now_ns
        self._now = now
        self._before: dict[str, float] = {}
        self._sampled = 0.0
        self._gpus: list[Any] | None = None

    def lines(self) -> list[str]:
        """Lines of class system: `host`, `process`, and `gpu` for each GPU."""
        now, time_ns = self._now(), self._now_ns()
        elapsed_s = now - self._sampled if self._sampled else 0.0
        self._sampled = now
        found = []
        for measurement, tags, values, counters in self._read():
            for name, count in counters.items():
                key = f"{measurement}/{name}"
                before = self._before.get(key)
                if before is not None and elapsed_s > 0 and count >= before:
                    values[name] = (count - before) / elapsed_s
                self._before[key] = count
            if values:
                about = {"host": self._host, **tags}
                found.append(system_line(measurement, self._identity, about, values, time_ns))
        return found

    def _read(
        self,
    ) -> Iterator[tuple[str, dict[str, str], dict[str, float], Mapping[str, float]]]:
        """Measurement, tags, values, and counters of which the rate is meant."""
        yield "host", {}, self._host_values(), self._host_counters()
        yield "process", {}, *self._process()
        for index, values in enumerate(self._gpu_values()):
            yield "gpu", {"gpu": str(index)}, values, {}

    def _host_values(self) -> dict[str, float]:
        values: dict[str, float] = {}
        memory = {
            name: float(rest.split()[0]) * 1024
            for name, _, rest in (line.partition(":") for line in self._text("meminfo"))
            if name in {"MemTotal", "MemAvailable", "SwapTotal", "SwapFree"} and rest.split()
        }
        if "MemTotal" in memory and "MemAvailable" in memory:
            values["memory_total_bytes"] = memory["MemTotal"]
            values["memory_used_bytes"] = memory["MemTotal"] - memory["MemAvailable"]
        if memory.get("SwapTotal"):
            values["swap_used_bytes"] = memory["SwapTotal"] - memory.get("SwapFree", 0.0)
        load = " ".join(self._text("loadavg")).split()
        if load:
            values["load_1m"] = float(load[0])
        try:
            disk = shutil.disk_usage(Path.cwd())
        except OSError:
            return values
        values["disk_total_bytes"] = float(disk.total)
        values["disk_used_bytes"] = float(disk.used)
        return values

    def _host_counters(self) -> dict[str, float]:
        counters: dict[str, float] = {}
        for line in self._text("stat"):
            words = line.split()
            if words and words[0] == "cpu":
                ticks = [float(word) for word in words[1:9]]
                busy = sum(ticks) - ticks[3] - ticks[4]  # idle, waiting for disks
                counters["cpu_cores_busy"] = busy / os.sysconf("SC_CLK_TCK")
        disks = [line.split() for line in self._text("diskstats")]
        # Whole disks only: partitions would be counted twice.
        whole = [w for w in disks if len(w) > 9 and (self._sys_block / w[2]).exists()]
        if whole:
            counters["disk_read_bytes_per_s"] = sum(float(w[5]) for w in whole) * _SECTOR
            counters["disk_written_bytes_per_s"] = sum(float(w[9]) for w in whole) * _SECTOR
        links = [line.partition(":") for line in self._text("net/dev")]
        outside = [rest.split() for name, _, rest in links if rest and name.strip() != "lo"]
        outside = [words for words in outside if len(words) > 8]
        if outside:
            counters["net_received_bytes_per_s"] = sum(float(words[0]) for words in outside)
            counters["net_sent_bytes_per_s"] = sum(float(words[8]) for words in outside)
        return counters

    def _process(self) -> tuple[dict[str, float], dict[str, float]]:
        """The program with all its descendants."""
        ticks = rss = threads = count = 0.0
        for pid in self._tree():
            text = " ".join(self._text(f"{pid}/stat"))
            words = text[text.rfind(")") + 2 :].split()  # a name may hold spaces
            if len(words) < 22:
                continue
            count += 1
            ticks += float(words[11]) + float(words[12])
            threads += float(words[17])
            rss += float(words[21]) * os.sysconf("SC_PAGE_SIZE")
        if not count:
            return {}, {}
        values = {"processes": count, "threads": threads, "rss_bytes": rss}
        return values, {"cpu_cores_busy": ticks / os.sysconf("SC_CLK_TCK")}

    def _tree(self) -> list[int]:
        tree = [os.getpid()]
        for pid in tree:  # grows while it is walked
            try:
                tasks = os.listdir(self._proc / str(pid) / "task")
            except OSError:
                continue
            for task in tasks:
                for line in self._text(f"{pid}/task/{task}/children"):
                    tree += [int(word) for word in line.split()]
            if len(tree) > _MAX_PROCESSES:
                break
        return tree[:_MAX_PROCESSES]

    def _gpu_values(self) -> Iterator[dict[str, float]]:
        """What NVML tells of each GPU; what one does not know is left out."""
        if self._gpus is None:
            self._gpus = _gpus()
        if not self._gpus:
            return
        import pynvml

        questions: dict[str, Callable[[Any], float]] = {
            "util_percent": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
            "memory_used_bytes": lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used,
            "memory_total_bytes": lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).total,
            "power_w": lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
            "temperature_c": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, 0),
            "sm_clock_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, 1),
        }
        for gpu in self._gpus:
            values: dict[str, float] = {}
            for name, ask in questions.items():
                try:
                    values[name] = float(ask(gpu))
                except pynvml.NVMLError:
                    continue
            yield values

    @property
    def _sys_block(self) -> Path:
        return self._proc.parent / "sys" / "block"

    def _text(self, name: str) -> list[str]:
        try:
            return (self._proc / name).read_text("utf-8", "replace").splitlines()
        except OSError:  # not Linux, or a process that has ended
            return []


def _gpus() -> list[Any]:
    """Handles of the GPUs; none without nvidia-ml-py, driver or GPU."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
    except Exception:
        return []
