"""The gateway's read routes: what is stored of experiments and runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlencode

from stepclock.cli.options import Failed
from stepclock.cli.terminal import printable
from stepclock.send.transport import GatewayConnection
from stepclock.settings import Settings

#: A read may wait for a store that is busy.
_TIMEOUT_S = 60.0

#: Values that JSON has no number for; other texts are no metrics.
_NONFINITE = frozenset({"nan", "inf", "-inf"})


@dataclass(frozen=True)
class ListedRun:
    """One run. Steps are None where it has none; state, attempt and reason where nobody told."""

    experiment: str
    run: str
    first_step: int | None
    last_step: int | None
    last_time_ns: int
    state: str | None = None
    attempt: int | None = None
    reason: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is expected. One that is preempted or silent may go on."""
        return self.state in {"finished", "failed", "lost"}


@dataclass(frozen=True)
class Curve:
    """One metric of a run by step, in buckets: where each begins, its mean, values in it."""

    t: tuple[int, ...]
    mean: tuple[float, ...]
    count: tuple[int, ...]


@dataclass(frozen=True)
class RunPoint:
    """What a run stored at one step; NaN and infinities included."""

    step: int
    rank: int
    attempt: int
    values: dict[str, float]


class Reads(GatewayConnection):
    """Asks one gateway. Every method raises Failed where it does not answer well."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.endpoint, settings.token, settings.ca_file, _TIMEOUT_S)

    def experiments(self) -> list[str]:
        """Names, sorted."""
        return [str(name) for name in self._document("/api/v1/experiments")["experiments"]]

    def runs(self, experiment: str) -> list[ListedRun]:
        """Runs of an experiment, sorted by name; none for an unknown one."""
        return [
            ListedRun(
                experiment,
                each["run"],
                each["first_step"],
                each["last_step"],
                each["last_time_ns"],
                each.get("state"),
                each.get("attempt"),
                each.get("reason"),
            )
            for each in self._document(f"{_path(experiment)}/runs")["runs"]
        ]

    def find(self, name: str, experiment: str | None) -> ListedRun:
        """The run of that name, or the only one whose name begins so."""
        among = self.experiments() if experiment is None else [experiment]
        every = [run for each in among for run in self.runs(each)]
        found = [run for run in every if run.run == name]
        found = found or [run for run in every if run.run.startswith(name)]
        if not found:
            raise Failed(f"there is no run {name!r}; 'stepclock runs' lists them")
        if len(found) > 1:
            listed = ", ".join(f"{run.run} of {run.experiment}" for run in found[:5])
            raise Failed(f"{name!r} may be one of {len(found)} runs: {listed}; see --experiment")
        return found[0]

    def metrics(self, experiment: str) -> list[str]:
        """Metrics of any run of the experiment, sorted."""
        document = self._document(f"{_path(experiment)}/metrics")
        return [str(name) for name in document["metrics"]]

    def curve(
        self, run: ListedRun, metric: str, points: int, from_step: int | None = None
    ) -> Curve | None:
        """One metric of a run; None if it has none of it."""
        asked = {"metric": metric, "run": run.run, "points": points}
        if from_step is not None:
            asked["from"] = from_step
        document = self._document(f"{_path(run.experiment)}/series?{urlencode(asked)}")
        for each in document["runs"]:
            return Curve(tuple(each["t"]), tuple(each["mean"]), tuple(each["count"]))
        return None

    def points(self, run: ListedRun) -> Iterator[RunPoint]:
        """Every point by step, one series after the other."""
        asked = urlencode({"run": run.run})
        for line in self._lines(f"{_path(run.experiment)}/points?{asked}"):
            each = json.loads(line)
            if "end" in each:
                return
            if "error" in each:
                raise Failed(f"the server broke off: {each['error']}")
            values = {
                name: float(value)
                for name, value in each["values"].items()
                if not isinstance(value, str) or value in _NONFINITE
            }
            tags = each["tags"]
            yield RunPoint(
                each["t"], _number(tags.get("rank")), _number(tags.get("attempt")), values
            )
        raise Failed("the server broke off")

    def _document(self, path: str) -> Any:
        try:
            return json.loads(b"".join(self._lines(path)))
        except ValueError as exc:
            raise Failed(f"{self.endpoint} answers no JSON to {path}: {exc}") from exc

    def _lines(self, path: str) -> Iterator[bytes]:
        """The lines of an answer as they come: some are larger than memory should be."""
        try:
            response = self._open("GET", path, None, {}, _TIMEOUT_S)
            if response.status != 200:
                raise Failed(self._refusal(path, response.status, response.read(10_000)))
            yield from response
            whole = response.isclosed()
        except (OSError, HTTPException, ValueError) as exc:
            self.close()
            raise Failed(
                f"{self.endpoint} does not answer: {self._told(exc)}; 'stepclock doctor' says more"
            ) from exc
        except BaseException:
            self.close()  # what is unread must not stand before the next answer
            raise
        if not whole:
            self.close()

    def _refusal(self, path: str, status: int, body: bytes) -> str:
        try:
            document = json.loads(body)
            said = document.get("detail") or document.get("message") or ""
        except (ValueError, AttributeError):
            said = ""
        hint = "'stepclock doctor' says more"
        if status == 404:
            hint = "is it a Stepclock gateway, and not an older one? " + hint
        told = f"{self.endpoint} answers {status} to {path.partition('?')[0]}: {said}; {hint}"
        return printable(told.replace(self._token, "(the key)") if self._token else told)


def _path(experiment: str) -> str:
    return f"/api/v1/experiments/{quote(experiment, safe='')}"


def _number(tag: str | None) -> int:
    """A rank or attempt; 0 where the tag is missing or is no number, as raw clients may do."""
    return int(tag) if tag is not None and tag.isdecimal() else 0
