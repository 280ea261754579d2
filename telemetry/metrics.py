"""Every metric of Stepclock, each with a comment that says what a change of it means.

Latencies in seconds, sizes in bytes. Labels are bounded: tenants by `tenant_label`, topics and
partitions by the broker.
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

#: Tenants that have a label of their own in a process: each costs some kilobytes.
MAX_TENANT_LABELS = 1000
OTHER_TENANTS = "(others)"

_labelled: set[str] = set()


def tenant_label(name: str) -> str:
    """The label of a tenant: its name for the first thousand that a process meets."""
    if name not in _labelled:
        if len(_labelled) >= MAX_TENANT_LABELS:
            return OTHER_TENANTS
        _labelled.add(name)
    return name


_LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

# -- gateway ------------------------------------------------------------------------------

# Requests by route and status. 5xx: the log is away or we are at fault. 429: a tenant is
# over its limit. 400: a client sends what can't be stored. gone: the client left; tls: a
# handshake failed.
REQUESTS = Counter("stepclock_gateway_requests_total", "Requests answered.", ["route", "status"])

# Time from the first byte of a write request to its answer. Grows with the log's latency.
REQUEST_SECONDS = Histogram(
    "stepclock_gateway_request_seconds", "Time to answer a request.", ["route"], buckets=_LATENCY_S
)

# Points by tenant and what became of them: accepted (the log has them), refused (bad lines),
# limited (429), unavailable (503).
POINTS = Counter("stepclock_gateway_points_total", "Points by outcome.", ["tenant", "outcome"])


@lru_cache(maxsize=4 * MAX_TENANT_LABELS)
def points(tenant: str, outcome: str) -> Counter:
    """POINTS for one tenant and outcome: looking it up costs as much as judging three lines."""
    return POINTS.labels(tenant_label(tenant), outcome)


# Points that a limit would have refused, had it not been a dry run. They were taken.
DRY_RUN_LIMITED = Counter(
    "stepclock_gateway_dry_run_limited_points_total",
    "Points that would have been limited.",
    ["tenant"],
)

# Lines that came without a time and got the gateway's.
STAMPED = Counter("stepclock_gateway_stamped_total", "Lines that the gateway timed.", ["tenant"])

# Bytes of lines that wait for the log's acknowledgement; at the limit requests get 503.
PENDING_BYTES = Gauge("stepclock_gateway_pending_bytes", "Bytes not yet acknowledged.")
PENDING_BYTES_LIMIT = Gauge("stepclock_gateway_pending_bytes_limit", "Bound of pending bytes.")

# Requests that got 503 since bytes in memory were at a bound (reading, pending), and
# whose: of one tenant, so that the others go on, or of all.
BOUND_REACHED = Counter(
    "stepclock_gateway_bound_reached_total", "503s by bound of bytes.", ["bound", "whose"]
)

# Open connections; at STEPCLOCK_MAX_CONNECTIONS newcomers get 503.
CONNECTIONS = Gauge("stepclock_gateway_connections", "Open client connections.")

# Records appended to the log, and the time until it acknowledged them.
BLOCKS = Counter("stepclock_gateway_blocks_total", "Blocks by outcome.", ["outcome"])
ACK_SECONDS = Histogram(
    "stepclock_gateway_ack_seconds", "Time until the log acknowledged a block.", buckets=_LATENCY_S
)

# 0 closed: normal. 1 half-open: trying. 2 open: the log is away, writes get 503 at once.
CIRCUIT_STATE = Gauge("stepclock_gateway_circuit_state", "Circuit breaker towards the log.")
CIRCUIT_OPENED = Counter("stepclock_gateway_circuit_opened_total", "Times the breaker opened.")

# Canaries by outcome: acknowledged, failed. They stop being acknowledged when the log is away.
CANARIES = Counter("stepclock_gateway_canaries_total", "Canary points sent.", ["outcome"])

# Token buckets held in memory; idle ones are evicted, full ones are cheap to forget.
BUCKETS = Gauge("stepclock_gateway_rate_limit_buckets", "Token buckets in memory.")

# 1 while Redis is configured and does not answer in time: limits are local then, a share each.
SHARED_LIMITS_AWAY = Gauge("stepclock_gateway_shared_limits_away", "Whether limits are local.")
SHARED_LIMIT_FAILURES = Counter(
    "stepclock_gateway_shared_limit_failures_total", "Calls to Redis that failed or took too long."
)

# Series that a gateway had not seen for an hour, by tenant: taken, over (beyond the limit, and
# only observed), refused (429). Growing without end: a tag holds what changes with each point.
NEW_SERIES = Counter(
    "stepclock_gateway_new_series_total", "New series by outcome.", ["tenant", "outcome"]
)

# Hashes held by the limit on new series; at STEPCLOCK_MAX_KNOWN_SERIES known ones look new.
KNOWN_SERIES = Gauge("stepclock_gateway_known_series", "Series that are remembered.")

# -- consumer -----------------------------------------------------------------------------

# Points by tenant and what became of them: stored, dead (dead-lettered).
CONSUMED_POINTS = Counter(
    "stepclock_consumer_points_total", "Points by outcome.", ["tenant", "outcome"]
)

# Delivery lines, by which a ledger can be kept: stored, refused (by the store, for what they
# are), misconfigured (the bucket of class events is not there). The points are settled anyway.
DELIVERIES = Counter("stepclock_consumer_deliveries_total", "Delivery lines.", ["outcome"])

# Writes to the store by view (wall, steps, canary) and outcome: stored, unavailable, refused,
# too_large, misconfigured. Anything but stored that keeps growing needs a look at the runbook.
WRITES = Counter("stepclock_consumer_writes_total", "Writes to the store.", ["view", "outcome"])
# Writes on which the store failed although it took a line known to be good just after. Each may
# have brought it down: a line that it can't bear is in the log, and being searched for.
SUSPECTED_WRITES = Counter(
    "stepclock_consumer_suspected_writes_total", "Writes that failed on a store that is well."
)
WRITE_SECONDS = Histogram(
    "stepclock_consumer_write_seconds", "Time of one write.", ["view"], buckets=_LATENCY_S
)
BATCH_POINTS = Histogram(
    "stepclock_consumer_batch_points",
    "Points in one batch.",
    buckets=(1, 10, 100, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000),
)
# Points that a batch may hold by what the store's answers say; of several workers in a process
# the one that wrote last. Far below STEPCLOCK_BATCH_POINTS: the store is slow, or fails.
BATCH_SIZE = Gauge("stepclock_consumer_batch_size_points", "Points that a batch may hold.")

# Time from the gateway's receipt of the oldest request in a block to both views stored.
END_TO_END_SECONDS = Histogram(
    "stepclock_consumer_end_to_end_seconds",
    "Time from receipt at the gateway to stored.",
    buckets=_LATENCY_S,
)

# The same for canaries, which count as nobody's points, and when the newest one that is stored
# was sent (Unix time; 0: none yet). It falls behind when the chain stands still or is late.
CANARY_SECONDS = Histogram(
    "stepclock_consumer_canary_seconds",
    "Time from sending a canary to stored.",
    buckets=_LATENCY_S,
)
CANARY_SENT = Gauge(
    "stepclock_consumer_canary_sent_timestamp_seconds", "When the newest stored canary was sent."
)

# Records between what is committed and the end of the partition. Growing: the store or the
# number of consumers is the limit.
LAG = Gauge("stepclock_consumer_lag", "Records not yet settled.", ["topic", "partition"])

# Age of the oldest record that waits; 0 where none does. At the topic's retention (7 days) it is
# deleted unread: the difference is the time that is left.
OLDEST_UNSETTLED = Gauge(
    "stepclock_consumer_oldest_unsettled_seconds",
    "Age of the oldest record not yet settled.",
    ["topic", "partition"],
)

# Dead letters by reason and tenant. Growing: someone sends what the store refuses.
DEAD_LETTERS = Counter(
    "stepclock_consumer_dead_letters_total", "Lines dead-lettered.", ["reason", "tenant"]
)

# Partitions that rest because the store is away.
PAUSED = Gauge("stepclock_consumer_paused_partitions", "Partitions paused.")

# Bytes polled and not yet settled.
BATCHED_BYTES = Gauge("stepclock_consumer_batched_bytes", "Bytes polled and not settled.")

# Records lost because retention overtook the consumer. Must stay 0.
LOST_OFFSETS = Counter("stepclock_consumer_lost_offsets_total", "Records deleted unread.")

# Assignments and losses of partitions. Many a minute: consumers come and go.
REBALANCES = Counter("stepclock_consumer_rebalances_total", "Rebalances seen.", ["event"])

# -- janitor ------------------------------------------------------------------------------

# Attempts of which points left class steps, since a higher attempt of the run had begun. It
# grows when runs resume, and again when an old attempt's rows come late. Growing steadily: an
# old job still runs beside the resumed one.
JANITOR_DELETIONS = Counter("stepclock_janitor_deletions_total", "Attempts cut in class steps.")

# Runs that were found silent or lost. A jump of many at once: points do not arrive, rather than
# that all jobs died.
JANITOR_VERDICTS = Counter("stepclock_janitor_verdicts_total", "Runs found so.", ["state"])

# Runs of the last seven days by their state at the last round.
JANITOR_RUNS = Gauge("stepclock_janitor_runs", "Runs by state.", ["state"])

# Time of one round, and when the last one was done (Unix time; 0: none yet). Standing still:
# the janitor is gone, or the store is away; resumed runs show two curves by step meanwhile.
JANITOR_ROUND_SECONDS = Histogram(
    "stepclock_janitor_round_seconds", "Time of one round.", buckets=_LATENCY_S
)
JANITOR_ROUND_AT = Gauge(
    "stepclock_janitor_last_round_timestamp_seconds", "When the last round was done."
)
