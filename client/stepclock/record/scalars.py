"""Numbers of any library, without importing one.

`snapshot` runs in the caller's thread: it fixes what could change later and never waits for a
device. `number` runs in the drain's thread, and may.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Values that can't change: nothing has to be done for them in the caller's thread.
PLAIN = frozenset({float, int, bool})


def snapshot(values: dict[Any, Any]) -> dict[Any, Any]:
    """The values as they are now. Changes and returns the mapping it was given."""
    for name, value in values.items():
        kind = type(value)
        if kind in PLAIN:
            continue
        if isinstance(value, Mapping):
            values[name] = snapshot(dict(value))
        elif hasattr(value, "detach"):  # a torch tensor
            values[name] = _fixed_tensor(value)
        elif getattr(value, "shape", None) == () and hasattr(value, "flags"):
            values[name] = value.item()  # a numpy scalar or array of one: memory of the host
    return values


def width(values: Mapping[Any, Any]) -> int:
    """How many values there are, those of nested mappings included."""
    return sum(width(each) if isinstance(each, Mapping) else 1 for each in values.values())


def _fixed_tensor(tensor: Any) -> Any:
    """A number for a tensor on the CPU; for one on a device a copy, made there and not awaited."""
    if tensor.numel() != 1:
        return tensor.detach()  # will be refused: a metric is one number
    if tensor.device.type == "cpu":
        return tensor.item()
    return DeviceScalar(tensor)


class DeviceScalar:
    """A copy of a tensor on its device, and the event after which it is complete."""

    __slots__ = ("_copy", "_ready")

    def __init__(self, tensor: Any) -> None:
        self._copy = tensor.detach().clone()
        self._ready = None
        if tensor.device.type == "cuda":
            import torch

            self._ready = torch.cuda.Event()
            self._ready.record(torch.cuda.current_stream(tensor.device))

    def __float__(self) -> float:
        """The number, read by a stream of its own, so that no other work is waited for."""
        if self._ready is None:
            return float(self._copy.item())
        import torch

        with torch.cuda.stream(_stream_of(self._copy.device)):
            self._ready.wait()
            return float(self._copy.item())


_streams: dict[Any, Any] = {}


def _stream_of(device: Any) -> Any:
    import torch

    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]


def number(value: Any) -> float:
    """The value as a float. Raises TypeError, ValueError or OverflowError, and says why."""
    kind = type(value)
    if kind is int or kind is bool:
        try:
            return float(value)
        except OverflowError:
            raise OverflowError("the number is beyond the range of a 64-bit float") from None
    if isinstance(value, (str, bytes)) or value is None:
        raise TypeError(f"a metric is a number, not {kind.__name__}")
    size = getattr(value, "size", None)
    if isinstance(size, int) and size != 1:
        raise TypeError(f"a metric is one number, not an array of {size}")
    item = getattr(value, "item", None)
    try:
        return float(value if item is None else item())
    except OverflowError:
        raise OverflowError("the number is beyond the range of a 64-bit float") from None
    except Exception as exc:
        # Libraries raise what they like here, RuntimeError among them.
        raise TypeError(f"a metric is a number, not {kind.__name__}: {exc}") from exc
