from __future__ import annotations

import itertools
import math

import pytest

from demo import digits
from demo.digits import Digits
from demo.training import Hyperparameters, train


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits.load()


def test_the_data_set_is_the_real_one_split_once(data, tmp_path) -> None:
    assert len(data.labels) + len(data.validation_labels) == 1797
    assert data.images.max() == 1.0
    digits.save(data, tmp_path / "digits.npz")
    again = digits.read(tmp_path / "digits.npz")
    assert (again.images == data.images).all()
    assert (again.validation_labels == data.validation_labels).all()


def test_a_sensible_learning_rate_learns_the_digits(data) -> None:
    metrics = list(train(data, Hyperparameters(learning_rate=0.2, steps=1000, seed=1)))
    assert len(metrics) == 1000
    assert metrics[0]["train/loss"] > 2
    assert metrics[-1]["val/accuracy"] > 0.9
    assert all(math.isfinite(value) for step in metrics for value in step.values())


def test_the_same_seed_gives_the_same_metrics_and_another_seed_others(data) -> None:
    def first_losses(seed: int) -> list[float]:
        run = train(data, Hyperparameters(learning_rate=0.2, steps=1000, seed=seed))
        return [metrics["train/loss"] for metrics in itertools.islice(run, 100)]

    assert first_losses(1) == first_losses(1)
    assert first_losses(1) != first_losses(2)


@pytest.mark.parametrize("steps", [200, 1500])
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_too_large_a_learning_rate_ends_in_nan_and_the_run_gives_up(data, seed, steps) -> None:
    metrics = list(train(data, Hyperparameters(learning_rate=8.0, steps=steps, seed=seed)))
    losses = [step["train/loss"] for step in metrics]
    assert math.isfinite(losses[0])
    assert math.isnan(losses[-1])
    assert len(metrics) < steps
    assert not any(math.isfinite(loss) for loss in losses[-100:])


def test_accuracy_is_validated_every_fifty_steps_and_at_the_end(data) -> None:
    metrics = list(train(data, Hyperparameters(learning_rate=0.1, steps=120, seed=1)))
    validated = [step for step, values in enumerate(metrics) if "val/accuracy" in values]
    assert validated == [0, 50, 100, 119]
