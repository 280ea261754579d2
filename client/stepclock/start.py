"""Beginning a run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepclock import process
from stepclock.identity import identify
from stepclock.run import Run
from stepclock.settings import Settings, nearest

_log = logging.getLogger("stepclock")


def init(
    experiment: str,
    *,
    name: str | None = None,
    run_id: str | None = None,
    tags: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    attempt: int | None = None,
    handle_signals: bool = True,
    **settings: Any,
) -> Run:
    """Begin a run. Nothing is sent here, and no server can make it fail.

    name: a readable part of the run's id. run_id: the id itself; see `stepclock.identity` for
    what it is without one. tags: written with every line, for few values that do not change.
    config: hyperparameters. attempt: how often the job was started before. settings: fields of
    `stepclock.settings.Settings`, such as endpoint, token, mode, ranks. Raises ValueError and
    TypeError for arguments that can't be.
    """
    known = Settings.__dataclass_fields__
    for each in settings:
        if each not in known:
            meant = nearest(each, [*known, "name", "run_id", "tags", "config", "attempt"])
            hint = f"; did you mean {meant}?" if meant else ""
            raise TypeError(f"init() has no argument {each}{hint}")
    resolved = Settings.resolve(settings)
    identity = identify(experiment, name, run_id, attempt, Path(resolved.spool_dir).parent)
    if hasattr(sys, "ps1"):  # in a notebook a cell that is run again leaves its run behind
        for other in process.active_runs():
            _log.warning("stepclock: the run %s goes on beside it until its finish()", other.id)
    run = Run(
        identity,
        resolved,
        tags={str(key): str(value) for key, value in (tags or {}).items()},
        config=config or {},
    )
    if handle_signals and run.engine is not None:
        process.handle_signals()
    return run
