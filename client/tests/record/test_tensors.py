"""Numbers of real tensors: what a training loop has in its hands."""

import math
import warnings

import pytest

from stepclock.record.scalars import number, snapshot

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs torch", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to mend


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(0.5),
        torch.tensor([0.5]),
        torch.tensor([[0.5]]),
        torch.tensor(0.5, dtype=torch.bfloat16),
        torch.tensor(0.5, dtype=torch.float16),
        torch.tensor(0.5, dtype=torch.float64, requires_grad=True),
        torch.tensor(0.5, requires_grad=True) * 1.0,
        torch.nn.Parameter(torch.tensor(0.5)),
    ],
)
def test_a_tensor_of_one_number_is_that_number_whatever_its_shape_and_kind(tensor):
    assert number(snapshot({"loss": tensor})["loss"]) == 0.5


@pytest.mark.parametrize("value", [7, True])
def test_whole_numbers_and_truths_are_floats(value):
    assert number(snapshot({"n": torch.tensor(value)})["n"]) == float(value)


def test_what_is_not_finite_stays_so():
    assert math.isnan(number(snapshot({"loss": torch.tensor(float("nan"))})["loss"]))
    assert number(snapshot({"loss": torch.tensor(float("-inf"))})["loss"]) == -math.inf


def test_a_running_sum_is_logged_as_it_was():
    total = torch.zeros(())
    taken = snapshot({"total": total})
    total += 5
    assert number(taken["total"]) == 0.0


def test_the_graph_of_a_loss_is_not_kept_alive():
    weight = torch.nn.Parameter(torch.ones(1000))
    loss = (weight * 2).sum()
    taken = snapshot({"loss": loss, "wide": weight * 2})
    assert not any(getattr(value, "requires_grad", False) for value in taken.values())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3),
        torch.empty(0),
        torch.tensor(1 + 2j),
        torch.empty((), device="meta"),  # a device on which nothing can be read
    ],
)
def test_what_is_no_number_is_refused_by_the_drain_and_not_in_the_caller(tensor):
    taken = snapshot({"loss": tensor})
    with pytest.raises(TypeError):
        number(taken["loss"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_logging_a_tensor_of_a_busy_device_does_not_wait_for_it():
    import time

    tensor = torch.ones((), device="cuda")
    number(snapshot({"warm": tensor})["warm"])
    torch.cuda.synchronize()
    big = torch.ones(8192, 8192, device="cuda")
    for _ in range(50):
        big = big @ big * 1e-4
    value = tensor + big.sum() * 0
    began = time.perf_counter()
    taken = snapshot({"loss": value})
    took_s = time.perf_counter() - began
    value += 100
    assert number(taken["loss"]) == 1.0
    assert took_s < 0.1
