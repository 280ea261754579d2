"""Inputs with headers, as text that a person can read: a head, an empty line, and the rest."""

from __future__ import annotations


def split_head(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Lines ``name: value`` up to the first empty one, and what follows it."""
    head, _, rest = data.partition(b"\n\n")
    pairs = (line.partition(b":") for line in head.split(b"\n") if line)
    return [(name, value.removeprefix(b" ")) for name, _, value in pairs], rest


def record_headers(pairs: list[tuple[bytes, bytes]]) -> tuple[tuple[str, bytes], ...]:
    """As a log gives them."""
    return tuple((name.decode("utf-8", "replace"), value) for name, value in pairs)
