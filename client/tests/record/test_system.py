import os
import sys
import time
from types import SimpleNamespace

import pytest

from stepclock.identity import Identity
from stepclock.record.buffer import Buffer
from stepclock.record.observer import Observer
from stepclock.record.system import Sampler

WHO = Identity("e", "r", 0, 0)


def fields(lines, measurement):
    [line] = [line for line in lines if line.startswith(f"{measurement},")]
    return {
        name: float(value)
        for name, _, value in (pair.partition("=") for pair in line.split(" ")[1].split(","))
    }


@pytest.fixture
def proc(tmp_path):
    """A machine of two processes, read twice, ten seconds apart."""
    root = tmp_path / "proc"
    own = root / str(os.getpid())
    for pid in (os.getpid(), 77):
        task = root / str(pid) / "task" / str(pid)
        task.mkdir(parents=True)
        (task / "children").write_text("77 " if pid != 77 else "")
    (root / "net").mkdir()
    (tmp_path / "sys" / "block" / "sda").mkdir(parents=True)
    hertz = os.sysconf("SC_CLK_TCK")

    def at(moment):
        busy = moment * hertz
        for pid in (os.getpid(), 77):
            stat = [
                "S",
                *["0"] * 10,
                str(busy),
                str(busy),
                "0",
                "0",
                "20",
                "0",
                "3",
                "0",
                "9",
                "100",
            ]
            stat.insert(21, "10")
            text = f"{pid} (a (b) c) {' '.join(stat[:21])} 10"
            (root / str(pid) / "stat").write_text(text)
        (root / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapTotal: 0 kB\n")
        (root / "loadavg").write_text("1.50 1.0 1.0 1/2 3\n")
        (root / "stat").write_text(f"cpu {busy} 0 {busy} 999999 5 0 0 0 0 0\ncpu0 1 2 3\n")
        disk = f"8 0 sda 1 0 {moment * 2} 0 1 0 {moment * 4} 0\n"
        (root / "diskstats").write_text(disk + disk.replace("sda", "sda1"))
        link = f"{moment * 100} 0 0 0 0 0 0 0 {moment * 50} 0 0"
        (root / "net" / "dev").write_text(f"Inter-|\n face |\n    lo: {link}\n  eth0: {link}\n")

    at(10)
    assert own.exists()
    return SimpleNamespace(root=root, at=at)


def test_rates_are_since_the_sample_before(proc):
    clock = iter([100.0, 110.0])
    sampler = Sampler(WHO, proc=proc.root, now_ns=lambda: 5, now=lambda: next(clock))
    first = sampler.lines()
    assert fields(first, "host")["memory_used_bytes"] == 600 * 1024
    assert fields(first, "host")["load_1m"] == 1.5
    assert "cpu_cores_busy" not in fields(first, "host")
    proc.at(20)
    second = sampler.lines()
    host, process = fields(second, "host"), fields(second, "process")
    assert host["cpu_cores_busy"] == 2.0
    assert host["disk_read_bytes_per_s"] == 2 * 512
    assert host["disk_written_bytes_per_s"] == 4 * 512
    assert host["net_received_bytes_per_s"] == 100
    assert host["net_sent_bytes_per_s"] == 50
    assert process["processes"] == 2
    assert process["threads"] == 6
    assert process["cpu_cores_busy"] == 4.0
    assert second[0].endswith(" 5")
    assert ",experiment=e,host=" in second[0]


def test_without_proc_nothing_is_told_and_nothing_raised(tmp_path):
    lines = Sampler(WHO, proc=tmp_path / "none").lines()
    assert [line.split(",")[0] for line in lines] in ([], ["host"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_real_machine_is_read():
    sampler = Sampler(WHO)
    sampler.lines()
    lines = sampler.lines()
    assert fields(lines, "host")["memory_total_bytes"] > 1 << 20
    assert fields(lines, "process")["rss_bytes"] > 1 << 20


def test_gpus_are_read_by_nvml_and_what_one_does_not_know_is_left_out(monkeypatch):
    class NVMLError(Exception):
        pass

    def unknown(*_):
        raise NVMLError

    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=50 + gpu),
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=1, total=2),
        nvmlDeviceGetPowerUsage=lambda gpu: 250_000,
        nvmlDeviceGetTemperature=unknown,
        nvmlDeviceGetClockInfo=unknown,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    lines = [line for line in Sampler(WHO).lines() if line.startswith("gpu,")]
    assert [",gpu=0," in lines[0], ",gpu=1," in lines[1]] == [True, True]
    assert fields(lines[1:], "gpu") == {
        "util_percent": 51,
        "memory_used_bytes": 1,
        "memory_total_bytes": 2,
        "power_w": 250,
    }


def test_the_observer_tells_the_surroundings_once_and_samples_until_it_is_stopped():
    buffer = Buffer(1 << 20)
    samples = iter(range(1000))
    observer = Observer(buffer, lambda: ["about"], lambda: [f"s{next(samples)}"], 0.01)
    observer.thread.start()
    deadline = time.monotonic() + 10
    while len(buffer) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    observer.stop(1.0)
    observer.thread.join(5)
    assert not observer.thread.is_alive()
    assert buffer.take(1000)[:3] == [("events", ["about"]), ("system", ["s0"]), ("system", ["s1"])]


def test_a_machine_that_can_not_be_read_is_told_and_harms_nobody(caplog):
    def broken():
        raise RuntimeError("no such machine")

    buffer = Buffer(1 << 20)
    observer = Observer(buffer, broken, broken, 0.01)
    observer.thread.start()
    observer.thread.join(5)
    assert "surroundings are not recorded" in caplog.text
    assert "not sampled any more" in caplog.text
    assert buffer.take(1000) == []
