"""Retention classes: how long points stay, and which of them a client may write to."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources

from schemas import rollup
from schemas.log.protocols import DEAD_LETTER_TOPIC, topic_of
from schemas.rollup import Rollup

_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "y": 365 * 86_400}
# What databases count in signed 64-bit nanoseconds ends at 292 years.
_MAX_YEARS = 290
_DURATION = re.compile(r"([1-9][0-9]{0,5})([hdy])")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")

#: The class that InfluxQL and v1 writes mean when they name none.
DEFAULT_CLASS = "raw"

#: The class of what is no curve: lifecycle, strings, values that are no numbers.
EVENTS_CLASS = "events"

#: The class that holds the points of DEFAULT_CLASS again, with the step as their time.
STEP_CLASS = "steps"


class InvalidRetention(Exception):
    """retention.toml says something that can't be; the message names class and key."""


class Kind(StrEnum):
    """Who writes to a class."""

    INGEST = "ingest"  # clients, through a topic
    DERIVED = "derived"  # Stepclock itself


@dataclass(frozen=True, slots=True)
class RetentionClass:
    """One class. keep_s None means for ever; shard_s None means that the store chooses.

    rollup: how it is filled from another class; None for a class that is not.
    """

    name: str
    kind: Kind
    keep_s: int | None
    shard_s: int | None = None
    rollup: Rollup | None = None

    def bucket(self, namespace: str) -> str:
        """Name of the InfluxDB bucket: ``stepclock/raw``."""
        return f"{namespace}/{self.name}"


def default_text() -> str:
    """The text of the retention.toml that ships with Stepclock."""
    return resources.files("schemas").joinpath("retention.toml").read_text("utf-8")


def parse(text: str) -> Mapping[str, RetentionClass]:
    """The classes of a retention.toml by name, in the file's order.

    Raises InvalidRetention.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # numbers too long and nests too deep as well
        raise InvalidRetention(f"not valid TOML: {exc}") from exc
    tables = document.get("classes")
    if not isinstance(tables, dict) or set(document) != {"classes"}:
        raise InvalidRetention("expected tables [classes.<name>] and nothing else")
    classes = {name: _parse_class(name, table) for name, table in tables.items()}
    for name, kind in ((DEFAULT_CLASS, Kind.INGEST), (EVENTS_CLASS, Kind.INGEST)):
        if name not in classes or classes[name].kind is not kind:
            raise InvalidRetention(f"class {name!r} must exist and be of kind {kind.value!r}")
    step = classes.get(STEP_CLASS)
    if step is None or step.kind is not Kind.DERIVED or step.keep_s is not None:
        raise InvalidRetention(
            f"class {STEP_CLASS!r} must exist, be derived, and keep forever: "
            "its times are training steps near 1970, which any finite retention would delete"
        )
    for each in classes.values():
        _check_rollup(each, classes)
    return classes


def parse_duration(text: str) -> int | None:
    """Seconds of ``90d``, ``24h``, ``2y``; None for ``forever``. Raises ValueError."""
    if text == "forever":
        return None
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f'{text!r} is no duration; write "90d", "24h", "2y" or "forever"')
    seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds > _MAX_YEARS * _SECONDS["y"]:
        raise ValueError(f'{text!r} is over {_MAX_YEARS} years; write "forever"')
    return seconds


def format_duration(seconds: int | None) -> str:
    """The shortest exact spelling: 7776000 -> ``90d``; None -> ``forever``."""
    if seconds is None:
        return "forever"
    for unit in ("y", "d", "h", "m"):
        if seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"


def _parse_class(name: str, table: object) -> RetentionClass:
    if not _NAME.fullmatch(name):
        raise InvalidRetention(f"class name {name!r}: use a-z, 0-9 and _, a letter first")
    if not isinstance(table, dict):
        raise InvalidRetention(f"class {name!r} is not a table")
    unknown = set(table) - {"kind", "keep", "shard", "rollup"}
    if unknown:
        raise InvalidRetention(f"class {name!r}: unknown key {min(unknown)!r}")
    try:
        kind = Kind(str(table.get("kind")))
    except ValueError:
        raise InvalidRetention(f'class {name!r}: kind must be "ingest" or "derived"') from None
    if topic_of(name) == DEAD_LETTER_TOPIC:
        raise InvalidRetention(f"class name {name!r} would be the topic of the dead letters")
    keep_s = _duration(name, "keep", table)
    shard_s = _duration(name, "shard", table) if "shard" in table else None
    if keep_s is not None and shard_s is not None and shard_s > keep_s:
        raise InvalidRetention(f"class {name!r}: shard must not be longer than keep")
    return RetentionClass(name, kind, keep_s, shard_s, _rollup(name, table))


def _rollup(name: str, table: Mapping[str, object]) -> Rollup | None:
    if "rollup" not in table:
        return None
    try:
        return rollup.parse(table["rollup"])
    except ValueError as exc:
        raise InvalidRetention(f"class {name!r}: rollup: {exc}") from exc


def _check_rollup(target: RetentionClass, classes: Mapping[str, RetentionClass]) -> None:
    """Nothing that a run reads or writes may be on its way out of its class."""
    filled = target.rollup
    if filled is None:
        return
    said = f"class {target.name!r}: rollup:"
    if target.kind is not Kind.DERIVED or target.name == STEP_CLASS:
        raise InvalidRetention(f"{said} only a derived class other than {STEP_CLASS!r} has one")
    source = classes.get(filled.source)
    if source is None or source.kind is not Kind.INGEST:
        raise InvalidRetention(f"{said} from must be an ingest class, not {filled.source!r}")
    for kept in (source, target):
        if kept.keep_s is not None and filled.reach_s > kept.keep_s:
            raise InvalidRetention(
                f"{said} class {kept.name!r} keeps {format_duration(kept.keep_s)}, less than "
                "look_back, delay and a window: what is left of a window would replace all of it"
            )


def _duration(name: str, key: str, table: Mapping[str, object]) -> int | None:
    value = table.get(key)
    if not isinstance(value, str):
        raise InvalidRetention(f'class {name!r}: {key} must be a string such as "90d"')
    try:
        return parse_duration(value)
    except ValueError as exc:
        raise InvalidRetention(f"class {name!r}: {key}: {exc}") from exc


#: What class events is for; an experiment of class raw can't be called so.
RESERVED = frozenset({"nonfinite", "run_config", "run_state", "checkpoint", "delivery"})

#: What workers write into class events about deliveries: no client may.
_WRITTEN_BY_WORKERS = frozenset({"delivery"})


def reserved_in(retention_class: str) -> frozenset[str]:
    """Names that no client may write to a class, beside those with a leading underscore."""
    return RESERVED if retention_class == DEFAULT_CLASS else _WRITTEN_BY_WORKERS


def is_reserved(name: str) -> bool:
    """Whether a client can't call an experiment so: ours, or with a leading underscore."""
    return name in RESERVED or name.startswith("_")
