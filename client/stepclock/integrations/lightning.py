"""Lightning: `Trainer(logger=StepclockLogger("resnet50"))`."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

import stepclock


class StepclockLogger(Logger):  # type: ignore[misc]
    """Logs what modules `log`, their hyperparameters and checkpoints; on global rank zero alone.

    run: a run to log into. Without one it begins a run of its own once it is needed, with these
    arguments of `stepclock.init`. That run ends with the process, so that a test behind a fit
    belongs to it; or failed, with a fit that failed.
    """

    def __init__(
        self,
        experiment: str = "lightning",
        *,
        run: stepclock.Run | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self._name = experiment if run is None else run.experiment
        self._run = run
        self._arguments = arguments
        self._own = run is None

    @property
    @rank_zero_experiment  # type: ignore[untyped-decorator]
    def experiment(self) -> stepclock.Run:
        """The run."""
        if self._run is None:
            self._run = stepclock.init(self._name, **self._arguments)
        return self._run

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._name

    @property
    def version(self) -> str | None:
        """The run's id, once there is one."""
        return None if self._run is None else self._run.id

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log the metrics of a step."""
        self.experiment.log(metrics, step=step)

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_hyperparams(
        self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Tell hyperparameters."""
        self.experiment.configure(vars(params) if isinstance(params, Namespace) else params)

    @rank_zero_only  # type: ignore[untyped-decorator]
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Tell of a checkpoint."""
        last = getattr(checkpoint_callback, "_last_checkpoint_saved", "")
        self.experiment.event(
            "checkpoint",
            str(last or checkpoint_callback.best_model_path),
            step=getattr(checkpoint_callback, "_last_global_step_saved", None),
        )

    @rank_zero_only  # type: ignore[untyped-decorator]
    def finalize(self, status: str) -> None:
        """Note that a fit failed, and end its run. After others more may come."""
        if status != "failed" or self._run is None:
            return
        error = sys.exc_info()[1]
        if error is not None:
            self._run.on_failure(error)
        if self._own:
            self._run.finish("auto" if error is not None else "failed")
