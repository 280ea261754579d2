"""The read routes, on a store in memory."""

import json

from tests.asgi import AsgiClient
from tests.fakes.gateway import scenario


@scenario
async def test_read_routes_answer_for_the_key_s_namespace(gateway):
    get = gateway.client.request
    assert (await get("GET", "/api/v1/experiments")).json() == {"experiments": ["of-stepclock"]}
    assert (await get("GET", "/api/v1/experiments/resnet/runs")).json() == {
        "experiment": "resnet",
        "runs": [
            {
                "run": "r1",
                "first_step": 0,
                "last_step": 9,
                "last_time_ns": 123,
                "state": None,
                "attempt": None,
                "reason": None,
            },
            {
                "run": "r2",
                "first_step": None,
                "last_step": None,
                "last_time_ns": 124,
                "state": "failed",
                "attempt": 3,
                "reason": "ValueError: no memory",
            },
        ],
    }
    answer = await get(
        "GET",
        "/api/v1/experiments/res net/series",
        query="metric=train/loss&run=r1&run=r2&clock=step&from=5&to=10&points=2",
    )
    assert answer.json() == {
        "metric": "train/loss",
        "clock": "step",
        "runs": [
            {
                "run": "r1",
                "t": [0, 5],
                "mean": [1.0, 2.0],
                "min": [0.5, 2.0],
                "max": [1.5, 2.0],
                "count": [5, 5],
            }
        ],
    }
    asked = gateway.reader.asked
    assert (asked.namespace, asked.experiment, asked.runs) == (
        "stepclock",
        "res net",
        ("r1", "r2"),
    )
    assert (asked.start, asked.end, asked.points) == (5, 10, 2)


@scenario
async def test_metrics_are_told_by_the_clock_that_is_asked_for(gateway):
    get = gateway.client.request
    path = "/api/v1/experiments/team/resnet/metrics"
    assert (await get("GET", path)).json() == {
        "experiment": "team/resnet",
        "metrics": ["by-step", "loss"],
    }
    assert (await get("GET", path, query="clock=wall")).json()["metrics"] == ["by-wall", "loss"]


@scenario
async def test_points_of_a_run_are_lines_with_those_that_are_not_finite(gateway):
    path = "/api/v1/experiments/resnet/points"
    answer = await gateway.client.request("GET", path, query="run=r1")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in answer.body.splitlines()] == [
        {"t": 7, "tags": {"run": "r1"}, "values": {"loss": 0.5}},
        {"t": 8, "tags": {"run": "r1", "rank": "0"}, "values": {"lr": "nan"}},
        {"end": 2},
    ]
    answer = await gateway.client.request("GET", path, query="run=r1&clock=wall")
    assert json.loads(answer.body.splitlines()[0])["t"] == 7_000_000
    assert gateway.reader.asked_points == [
        ("stepclock", "steps", "resnet", "r1"),
        ("stepclock", "steps", "nonfinite", "r1"),
        ("stepclock", "raw", "resnet", "r1"),
        ("stepclock", "events", "nonfinite", "r1"),
    ]


@scenario
async def test_points_say_when_the_store_is_away_and_when_it_breaks_off(gateway):
    path = "/api/v1/experiments/resnet/points"
    gateway.reader.breaks_off = True
    answer = await gateway.client.request("GET", path, query="run=r1")
    assert [json.loads(line) for line in answer.body.splitlines()] == [
        {"t": 7, "tags": {"run": "r1"}, "values": {"loss": 0.5}},
        {"error": "the store does not answer: connection lost"},
    ]
    gateway.reader.away = True
    assert (await gateway.client.request("GET", path, query="run=r1")).status == 503
    assert (await gateway.client.request("GET", path)).status == 400
    assert (await AsgiClient(gateway.app).request("GET", path, query="run=r1")).status == 401


@scenario
async def test_read_routes_need_a_key_and_say_when_the_store_is_away(gateway):
    anonymous = AsgiClient(gateway.app)
    answer = await anonymous.request("GET", "/api/v1/experiments")
    assert (answer.status, answer.json()["title"]) == (401, "unauthorized")
    gateway.reader.away = True
    answer = await gateway.client.request("GET", "/api/v1/experiments", key=gateway.read_key)
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
