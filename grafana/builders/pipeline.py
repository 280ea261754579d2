"""The dashboard *Pipeline*: whether points flow, from the gateway to the store. In PromQL."""

from __future__ import annotations

from grafana.builders.dashboard import Json, Row, dashboard
from grafana.builders.panel import state_timeline, time_series
from grafana.builders.prometheus import PROMETHEUS, RATE, per_s, target

_CIRCUIT = {0: ("closed", "green"), 1: ("half-open", "yellow"), 2: ("open", "red")}
# A partition that moves is shown by two workers for a moment.
_LAG = "max by (topic, partition) (stepclock_consumer_lag)"
_OLDEST = "max by (topic) (stepclock_consumer_oldest_unsettled_seconds)"


def pipeline() -> Json:
    """The dashboard."""
    return dashboard(
        "stepclock-pipeline",
        "Pipeline",
        "What the gateways take and refuse, what waits in Kafka, what the consumers store.",
        [
            Row(
                "Gateway",
                [
                    _lines(
                        "Requests by status",
                        "5xx: the log is away or we are at fault. 429: a tenant is over its "
                        "limit. 400: a client sends what can't be stored.",
                        per_s("stepclock_gateway_requests_total", "status"),
                        unit="reqps",
                    ),
                    _lines(
                        "Points by outcome",
                        "accepted: Kafka has them. refused: bad lines. limited: 429. "
                        "unavailable: 503.",
                        per_s("stepclock_gateway_points_total", "outcome"),
                    ),
                    _lines(
                        "Points accepted by tenant",
                        "Who sends how much.",
                        per_s(
                            "stepclock_gateway_points_total", "tenant", of='{outcome="accepted"}'
                        ),
                    ),
                    _lines(
                        "New series by tenant",
                        "Not seen for an hour. over and refused: beyond the limit, which observes "
                        "or enforces. Growing without end: a tag holds what changes each time.",
                        per_s("stepclock_gateway_new_series_total", "tenant", "outcome"),
                    ),
                    _quantiles(
                        "Time to answer",
                        "From a request's first byte to its answer; grows with Kafka's latency.",
                        "stepclock_gateway_request_seconds",
                        (0.5, 0.95, 0.99),
                    ),
                ],
            ),
            Row(
                "Gateway to Kafka",
                [
                    _quantiles(
                        "Acknowledgement",
                        "Until Kafka acknowledged a block.",
                        "stepclock_gateway_ack_seconds",
                        (0.5, 0.99),
                    ),
                    state_timeline(
                        "Circuit",
                        "open: Kafka is away, writes get 503 at once.",
                        PROMETHEUS,
                        [target("stepclock_gateway_circuit_state", "{{instance}}")],
                        states=_CIRCUIT,
                    ),
                    time_series(
                        "Pending bytes and their limit",
                        "Bytes that wait for Kafka's acknowledgement; at the limit writes get 503.",
                        PROMETHEUS,
                        [
                            target("stepclock_gateway_pending_bytes", "{{instance}}"),
                            target("max(stepclock_gateway_pending_bytes_limit)", "limit"),
                        ],
                        unit="bytes",
                        minimum=0,
                    ),
                    _lines(
                        "Blocks by outcome",
                        "Records that were handed to Kafka.",
                        per_s("stepclock_gateway_blocks_total", "outcome"),
                    ),
                ],
            ),
            Row(
                "Consumers",
                [
                    _lines(
                        "Lag by partition",
                        "Records not yet settled. Growing: the store or the number of consumers "
                        "is the limit.",
                        target(_LAG, "{{topic}} {{partition}}"),
                    ),
                    _lines(
                        "Oldest unsettled record",
                        "Age of what waits longest in each topic. At 7 days Kafka deletes it.",
                        target(_OLDEST, "{{topic}}"),
                        unit="s",
                    ),
                    _quantiles(
                        "End to end",
                        "From receipt at the gateway to stored in both views.",
                        "stepclock_consumer_end_to_end_seconds",
                        (0.5, 0.99),
                    ),
                    _quantiles(
                        "Canary",
                        "Stepclock's own points, a few seconds apart, from a gateway to stored. "
                        "They come whether clients send or not.",
                        "stepclock_consumer_canary_seconds",
                        (0.5, 0.99),
                    ),
                    _lines(
                        "Writes by outcome",
                        "Anything but stored that keeps growing: see the runbook.",
                        per_s("stepclock_consumer_writes_total", "view", "outcome"),
                    ),
                    _quantiles(
                        "Time of a write",
                        "As InfluxDB answers.",
                        "stepclock_consumer_write_seconds",
                        (0.5, 0.99),
                    ),
                ],
            ),
            Row(
                "Trouble",
                [
                    _lines(
                        "Dead letters by reason",
                        "Lines that were refused behind the gateway, kept with the reason.",
                        per_s("stepclock_consumer_dead_letters_total", "reason", "tenant"),
                    ),
                    _lines(
                        "Paused partitions",
                        "They rest because the store is away, or because memory is full.",
                        target("stepclock_consumer_paused_partitions", "{{instance}}"),
                    ),
                    _lines(
                        "Rebalances",
                        "Partitions that changed hands, in 5 minutes.",
                        target(
                            "sum by (event) (increase(stepclock_consumer_rebalances_total[5m]))",
                            "{{event}}",
                        ),
                    ),
                    _lines(
                        "Records lost",
                        "Deleted by retention before they were read. Must stay 0.",
                        target("sum(stepclock_consumer_lost_offsets_total)", "lost"),
                    ),
                ],
            ),
        ],
        time_from="now-1h",
        time_to="now",
        refresh="10s",
    )


def _lines(title: str, description: str, asked: Json, *, unit: str = "short") -> Json:
    return time_series(title, description, PROMETHEUS, [asked], unit=unit, minimum=0)


def _quantiles(title: str, description: str, histogram: str, quantiles: tuple[float, ...]) -> Json:
    """Quantiles of a histogram of seconds, over all instances."""
    targets = [
        target(
            f"histogram_quantile({q}, sum by (le) (rate({histogram}_bucket{RATE})))",
            f"p{q * 100:g}",
        )
        for q in quantiles
    ]
    return time_series(title, description, PROMETHEUS, targets, unit="s", minimum=0)
