"""Regular expressions for ranges of decimal numbers."""

from __future__ import annotations


def digit_range(lowest: int, highest: int) -> bytes:
    """A pattern that matches the decimal spelling, without leading zeros, of a range's numbers.

    Both ends belong to it. An empty range gives a pattern that matches nothing. Raises
    ValueError for a negative end.
    """
    if lowest < 0:
        raise ValueError(f"the range must not be negative, it begins at {lowest}")
    alternatives = []
    while lowest <= highest:
        end = min(highest, 10 ** len(str(lowest)) - 1)
        alternatives.append(_same_length(str(lowest), str(end)))
        lowest = end + 1
    # RE2 has no (?!): a class that holds no byte matches nothing.
    return b"(?:" + b"|".join(alternatives) + b")" if alternatives else rb"[^\x00-\xff]"


def _same_length(lowest: str, highest: str) -> bytes:
    """The pattern of a range whose ends have equally many digits."""
    if not lowest:
        return b""
    free = len(lowest) - 1
    if lowest[1:] == "0" * free and highest[1:] == "9" * free:
        return _digit(int(lowest[0]), int(highest[0])) + _free(free)
    first, last = int(lowest[0]), int(highest[0])
    if first == last:
        return b"%d" % first + _same_length(lowest[1:], highest[1:])
    alternatives = [b"%d" % first + _same_length(lowest[1:], "9" * free)]
    if first + 1 < last:
        alternatives.append(_digit(first + 1, last - 1) + _free(free))
    alternatives.append(b"%d" % last + _same_length("0" * free, highest[1:]))
    return b"(?:" + b"|".join(alternatives) + b")"


def _digit(first: int, last: int) -> bytes:
    return b"%d" % first if first == last else b"[%d-%d]" % (first, last)


def _free(digits: int) -> bytes:
    return b"[0-9]{%d}" % digits if digits else b""
