"""Lines of class events about the run itself: its state, its configuration, what happened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stepclock.identity import Identity
from stepclock.record.lines import clean, escape, event_prefix, quote, tags_of
from stepclock.record.rows import SEPARATOR
from stepclock.record.scalars import number

_MAX_TEXT = 8192


def state_line(
    identity: Identity,
    state: str,
    time_ns: int,
    first_step: int | None,
    last_step: int | None,
    reason: str = "",
) -> str:
    """That a run is `running`, or ended: `finished`, `failed`, `preempted`."""
    fields = [f"state={quote(state)}"]
    if first_step is not None and last_step is not None:
        fields += [f"first_step={first_step}i", f"step={last_step}i"]
    if reason:
        fields.append(f"reason={quote(reason[:_MAX_TEXT])}")
    return f"{event_prefix('run_state', identity, {})} {','.join(fields)} {time_ns}"


def config_lines(identity: Identity, config: Mapping[str, Any], time_ns: int) -> Iterator[str]:
    """A line for each key, nested ones joined by `/`; a number is there as such, too."""
    for key, value in _flat("", config):
        about = [("experiment", identity.experiment), ("run", identity.run), ("key", key[:250])]
        fields = f"value={quote(str(value)[:_MAX_TEXT])}"
        if not isinstance(value, str):
            try:
                as_number = number(value)
            except (TypeError, ValueError, OverflowError):
                pass
            else:
                if as_number - as_number == 0.0:
                    fields += f",number={as_number!r}"
        yield f"run_config{tags_of(about)} {fields} {time_ns}"


def event_line(
    identity: Identity,
    name: str,
    text: str,
    step: int | None,
    tags: Mapping[str, str],
    time_ns: int,
) -> str:
    """Something that happened. A checkpoint has a measurement of its own."""
    fields = [f"text={quote(text[:_MAX_TEXT])}"]
    if step is not None:
        fields.append(f"step={step}i")
    if name == "checkpoint":
        prefix = event_prefix("checkpoint", identity, tags)
    else:
        prefix = event_prefix("event", identity, {**tags, "name": name})
    return f"{prefix} {','.join(fields)} {time_ns}"


def system_line(
    measurement: str,
    identity: Identity,
    tags: Mapping[str, str],
    values: Mapping[str, float],
    time_ns: int,
) -> str:
    """One sample of the machine."""
    fields = ",".join(f"{escape(clean(k))}={float(v)!r}" for k, v in values.items())
    return f"{event_prefix(measurement, identity, tags)} {fields} {time_ns}"


def _flat(path: str, config: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(f"{name}{SEPARATOR}", value)
        elif name:
            yield name, value
