"""Settings of `stepclock-server serve`."""

from __future__ import annotations

from pydantic import Field

from consumers.settings import WorkerSettings
from ingest.settings import HttpSettings
from janitor.settings import PatienceSettings


class ServeSettings(HttpSettings, WorkerSettings, PatienceSettings):
    """The gateway's HTTP side, the worker's loop and the janitor, in one process on SQLite."""

    log_keep_h: int = Field(
        default=24,
        ge=1,
        description="Hours that records stay in the embedded log after they were stored; default "
        "24. They cost disk and are the way back if the store's file is lost.",
    )
