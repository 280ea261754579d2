"""Names of experiments: which measurements of class raw are a client's own."""

from __future__ import annotations

#: Measurements that Stepclock writes itself, in class events or beside it.
RESERVED = frozenset({"nonfinite", "run_config", "run_state", "checkpoint", "delivery"})


def is_reserved(name: str) -> bool:
    """Whether a client can't call an experiment so: ours, or with a leading underscore."""
    return name in RESERVED or name.startswith("_")
