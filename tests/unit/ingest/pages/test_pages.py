"""Probes, metrics and the OpenAPI document."""

import json

from tests.asgi import AsgiClient
from tests.fakes.gateway import scenario


@scenario
async def test_probes_and_metrics_answer_without_a_key(gateway):
    anonymous = AsgiClient(gateway.app)
    for path, status in [("/livez", 200), ("/readyz", 200), ("/health", 200), ("/ping", 204)]:
        assert (await anonymous.request("GET", path)).status == status
    await gateway.client.write("m f=1")
    page = (await anonymous.request("GET", "/metrics")).body.decode()
    assert 'stepclock_gateway_points_total{outcome="accepted",tenant="vision"}' in page
    assert 'stepclock_gateway_requests_total{route="/api/v2/write",status="204"}' in page
    assert "stepclock_gateway_circuit_state 0.0" in page


@scenario
async def test_the_openapi_page_is_served(gateway):
    document = json.loads((await gateway.client.request("GET", "/openapi.json")).body)
    assert "/api/v1/experiments/{experiment}/series" in document["paths"]


@scenario
async def test_a_name_that_no_experiment_can_have_is_not_found_as_the_page_says(gateway):
    get = gateway.client.request
    document = json.loads((await get("GET", "/openapi.json")).body)
    for what, query in [("runs", ""), ("metrics", ""), ("series", "metric=a"), ("points", "run=a")]:
        answer = await get("GET", f"/api/v1/experiments/a\nb/{what}", query=query)
        assert answer.status == 404
        responses = document["paths"][f"/api/v1/experiments/{{experiment}}/{what}"]["get"]
        assert "404" in responses["responses"]
