"""Settings of the janitor: how patient it is, how often it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from adapters.settings import CommonSettings, InfluxSettings, ProbeSettings
from janitor.decide import Patience


class PatienceSettings(CommonSettings):
    """What the janitor needs, whatever the store is."""

    silent_after_s: float = Field(
        default=120.0,
        gt=0,
        description="Seconds without a heartbeat after which a running run is silent; default "
        "120, four heartbeats. Raise it where clocks of training machines or the pipeline lag.",
    )
    lost_after_s: float = Field(
        default=1800.0,
        gt=0,
        description="Seconds without a heartbeat after which it is lost; default 1800. Raise it "
        "where networks of training machines are away for longer.",
    )
    janitor_interval_s: float = Field(
        default=30.0,
        gt=0,
        description="Seconds between two rounds of the janitor; default 30; longer by itself where "
        "a round takes long. Lower it to see resumed runs as one curve sooner.",
    )
    janitor_max_deletions: int = Field(
        default=20,
        ge=1,
        description="Attempts cut in one round; default 20; the next round goes on. Lower it if "
        "InfluxDB is slow meanwhile.",
    )

    @property
    def patience(self) -> Patience:
        """Both waits together."""
        return Patience(self.silent_after_s, self.lost_after_s)

    @model_validator(mode="after")
    def _silent_before_lost(self) -> Self:
        if self.lost_after_s < self.silent_after_s:
            raise ValueError("STEPCLOCK_LOST_AFTER_S is less than STEPCLOCK_SILENT_AFTER_S")
        return self


class JanitorSettings(InfluxSettings, PatienceSettings, ProbeSettings):
    """The janitor as a process of its own, on InfluxDB."""

    keys_file: Path | None = Field(
        default=None,
        description="keys.toml with keys, tenants and limits; unset: keys.toml in the data folder.",
    )
    influx_timeout_s: float = Field(
        default=10.0, gt=0, description="Seconds until a request counts as unanswered."
    )
