"""Metrics name the tenants that there is room for."""

from telemetry import metrics
from telemetry.metrics import MAX_TENANT_LABELS, OTHER_TENANTS, tenant_label


def test_beyond_a_thousand_tenants_the_others_share_a_label(monkeypatch):
    monkeypatch.setattr(metrics, "_labelled", set())
    names = [f"t{n}" for n in range(MAX_TENANT_LABELS)]
    assert [tenant_label(name) for name in names] == names
    assert tenant_label("late") == OTHER_TENANTS
    assert tenant_label("t0") == "t0"
