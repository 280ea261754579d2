"""`stepclock-server`: one command line for everything; `python -m admin` is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from admin import keys
from admin.backfill.command import backfill_command
from admin.check_config import check_config_command
from admin.context import chosen_settings
from admin.demo import demo_command
from admin.dlq import command as dlq
from admin.lag.command import lag_command
from admin.ledger.command import ledger_command
from admin.provision.command import provision_command
from admin.settings import settings_command
from admin.terminal import errors, plain
from consumers.settings import ConsumerSettings
from embedded.settings import ServeSettings
from ingest.keys.credentials import NoKeys
from ingest.settings import GatewaySettings
from janitor.settings import JanitorSettings
from schemas.retention import InvalidRetention
from schemas.tenants.keys import InvalidKeys

app = typer.Typer(
    name="stepclock-server",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Metrics of training jobs: HTTP gateway, Kafka, consumers, InfluxDB. A 2xx is durable."
    "\n\nSettings come from environment variables with the prefix STEPCLOCK_ (see README.md).",
)
app.add_typer(keys.app, name="keys")
app.add_typer(dlq.app, name="dlq")
app.command("provision", epilog="Example: stepclock-server provision --dry-run")(provision_command)
app.command("demo", epilog="Example: stepclock-server demo --real")(demo_command)
app.command("lag", epilog="Example: stepclock-server lag --watch")(lag_command)
app.command("ledger", epilog="Example: stepclock-server ledger r12 --experiment resnet50")(
    ledger_command
)
app.command("backfill", epilog="Example: stepclock-server backfill --view steps --from 7d")(
    backfill_command
)
app.command("check-config", epilog="Example: stepclock-server check-config --connect")(
    check_config_command
)
app.command("settings", epilog="Example: stepclock-server settings")(settings_command)

Host = Annotated[str | None, typer.Option(help="Address to listen on (STEPCLOCK_HOST).")]
Port = Annotated[int | None, typer.Option(help="Port; 0 takes a free one (STEPCLOCK_PORT).")]


@app.command(epilog="Example: stepclock-server serve --data-dir /srv/stepclock --port 8787")
def serve(
    host: Host = None,
    port: Port = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Folder for keys and databases (STEPCLOCK_DATA_DIR).")
    ] = None,
) -> None:
    """Run all of it in one process, on SQLite: one machine, a laptop, CI."""
    from embedded.serve import run  # noqa: PLC0415 - each command loads only what it runs

    settings = chosen_settings(ServeSettings, host=host, port=port, data_dir=data_dir)
    raise typer.Exit(_run(lambda: run(settings)))


@app.command(epilog="Example: STEPCLOCK_KEYS_FILE=keys.toml stepclock-server gateway --port 8787")
def gateway(host: Host = None, port: Port = None) -> None:
    """Run the HTTP gateway: takes metrics, publishes them to Kafka."""
    from ingest.__main__ import run  # noqa: PLC0415 - each command loads only what it runs

    settings = chosen_settings(GatewaySettings, host=host, port=port)
    raise typer.Exit(_run(lambda: run(settings)))


@app.command(epilog="Example: STEPCLOCK_INFLUX_TOKEN_FILE=token stepclock-server consumer")
def consumer(
    probe_port: Annotated[
        int | None, typer.Option(help="Port of probes and metrics (STEPCLOCK_PROBE_PORT).")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Workers in this process (STEPCLOCK_THREADS).")
    ] = None,
    accept_loss: Annotated[
        bool | None,
        typer.Option(
            "--accept-loss",
            help="Go on from what the log still holds where records were deleted unread "
            "(STEPCLOCK_ACCEPT_LOSS).",
        ),
    ] = None,
) -> None:
    """Run consumer workers: batches from Kafka into InfluxDB. Start more processes to scale."""
    from consumers.__main__ import run  # noqa: PLC0415 - each command loads only what it runs

    settings = chosen_settings(
        ConsumerSettings, probe_port=probe_port, threads=threads, accept_loss=accept_loss
    )
    raise typer.Exit(_run(lambda: run(settings)))


@app.command(
    epilog="Examples: STEPCLOCK_INFLUX_TOKEN_FILE=token stepclock-server janitor --probe-port 0; "
    "stepclock-server janitor --dry-run"
)
def janitor(
    probe_port: Annotated[
        int | None, typer.Option(help="Port of probes and metrics (STEPCLOCK_PROBE_PORT).")
    ] = None,
    silent_after_s: Annotated[
        float | None,
        typer.Option(help="Seconds until a run is silent (STEPCLOCK_SILENT_AFTER_S)."),
    ] = None,
    lost_after_s: Annotated[
        float | None, typer.Option(help="Seconds until a run is lost (STEPCLOCK_LOST_AFTER_S).")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when nothing is left to do, without probes.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look once, and print what would be done.")
    ] = False,
) -> None:
    """Keep runs in InfluxDB: one curve by step where a run resumed, silent and lost runs told.

    `serve` does the same by itself. Exit code 1 of --once and --dry-run: InfluxDB is away.
    """
    from janitor.__main__ import run  # noqa: PLC0415 - each command loads only what it runs

    settings = chosen_settings(
        JanitorSettings,
        probe_port=probe_port,
        silent_after_s=silent_after_s,
        lost_after_s=lost_after_s,
    )

    def work() -> int:
        if once or dry_run:
            return run(
                settings,
                once=once,
                dry_run=dry_run,
                say=lambda text: typer.echo(plain(text).plain),
            )
        return run(settings)

    raise typer.Exit(_run(work))


def _run(command: Callable[[], int]) -> int:
    try:
        return command()
    except (NoKeys, InvalidKeys, InvalidRetention) as exc:
        errors().print(plain(f"error: {exc}", style="red"))
        return 2
    except OSError as exc:
        errors().print(plain(f"error: {exc}", style="red"))
        return 1
    except KeyboardInterrupt:
        return 130


def main() -> None:
    """Entry point of the console script."""
    try:
        app(prog_name="stepclock-server")
    except OSError as exc:
        errors().print(plain(f"error: {exc}", style="red"))
        raise SystemExit(1) from exc


if __name__ == "__main__":
    main()
