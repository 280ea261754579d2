"""Metrics of training jobs: `init`, `log`, `finish`, and a receipt that says what is stored.

>>> import stepclock
>>> with stepclock.init("resnet50") as run:        # doctest: +SKIP
...     run.log({"train/loss": 0.31}, step=1)
"""

from stepclock.receipt import Receipt, Stats
from stepclock.run import Run, StepclockError
from stepclock.send.sync import sync
from stepclock.start import init

__all__ = ["Receipt", "Run", "Stats", "StepclockError", "__version__", "init", "sync"]

__version__ = "0.1.0"
