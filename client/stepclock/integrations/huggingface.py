"""Hugging Face: `Trainer(..., callbacks=[StepclockCallback()])`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerCallback

import stepclock

_log = logging.getLogger("stepclock")


class StepclockCallback(TrainerCallback):  # type: ignore[misc]
    """Logs what a Trainer logs, its arguments and its checkpoints; on world process zero alone.

    run: a run to log into. Without one it begins a run of its own with the first training or
    evaluation, with these arguments of `stepclock.init`; experiment: by default the name of the
    output folder. That run ends with the process, or before the Trainer trains anew from step 0,
    so that an evaluation behind the training belongs to it.
    """

    def __init__(
        self,
        experiment: str | None = None,
        *,
        run: stepclock.Run | None = None,
        **arguments: Any,
    ) -> None:
        self.run = run
        #: Losses of this process that were no finite numbers and that the Trainer left out.
        self.hidden_losses = 0
        self._experiment = experiment
        self._arguments = arguments
        self._own = run is None
        self._trained = False
        self._hook: Any = None
        self._hidden: Any = 0  # a tensor where the loss is, so that no step waits for it

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin a run unless there is one, and tell what it trains with."""
        if not state.is_world_process_zero:
            return
        if self._trained and self._own and self.run is not None and state.global_step == 0:
            self.run.finish()
            self.run = None
        self._trained = False
        model: Any = kwargs.get("model")
        self._begin(args, model)
        self._unhook()
        if args.logging_nan_inf_filter and hasattr(model, "register_forward_hook"):
            self._hidden = self.hidden_losses = 0
            self._hook = model.register_forward_hook(self._after_forward)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Log it: `eval_loss` as `eval/loss`, `loss` as `train/loss`."""
        if not state.is_world_process_zero or not logs:
            return
        values = {_name(key): value for key, value in logs.items()}
        # The Trainer has just waited for its own losses, so this one is there, too.
        hidden = int(self._hidden)
        if hidden:
            values["train/hidden_losses"] = hidden
        if hidden > self.hidden_losses:
            if not self.hidden_losses:
                _log.warning(
                    "stepclock: the Trainer leaves losses out that are NaN or infinite, %d by step"
                    " %d: logging_nan_inf_filter=False shows them; train/hidden_losses counts them",
                    hidden,
                    state.global_step,
                )
            self.hidden_losses = hidden
        run = self.run or self._begin(args, kwargs.get("model"))
        run.log(values, step=state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of a checkpoint."""
        if state.is_world_process_zero and self.run is not None:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self.run.event("checkpoint", str(path), step=state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let go of the model."""
        self._trained = True
        self._unhook()

    def _begin(self, args: Any, model: Any) -> stepclock.Run:
        if self.run is None:
            folder = re.sub(r"[^\w.-]+", "-", Path(args.output_dir).resolve().name)
            experiment = self._experiment or folder.strip("_-.") or "trainer"
            self.run = stepclock.init(experiment, **self._arguments)
        config = {"args": args.to_dict()}
        described: Any = getattr(model, "config", None)
        if hasattr(described, "to_dict"):
            config["model"] = described.to_dict()
        self.run.configure(config)
        return self.run

    def _after_forward(self, module: Any, inputs: Any, output: Any) -> None:
        """Count on the device a loss that is no finite number, where the model says its loss."""
        loss: Any = output.get("loss") if isinstance(output, Mapping) else None
        if not module.training or not hasattr(loss, "isfinite"):
            return
        try:
            self._hidden = self._hidden + loss.detach().isfinite().logical_not().sum()
        except Exception as exc:  # a count is not worth a training, whatever a device says
            _log.warning("stepclock: hidden losses are not counted any more: %r", exc)
            self._hidden = self.hidden_losses
            self._unhook()

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def _name(key: str) -> str:
    for group in ("eval", "test"):
        if key.startswith(f"{group}_"):
            return f"{group}/{key[len(group) + 1 :]}"
    return f"train/{key}"
