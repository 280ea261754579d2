"""What a run tells of its surroundings, without asking anybody to type it."""

from __future__ import annotations


def surroundings(*, full: bool) -> dict[str, object]:
    return {}


def masked(text: str) -> str:
    return text
