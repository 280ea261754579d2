"""What Linux says of processes and of the machine (proc(5)): CPU time, memory, names."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from native.influxd_binary import VERSION as INFLUXD_VERSION
from native.kafka_files import VERSION as KAFKA_VERSION

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

#: Libraries whose version the figures depend on.
_LIBRARIES = ("kafka-python", "influxdb-client", "uvicorn", "uvloop", "httptools", "google-re2")


class UnsupportedMachine(Exception):
    """There is no /proc to read CPU times from: the benchmark runs on Linux."""


def require_linux() -> None:
    """Raise UnsupportedMachine where CPU times can't be read."""
    if not Path("/proc/self/stat").exists():
        raise UnsupportedMachine("CPU times are read from /proc: the benchmark runs on Linux only")


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that all threads of a process have used so far."""
    return parse_cpu_s(Path(f"/proc/{pid}/stat").read_text())


def parse_cpu_s(stat: str) -> float:
    """utime + stime of /proc/PID/stat, in seconds. The name before them may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def busy_s() -> float:
    """CPU seconds that all cores have been busy since the start, stolen ones included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def peak_rss_mib(pid: int) -> float:
    """The most memory that a process has held so far (VmHWM), in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"process {pid} has ended")


def rss_mib(pid: int) -> float:
    """Memory that a process holds now, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def load_average() -> float:
    """Processes that ran or wanted to, on average over the last minute."""
    return os.getloadavg()[0]


def load_note(before: float) -> str:
    """The load before the benchmark began, which is what others did."""
    date = datetime.now(UTC).date()
    return f"Measured on {date}; the load average before the start was {before:.2f}."


def description() -> list[str]:
    """The machine and the versions, a line each."""
    memory_kib = int(Path("/proc/meminfo").read_text().split("\n", 1)[0].split()[1])
    return [
        (
            f"{os.cpu_count()} cores of {cpu_model()}, {memory_kib / 1024**2:.1f} GiB of memory, "
            f"Linux {platform.release()}"
        ),
        f"Kafka {KAFKA_VERSION}, InfluxDB {INFLUXD_VERSION.removeprefix('v')}, "
        f"Python {platform.python_version()}; "
        + ", ".join(f"{library} {version(library)}" for library in _LIBRARIES),
    ]


def cpu_model() -> str:
    """What the processor calls itself."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
