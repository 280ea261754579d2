"""Line protocol: how names, numbers and strings stand in a line.

One line carries all metrics of one step:
``resnet50,attempt=0,rank=0,run=r12 train/loss=0.31,step=1200i 1795277400000000000``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from stepclock.identity import Identity

#: Fields of one line in bytes; a row with more becomes several lines of the same point.
MAX_FIELDS = 256 * 1024

_MAX_CHARACTERS = MAX_FIELDS // 4  # a character has 4 bytes at most

_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\\]|#!~")


def clean(text: str) -> str:
    """The name as a line can hold it: `_` for control characters, backslashes and ``#!~``."""
    return _UNWRITABLE.sub("_", text.encode("utf-8", "replace").decode())


def escape(name: str) -> str:
    """A clean tag key, tag value or field key as it stands in a line."""
    return name.replace(",", "\\,").replace(" ", "\\ ").replace("=", "\\=")


def quote(text: str) -> str:
    """A string field. Newlines and other control characters become spaces: one line stays one."""
    text = re.sub(r"[\x00-\x1f\x7f]", " ", text.encode("utf-8", "replace").decode())
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def tags_of(tags: Iterable[tuple[str, str]]) -> str:
    """Tags with a comma before each, in the order of their keys; empty ones are left out."""
    cleaned = ((clean(key), clean(value)) for key, value in tags)
    return "".join(f",{escape(k)}={escape(v)}" for k, v in sorted(cleaned) if k and v)


def run_prefix(identity: Identity, tags: Mapping[str, str]) -> str:
    """What a line of the experiment itself begins with, up to its fields."""
    name = identity.experiment.replace(",", "\\,").replace(" ", "\\ ")
    return name + tags_of([*tags.items(), *run_tags(identity)])


def event_prefix(measurement: str, identity: Identity, tags: Mapping[str, str]) -> str:
    """What a line of another measurement about the run begins with."""
    about = [("experiment", identity.experiment), *run_tags(identity)]
    return measurement + tags_of([*tags.items(), *about])


def run_tags(identity: Identity) -> list[tuple[str, str]]:
    """The tags that name the run; attempt 0 has its number, so that it can be named."""
    return [
        ("run", identity.run),
        ("rank", str(identity.rank)),
        ("attempt", str(identity.attempt)),
    ]


def split_fields(fields: list[str]) -> Iterable[str]:
    """The fields with commas between them, in as few parts as fit a line each."""
    joined = ",".join(fields)
    return [joined] if len(joined) <= _MAX_CHARACTERS else _parts(fields)


def _parts(fields: list[str]) -> Iterable[str]:
    part: list[str] = []
    size = 0
    for each in fields:
        length = len(each) + 1
        if part and size + length > _MAX_CHARACTERS:
            yield ",".join(part)
            part, size = [], 0
        part.append(each)
        size += length
    yield ",".join(part)
