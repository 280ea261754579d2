"""The trainer processes of a plan: started, watched through their files, ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from demo import digits, progress
from demo.plan import Plan, TrainingRun
from demo.progress import TrainerProgress
from native.process import log_tail, spawn

#: Where ``python -m demo.trainer`` finds this package.
ROOT = Path(__file__).resolve().parents[1]

_STOP_GRACE_S = 5.0


class Fleet:
    """One process for each run of a plan. Leaving its block ends those that still run."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        *,
        gateways: Sequence[str],
        keys: Mapping[str, str],
        finish_s: float,
    ) -> None:
        """The runs take the gateways in turn; keys are those of the tenants, by tenant.

        finish_s: seconds that a run may take, once trained, until all of it is stored.
        """
        self._plan = plan
        self._folder = folder
        self._gateways = gateways
        self._keys = keys
        self._finish_s = finish_s
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        """Start the trainers."""
        self._folder.mkdir(parents=True)
        digits.save(digits.load(), self._data)
        with ExitStack() as cleanup:
            for index, run in enumerate(self._plan.runs):
                url = self._gateways[index % len(self._gateways)]
                process = self._start(run, url)
                cleanup.callback(_end, process)
                self._processes[run.name] = process
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.terminate()  # all at once, so that waiting for each takes no longer
        self._cleanup.close()

    @property
    def ledgers(self) -> list[Path]:
        """The files in which the trainers recorded what they were about to log."""
        return [self._ledger(run.name) for run in self._plan.runs]

    @property
    def running(self) -> bool:
        """Whether any trainer still trains or sends."""
        return any(process.poll() is None for process in self._processes.values())

    def progress(self) -> dict[str, TrainerProgress]:
        """The state of each run, by its name."""
        return {run.name: progress.read(self._report(run.name)) for run in self._plan.runs}

    def failures(self) -> dict[str, str]:
        """Runs whose process failed, with the last lines it wrote."""
        return {
            name: log_tail(self._log(name), 5) or f"ended with status {process.returncode}"
            for name, process in self._processes.items()
            if process.poll() not in {None, 0}
        }

    def _start(self, run: TrainingRun, url: str) -> subprocess.Popen[bytes]:
        parameters = run.hyperparameters
        options = {
            "experiment": self._plan.experiment,
            "run": run.name,
            "lr": parameters.learning_rate,
            "steps": parameters.steps,
            "seed": parameters.seed,
            "steps-per-s": run.steps_per_s,
            "data": self._data,
            "ledger": self._ledger(run.name),
            "progress": self._report(run.name),
            "finish-s": self._finish_s,
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        return spawn(
            [sys.executable, "-m", "demo.trainer", *arguments],
            log_path=self._log(run.name),
            env={
                "STEPCLOCK_ENDPOINT": url,
                "STEPCLOCK_TOKEN": self._keys[run.tenant.name],
                "STEPCLOCK_SPOOL_DIR": str(self._folder / "spool"),
                # Threads of the linear algebra library would only fight over the cores.
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
            },
            cwd=ROOT,
        )

    @property
    def _data(self) -> Path:
        return self._folder / "digits.npz"

    def _ledger(self, run: str) -> Path:
        return self._folder / f"{run}.ledger.jsonl"

    def _report(self, run: str) -> Path:
        return self._folder / f"{run}.progress.json"

    def _log(self, run: str) -> Path:
        return self._folder / f"{run}.log"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
