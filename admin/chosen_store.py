"""Which store a command reads: flags first, then the environment, then the store of `serve`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from adapters.settings import PREFIX, InfluxSettings, default_data_dir, problems
from admin.terminal import fail
from schemas.store import StoreReader

_URL_VARIABLE = PREFIX + "INFLUX_URL"

InfluxUrl = Annotated[
    str | None, typer.Option("--influx", help=f"Base URL of InfluxDB 2 ({_URL_VARIABLE}).")
]
StoreDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Data folder of `serve` instead of InfluxDB (STEPCLOCK_DATA_DIR)."
    ),
]


@contextmanager
def reading(influx: str | None, data_dir: Path | None) -> Iterator[tuple[str, StoreReader]]:
    """The store that flags or environment name, with its name; ends the command without one."""
    if influx is not None and data_dir is not None:
        fail("give --influx or --data-dir, not both", code=2)
    influx = influx or (None if data_dir else os.environ.get(_URL_VARIABLE))
    if influx:
        from adapters.influx import InfluxReader  # noqa: PLC0415 - loaded where it is used

        try:
            settings = InfluxSettings(influx_url=influx)
        except ValidationError as exc:
            fail("; ".join(map(": ".join, problems(exc))), code=2)
        token = settings.influx_token.get_secret_value()
        ca_file = settings.influx_tls_ca_file
        with closing(InfluxReader(influx, token, settings.influx_org, ca_file=ca_file)) as reader:
            yield f"InfluxDB at {influx}", reader
        return
    from embedded.serve import store_path  # noqa: PLC0415 - loaded where it is used
    from embedded.store import SqliteStore  # noqa: PLC0415 - loaded where it is used

    variable = os.environ.get(PREFIX + "DATA_DIR")
    path = store_path(data_dir or (Path(variable) if variable else default_data_dir()))
    if not path.exists():
        fail(f"no store at {path}; give --influx URL or --data-dir FOLDER", code=2)
    with closing(SqliteStore(path)) as store:
        yield str(path), store
