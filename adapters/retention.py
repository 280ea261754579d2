"""Reading retention.toml from disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from schemas.retention import InvalidRetention, RetentionClass, default_text, parse


def load_retention(path: Path | None) -> Mapping[str, RetentionClass]:
    """The classes of a file, or of the one that ships. Raises InvalidRetention, OSError."""
    text = default_text() if path is None else path.read_text("utf-8")
    try:
        return parse(text)
    except InvalidRetention as exc:
        raise InvalidRetention(f"{path or 'retention.toml'}: {exc}") from exc
