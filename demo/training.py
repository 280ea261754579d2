"""A training run: minibatches of digits through the network, one mapping of metrics a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from demo.digits import Digits
from demo.network import Network

_BATCH_IMAGES = 32
_VALIDATE_EVERY_STEPS = 50

#: A run that saw no finite loss for so many steps gives up, as a sensible job would.
_PATIENCE_STEPS = 100


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What makes a run: the same values give the same metrics on the same machine."""

    learning_rate: float
    steps: int
    seed: int

    @property
    def warmup_steps(self) -> int:
        """Steps over which the learning rate grows linearly to its full value."""
        return max(20, self.steps // 8)


def train(digits: Digits, hyperparameters: Hyperparameters) -> Iterator[dict[str, float]]:
    """The metrics of each step from step 0 on; they may be infinite or NaN."""
    rng = np.random.default_rng(hyperparameters.seed)
    network = Network(rng)
    lost_steps = 0
    for step in range(hyperparameters.steps):
        warmup = min(1.0, (step + 1) / hyperparameters.warmup_steps)
        learning_rate = hyperparameters.learning_rate * warmup
        chosen = rng.integers(0, len(digits.labels), _BATCH_IMAGES)
        result = network.train(digits.images[chosen], digits.labels[chosen], learning_rate)
        metrics = {
            "train/loss": result.loss,
            "train/accuracy": result.accuracy,
            "lr": learning_rate,
            "grad_norm": result.grad_norm,
        }
        last = step == hyperparameters.steps - 1
        if step % _VALIDATE_EVERY_STEPS == 0 or last:
            metrics["val/accuracy"] = network.accuracy(
                digits.validation_images, digits.validation_labels
            )
        yield metrics
        lost_steps = 0 if math.isfinite(result.loss) else lost_steps + 1
        if lost_steps == _PATIENCE_STEPS:
            return
