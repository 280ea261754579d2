"""What a backfill writes again: which views, from when on, whose lines."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from admin.terminal import fail
from consumers.records.selection import Place, Selection
from consumers.views import StepsView, View, WallView
from schemas.log.protocols import class_of, topic_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ViewName(StrEnum):
    """A view that can be chosen."""

    WALL = WallView.name
    STEPS = StepsView.name


@dataclass(frozen=True, slots=True)
class Choice:
    """What is written again. Empty means all.

    since: None is the log's start. topics: only those with something to show in a view.
    """

    view: ViewName | None
    since: datetime | None
    classes: tuple[str, ...]
    namespaces: tuple[str, ...]
    experiments: tuple[str, ...]
    runs: tuple[str, ...]

    @property
    def since_ms(self) -> int | None:
        """Unix time; None is the log's start."""
        return (
            None if self.since is None else max(0, (self.since - _EPOCH) // timedelta(0, 0, 1000))
        )

    def views(self, volatile_tags: Collection[str]) -> list[View]:
        """The views to write, in the order of the workers."""
        views: list[View] = [WallView(), StepsView(volatile_tags)]
        return [view for view in views if self.view is None or view.name == self.view]

    def topics(self, known: Sequence[str], views: Collection[View]) -> list[str]:
        """Those of the chosen classes that one of the views shows; ends the command for others."""
        for name in self.classes:
            if topic_of(name) not in known:
                names = ", ".join(map(class_of, known))
                fail(f"class {name!r} is not one that Kafka carries; those are {names}", code=2)
        return [
            topic
            for topic in known
            if (not self.classes or class_of(topic) in self.classes)
            and any(view.target(class_of(topic)) is not None for view in views)
        ]

    def selection(
        self, views: Collection[View], without: Mapping[Place, Collection[bytes]]
    ) -> Selection:
        """The filter of lines. without: lines to leave out."""
        return Selection(
            [view.name for view in views],
            namespaces=self.namespaces,
            experiments=self.experiments,
            runs=self.runs,
            without=without,
        )

    def again(self, from_ms: int) -> str:
        """The command that goes on from a time; 0 is where this one began."""
        words = ["stepclock-server", "backfill"]
        since = _EPOCH + timedelta(milliseconds=from_ms) if from_ms else self.since
        if since is not None:
            words += ["--from", since.isoformat(timespec="milliseconds").replace("+00:00", "Z")]
        if self.view is not None:
            words += ["--view", self.view.value]
        for flag, values in (
            ("--class", self.classes),
            ("--namespace", self.namespaces),
            ("--experiment", self.experiments),
            ("--run", self.runs),
        ):
            words += [word for value in values for word in (flag, value)]
        return shlex.join(words)
