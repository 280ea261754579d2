"""The canary: points of Stepclock's own that show that the chain, or the store, is alive.

Each gateway sends one every few seconds by the way of clients' points, into a class of the
default namespace, which is always provisioned.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.line_protocol.codec import Line, encode, encode_string
from schemas.retention import EVENTS_CLASS, Kind, RetentionClass
from schemas.tenants.keys import DEFAULT_NAMESPACE

#: The tenant of canary blocks. No key can name it, so no client's point is taken for one.
TENANT = "_canary"

#: Where gateways send them.
NAMESPACE = DEFAULT_NAMESPACE

#: Reserved: no client's experiment is called so.
MEASUREMENT = b"_canary"


def class_of_canaries(classes: Mapping[str, RetentionClass]) -> str:
    """The class that carries them: system, or events where a retention.toml has no system."""
    system = classes.get("system")
    return "system" if system is not None and system.kind is Kind.INGEST else EVENTS_CLASS


def gateway_line(gateway: str, partition: int, time_ns: int) -> bytes:
    """A canary on its way through one partition of the log.

    The partition makes the series, so their number stays small; the name of the gateway, which
    may be another one after each deployment, is a field.
    """
    tags = ((b"from", b"gateway"), (b"partition", b"%d" % partition))
    return encode(Line(MEASUREMENT, tags, ((b"gateway", encode_string(gateway)),), time_ns))


def worker_line(time_ns: int) -> bytes:
    """What a worker writes beside a batch on which the store fails, to tell whose fault it is.

    A store that takes anything takes it.
    """
    return encode(Line(MEASUREMENT, ((b"from", b"worker"),), ((b"alive", b"1"),), time_ns))
