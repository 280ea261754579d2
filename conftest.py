"""Every test, the client's included, leaves logging as it found it."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def logging_is_left_as_it_was() -> Iterator[None]:
    """A handler that stays writes the lines of later tests to a stream that is closed."""
    root = logging.root
    handlers, level = root.handlers[:], root.level
    yield
    left = [each for each in root.handlers if each not in handlers]
    found = root.level
    for each in left:
        root.removeHandler(each)
    root.setLevel(level)
    assert (left, found) == ([], level), "use the fixture own_logging"


@pytest.fixture
def own_logging() -> Iterator[None]:
    """For tests that call `telemetry.logs.configure`, as commands do: takes back what it sets."""
    loggers = [logging.getLogger(name) for name in (None, "stepclock.audit", "uvicorn", "kafka")]
    before = [(each, each.handlers[:], each.level) for each in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
