"""The gateway's answers against its own OpenAPI document, by schemathesis, in process."""

from __future__ import annotations

import re
from collections import defaultdict
from types import FunctionType

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks
from schemathesis.python.asgi import shutdown_lifespans
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from ingest.app import Dependencies, create_app
from ingest.errors import Unauthorized
from ingest.settings import HttpSettings
from schemas.tenants.keys import new_key
from tests.fakes.gateway import CLASSES, TOPICS, Reader
from tests.fakes.memory_log import MemoryLog

#: Requests of each kind for each operation.
EXAMPLES = 40

KEY, RECORD = new_key("vision")


class Keys:
    def authenticate(self, key):
        if key != KEY:
            raise Unauthorized("the key is not known", reason="unknown_key")
        return RECORD


def gateway():
    log = MemoryLog(TOPICS)
    progress = log.progress("stepclock.dlq")
    on = Dependencies(log.publisher(), progress, Reader(), Keys(), CLASSES, look_every_s=0.01)
    limits = {"rate_points_per_s": 10**9, "burst_points": 10**9}
    app = create_app(HttpSettings(**limits), on)
    app.state.settlement.stop_waiting()  # nobody here settles anything
    return app


load_all_checks()
app = gateway()
schema = schemathesis.openapi.from_dict(app.openapi())
schema.app = app
statuses = defaultdict(set)


@pytest.fixture(scope="module", autouse=True)
def lifespan():
    yield
    shutdown_lifespans()


def every_answer_is_one_that_the_document_promises(case):
    # The document can't say what a line, a receipt or a name must look like; and what is not
    # in it is no error: unknown parameters are ignored, a bad row is named in a 202.
    excluded = [positive_data_acceptance, negative_data_rejection]
    response = case.call_and_validate(
        headers={"Authorization": f"Bearer {KEY}"}, excluded_checks=excluded
    )
    statuses[case.operation.label].add(response.status_code)


def claims():
    """A test for each operation, by name: schemathesis would give all of them one node id."""
    limits = settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            operation = schema.include(path=path, method=method.upper())
            words = "_".join(re.findall(r"\w+", path))
            name = f"test_every_answer_of_{method}_{words}_is_one_that_the_document_promises"
            claim = FunctionType(
                every_answer_is_one_that_the_document_promises.__code__, globals(), name
            )
            yield name, operation.parametrize()(limits(claim))


globals().update(claims())


def test_every_operation_was_answered_with_success_as_well():
    assert len(statuses) == sum(len(operations) for operations in app.openapi()["paths"].values())
    for label, found in statuses.items():
        assert any(status < 300 for status in found), (label, found)


def test_the_routes_that_pass_by_the_framework_are_in_the_document():
    assert set(app.write_routes) <= app.openapi()["paths"].keys()
    for path in app.write_routes:
        assert app.openapi()["paths"][path]["post"]["requestBody"]["content"]
