"""The janitor as a process of its own, on InfluxDB: ``python -m janitor``."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing

from adapters.influx.attempts import InfluxAttempts
from adapters.influx.writer import InfluxWriter
from adapters.settings import default_keys_file, load_retention
from janitor.janitor import Janitor
from janitor.loop import Loop
from janitor.namespaces import Namespaces
from janitor.settings import JanitorSettings
from schemas.canary import class_of_canaries
from schemas.store.protocols import StoreUnavailable
from telemetry.logs import configure
from telemetry.probe_server import ProbeServer, write_address
from telemetry.stop_signals import StopSignals

_log = logging.getLogger("stepclock.janitor")


def run(
    settings: JanitorSettings,
    *,
    once: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = _log.info,
) -> int:
    """Keep house until SIGTERM (0) or SIGINT (130); once: until nothing is left to do.

    once or dry_run: 1 if InfluxDB is away; otherwise it is waited for. Raises InvalidKeys,
    OSError for a keys file that can't be read at the start.
    """
    configure(settings.log_level, settings.audit_file)
    signals = StopSignals()
    with (
        closing(InfluxAttempts(settings.influx, timeout_s=settings.influx_timeout_s)) as store,
        closing(InfluxWriter(settings.influx, timeout_s=settings.influx_timeout_s)) as writer,
    ):
        janitor = Janitor(
            store,
            writer,
            Namespaces(settings.keys_file or default_keys_file()),
            settings.patience,
            class_of_canaries(load_retention(settings.retention_file)),
            max_deletions=settings.janitor_max_deletions,
            dry_run=dry_run,
            say=say,
        )
        if once or dry_run:
            try:
                while not janitor.round() and not dry_run and not signals.stop.is_set():
                    pass
            except StoreUnavailable as exc:
                _log.error("%s", exc)
                return 1
        else:
            _keep_house(settings, janitor, signals.stop)
    return signals.exit_code


def _keep_house(settings: JanitorSettings, janitor: Janitor, stop: threading.Event) -> None:
    loop = Loop(janitor, interval_s=settings.janitor_interval_s)

    def live() -> tuple[int, str]:
        late_s = time.monotonic() - loop.due_at
        if late_s > settings.live_after_s:
            return 503, json.dumps({"status": "stuck", "late_s": round(late_s, 1)})
        return 200, json.dumps({"status": "live"})

    def ready() -> tuple[int, str]:
        # InfluxDB does not matter: without it the janitor waits, and a restart would not help.
        if stop.is_set():
            return 503, json.dumps({"status": "draining"})
        return 200, json.dumps({"status": "ready"})

    def health() -> tuple[int, str]:
        error = loop.store_error
        status = "ok" if error is None else "runs are not kept"
        return 200 if error is None else 503, json.dumps({"status": status, "store": error or "ok"})

    answers = {"/livez": live, "/readyz": ready, "/health": health}
    with closing(ProbeServer(settings.probe_host, settings.probe_port, answers)) as probes:
        _log.info("probes and metrics at %s", probes.url)
        if settings.probe_address_file is not None:
            write_address(settings.probe_address_file, probes.url)
        loop.run(stop)


if __name__ == "__main__":
    raise SystemExit(run(JanitorSettings()))
