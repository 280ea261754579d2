import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from stepclock.record.scalars import number, snapshot


@dataclass(frozen=True)
class Device:
    type: str


class Tensor:
    """As much of a torch tensor as matters; reading one on a device is noted."""

    def __init__(self, value, device, log, size=1):
        self.value, self.log, self.size_ = value, log, size
        self.device = Device(device)

    def numel(self):
        return self.size_

    def detach(self):
        return self

    def clone(self):
        self.log.append("clone")
        return Tensor(self.value, self.device.type, self.log)

    def item(self):
        self.log.append("read")
        if self.size_ != 1:
            raise RuntimeError("a Tensor with more than one element")
        return self.value


@pytest.fixture
def log(monkeypatch):
    """What torch and its tensors are asked to do."""
    done = []

    class Event:
        def record(self, stream):
            done.append("record")

        def wait(self):
            done.append("wait")

    class Stream:
        def __init__(self, device):
            pass

        def __enter__(self):
            done.append("own stream")

        def __exit__(self, *_):
            pass

    cuda = SimpleNamespace(
        Event=Event, Stream=Stream, stream=lambda s: s, current_stream=lambda device: None
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr("stepclock.record.scalars._streams", {})
    return done


def test_a_tensor_on_a_device_is_copied_there_and_not_read_by_the_caller(log):
    tensor = Tensor(1.5, "cuda", log)
    taken = snapshot({"loss": tensor, "lr": 0.1})
    assert log == ["clone", "record"]
    tensor.value = 99.0  # changed in place, as running sums are
    assert number(taken["loss"]) == 1.5
    assert log == ["clone", "record", "own stream", "wait", "read"]


def test_a_tensor_in_the_memory_of_the_host_is_read_at_once(log):
    tensor = Tensor(1.5, "cpu", log)
    taken = snapshot({"loss": tensor})
    tensor.value = 99.0
    assert taken == {"loss": 1.5}


def test_a_tensor_of_many_numbers_is_refused_later_and_not_read_by_the_caller(log):
    taken = snapshot({"weights": Tensor(0.0, "cuda", log, size=10)})
    assert log == []
    with pytest.raises(TypeError, match="a metric is a number"):
        number(taken["weights"])


def test_what_changes_later_is_logged_as_it_was():
    inner, array = {"loss": 1.0}, np.array(2.0)
    taken = snapshot({"train": inner, "array": array, "scalar": np.float32(3.0)})
    inner["loss"] = 9.0
    array += 7
    assert taken == {"train": {"loss": 1.0}, "array": 2.0, "scalar": 3.0}
