"""Pages about the gateway itself: probes, metrics, the OpenAPI document."""
