"""`python -m native` prepares Kafka and InfluxDB; `python -m native run` runs them."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from native import influxd, kafka
from native.process import Process, StartFailed, log_tail
from native.step import PreparationFailed

WATCH_EVERY_S = 0.5

EXAMPLE = """\
example:
  python -m native run
then, in another terminal, the export lines that it printed, and whatever is to use the services.
"""


def main() -> int:
    """Exit status: 0 done, 1 something is missing or failed, 130 interrupted while preparing."""
    parser = argparse.ArgumentParser(
        prog="python -m native",
        description="Kafka and InfluxDB as local processes, without Docker.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "action",
        nargs="?",
        choices=("prepare", "run"),
        default="prepare",
        help="prepare: fetch and build what is not there yet (default); "
        "run: also start both and keep them until Ctrl-C",
    )
    parser.add_argument(
        "--data", type=Path, help="folder that keeps their data (default: a temporary one)"
    )
    arguments = parser.parse_args()
    try:
        return _run(arguments.data) if arguments.action == "run" else _prepare()
    except KeyboardInterrupt:
        return 130
    except (PreparationFailed, StartFailed) as exc:
        say(f"failed: {exc}")
        return 1


def say(text: str) -> None:
    """Progress, apart from what a shell may want to read."""
    sys.stderr.write(f"{text}\n")


def _prepare() -> int:
    """Prepare both, or the one that can be; 1 unless both are there."""
    status = 0
    for name, service in (("Kafka", kafka), ("InfluxDB", influxd)):
        if programs := service.missing():
            say(f"{name} needs programs that are not installed: {', '.join(programs)}")
            status = 1
        else:
            say(f"{name}: {service.ensure(say)}")
    return status


def _run(data: Path | None) -> int:
    if status := _prepare():
        return status
    # SIGTERM ends the services in order, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        if data is None:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stepclock-")))
        broker = stack.enter_context(kafka.start(data / "kafka"))
        influxdb = stack.enter_context(influxd.start(data / "influxd"))
        variables = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "INFLUX_URL": influxdb.url,
            "INFLUX_TOKEN": influxdb.token,
            "INFLUX_ORG": influxdb.org,
            "TEST_KAFKA": broker.bootstrap_servers,
            "TEST_INFLUX_URL": influxdb.url,
            "TEST_INFLUX_TOKEN": influxdb.token,
            "TEST_INFLUX_ORG": influxdb.org,
        }
        for name, value in variables.items():
            sys.stdout.write(f"export STEPCLOCK_{name}={value}\n")
        sys.stdout.flush()
        say(f"running; data in {data}; Ctrl-C ends both")
        return _watch([broker.process, influxdb.process])


def _watch(processes: list[Process]) -> int:
    try:
        while all(process.running for process in processes):
            time.sleep(WATCH_EVERY_S)
    except KeyboardInterrupt:
        say("stopping")
        return 0
    for process in processes:
        if not process.running:
            say(f"{process.name} has ended; {process.log_path}:\n{log_tail(process.log_path)}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
