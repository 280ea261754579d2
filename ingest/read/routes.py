"""The read routes under /api/v1: experiments, runs, metrics, downsampled series, points."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, ParamSpec, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from ingest.errors import BadRequest, Unavailable
from ingest.keys.auth import KeyStore, key_in_headers
from ingest.read.run_points import NDJSON, ndjson, run_points
from schemas.line_protocol.bounds import MAX_STEP
from schemas.store.protocols import Clock, SeriesQuery, StoreReader, StoreUnavailable
from schemas.tenants.keys import KeyRecord

P = ParamSpec("P")
T = TypeVar("T")


class Experiments(BaseModel):
    """Names of experiments, sorted."""

    experiments: list[str]


class Run(BaseModel):
    """One run of an experiment."""

    run: str
    first_step: int | None = Field(description="Smallest step, null without steps.")
    last_step: int | None = Field(description="Largest step, null without steps.")
    last_time_ns: int = Field(description="Unix time of its newest point in ns.")
    state: str | None = Field(
        description="How it stands: running, finished, failed, preempted, silent, lost; null where "
        "nobody told."
    )
    attempt: int | None = Field(description="Its newest attempt, null where nobody told.")
    reason: str | None = Field(description="Why it stands so, null where nobody told.")


class Runs(BaseModel):
    """Runs of an experiment, sorted by name."""

    experiment: str
    runs: list[Run]


class Metrics(BaseModel):
    """Metrics of an experiment, sorted by name."""

    experiment: str
    metrics: list[str]


class Columns(BaseModel):
    """One run's buckets: t is the start of each, in steps or in Unix ns."""

    run: str
    t: list[int]
    mean: list[float]
    min: list[float]
    max: list[float]
    count: list[int]


class Series(BaseModel):
    """One metric of several runs, downsampled by the store."""

    metric: str
    clock: Clock
    runs: list[Columns]


def read_routes(keys: KeyStore, reader: StoreReader) -> APIRouter:
    """The router. Handlers are plain functions: FastAPI runs them in its thread pool."""

    def authenticated(request: Request) -> KeyRecord:
        return keys.authenticate(key_in_headers(request.headers.raw))

    # No `from __future__ import annotations` here: FastAPI must see the alias below itself.
    caller = Annotated[KeyRecord, Depends(authenticated)]
    router = APIRouter(prefix="/api/v1", tags=["read"])

    @router.get("/experiments")
    def experiments(key: caller) -> Experiments:
        """Experiments of the key's namespace."""
        return Experiments(experiments=_ask(reader.experiments, key.tenant.namespace))

    @router.get("/experiments/{experiment:path}/runs")
    def runs(experiment: str, key: caller) -> Runs:
        """Runs of one experiment; none for an unknown one."""
        found = _ask(reader.runs, key.tenant.namespace, experiment)
        return Runs(experiment=experiment, runs=[Run(**dataclasses.asdict(r)) for r in found])

    @router.get("/experiments/{experiment:path}/metrics")
    def metrics(
        experiment: str,
        key: caller,
        clock: Annotated[Clock, Query(description="With points by step, or by wall time.")] = (
            Clock.STEP
        ),
    ) -> Metrics:
        """Metrics that a series can be asked for; none for an unknown experiment."""
        found = _ask(reader.metrics, key.tenant.namespace, experiment, clock)
        return Metrics(experiment=experiment, metrics=found)

    @router.get(
        "/experiments/{experiment:path}/points",
        response_class=StreamingResponse,
        responses={200: {"content": {NDJSON: {}}, "description": "One JSON object a line."}},
    )
    def points(
        experiment: str,
        key: caller,
        run: Annotated[str, Query(min_length=1, description="Run.")],
        clock: Annotated[Clock, Query(description="t: step, or wall for Unix ns.")] = Clock.STEP,
    ) -> StreamingResponse:
        """Every point of one run as it is stored, `{t, tags, values}`, by series and t.

        A value that is not finite is a string: nan, inf or -inf. The last line is `{end}` with
        the number of points, or `{error}` if the store broke off.
        """
        found = run_points(reader, key.tenant.namespace, experiment, run, clock)
        # A store that is away is told by the status as long as nothing was sent.
        first = _ask(next, found, None)
        return StreamingResponse(ndjson(first, found), media_type=NDJSON)

    @router.get("/experiments/{experiment:path}/series")
    def series(
        experiment: str,
        key: caller,
        metric: Annotated[str, Query(min_length=1, description="Metric, such as train/loss.")],
        run: Annotated[list[str] | None, Query(description="Run; repeat it; none: all.")] = None,
        clock: Annotated[Clock, Query(description="x axis: step, or wall for time.")] = Clock.STEP,
        start: Annotated[
            int | None,
            Query(alias="from", ge=0, lt=2**63, description="First step or Unix ns, included."),
        ] = None,
        end: Annotated[
            int | None,
            Query(alias="to", ge=0, lt=2**63, description="Last step or Unix ns, not included."),
        ] = None,
        points: Annotated[int, Query(ge=1, le=10_000, description="Buckets at most.")] = 1000,
    ) -> Series:
        """One metric by step or by time: mean, min, max and count of each bucket."""
        if clock is Clock.STEP and max(start or 0, end or 0) > MAX_STEP + 1:
            raise BadRequest(f"a step is at most {MAX_STEP}")
        query = SeriesQuery(
            key.tenant.namespace, experiment, metric, tuple(run or ()), clock, start, end, points
        )
        found = _ask(reader.series, query)
        return Series(
            metric=metric, clock=clock, runs=[Columns(**dataclasses.asdict(s)) for s in found]
        )

    return router


def _ask(question: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What the store answers. Raises Unavailable."""
    try:
        return question(*arguments, **named)
    except StoreUnavailable as exc:
        raise Unavailable(f"the store does not answer: {exc}", exc.retry_after_s or 2.0) from exc
