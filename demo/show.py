"""The whole demo: the parts it needs started, the demonstration, and all of it ended again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from demo.backends import Backends, native_backends
from demo.demonstration import DemoFailed, Outcome, demonstrate
from demo.gateway import ReadFailed
from demo.pipeline import Pipeline, start_embedded
from demo.plan import make_plan
from demo.real import start_real
from native.process import StartFailed
from native.step import PreparationFailed
from schemas.store.protocols import StoreUnavailable

__all__ = ["DemoFailed", "show"]

_EXPERIMENT = "digits"
_STEPS_PER_S = 250.0


def show(
    folder: Path,
    *,
    seconds: float,
    real: bool,
    backends: Backends | None,
    output: Console,
    screen: Console,
) -> Outcome:
    """Train for about so many seconds and account for every step; `folder` takes all files.

    With `backends` the real parts run on these, else with `real` on native ones, else all is
    embedded. Results go to `output`, progress to `screen`. Raises DemoFailed.
    """
    experiment = _EXPERIMENT
    if backends is not None:
        # In a store that has seen other demos, a name of its own keeps the ledgers apart.
        experiment = f"{_EXPERIMENT}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    plan = make_plan(experiment, steps=round(seconds * _STEPS_PER_S), steps_per_s=_STEPS_PER_S)
    try:
        with _pipeline(folder, screen, real=real, backends=backends) as pipeline:
            return demonstrate(pipeline, plan, folder / "runs", output=output, screen=screen)
    except (PreparationFailed, StartFailed, ReadFailed, StoreUnavailable) as exc:
        raise DemoFailed(str(exc)) from exc


@contextmanager
def _pipeline(
    folder: Path, screen: Console, *, real: bool, backends: Backends | None
) -> Iterator[Pipeline]:
    def tell(text: str) -> None:
        screen.print(text, markup=False, highlight=False)

    if backends is not None:
        with start_real(folder / "pipeline", backends, tell) as pipeline:
            yield pipeline
    elif real:
        with (
            native_backends(folder, tell) as native,
            start_real(folder / "pipeline", native, tell) as pipeline,
        ):
            yield pipeline
    else:
        with start_embedded(folder / "pipeline") as pipeline:
            yield pipeline
