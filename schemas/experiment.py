"""Names of measurements: which of them are a client's own."""

from __future__ import annotations

from schemas.retention import DEFAULT_CLASS

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
