"""The parts of the benchmark. One entry here makes a command, a row in the README, a section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from bench.budgets import validation
from bench.chain import chain
from bench.consumer import batch_size, consumer, rebalance, scaling
from bench.embedded import embedded
from bench.gateway import gateway, rate_limit
from bench.gateway import kill as gateway_kill
from bench.growth import growth
from bench.isolation import isolation, stall
from bench.lab.services import Tell
from bench.postgres import postgres
from bench.ranks import ranks
from bench.report import Section, between_markers

PlanT = TypeVar("PlanT")
_PlanT_contra = TypeVar("_PlanT_contra", contravariant=True)


class Measure(Protocol[_PlanT_contra]):
    """Starts what it needs with its data in `folder`, measures, ends it, and says what it found."""

    def __call__(self, folder: Path, plan: _PlanT_contra, *, tell: Tell) -> Section:
        """Raises one of `__main__.FAILURES` where there are no figures."""


@dataclass(frozen=True)
class Part(Generic[PlanT]):
    """``python -m bench NAME``, whose options are the fields of its plan, a dataclass.

    A field is a number, a bool or a sequence of numbers (1,2,3 on the command line), and may say
    what it is: ``Annotated[int, "Points of each drain."]``. shows: its help. claims: what makes
    the exit code 1. reported: ``make bench`` runs it, and its figures stand in the README.
    """

    name: str
    shows: str
    claims: str
    plan: PlanT
    measure: Measure[PlanT]
    reported: bool = True


README = Path(__file__).with_name("README.md")

#: ``python -m bench.parts`` renews the table in the README after a change here.
PARTS: tuple[Part[Any], ...] = (
    Part(
        "rate-limit",
        "Whether a limit of points/s is kept within 5 %, over 1 and over 64 connections.",
        "A limit of 10,000 points/s is kept within 5 % over 30 s once the burst of 20,000 is "
        "spent, over one connection and over 64. `Retry-After` is in whole seconds. Another tenant "
        "is never refused.",
        rate_limit.Plan(),
        rate_limit.measure,
    ),
    Part(
        "validation",
        "Lines/s and MB/s of admission alone, by kind of body.",
        "Each kind of body is judged as it should be.",
        validation.Plan(),
        validation.measure,
    ),
    Part(
        "gateway",
        "Points/s and CPU of gateways in front of Kafka; nothing may be lost.",
        "Every answer is a 204, and Kafka holds exactly the points that were acknowledged. One "
        "process with bodies of 1 to 1,000 lines; and with the smallest and the largest, two "
        "processes, the new-series limit enforcing, and a gateway that publishes nothing.",
        gateway.Plan(),
        gateway.measure,
    ),
    Part(
        "consumer",
        "Points/s and CPU of one worker from Kafka to InfluxDB, against writing directly.",
        "The store holds every point, in each view; none became a dead letter.",
        consumer.Plan(),
        consumer.measure,
    ),
    Part(
        "embedded",
        "The embedded server, SQLite written row by row, and the bytes that each needs.",
        "The embedded store holds every point in both clocks, and their values sum up to what was "
        "sent; so do the other writers' files.",
        embedded.Plan(),
        embedded.measure,
    ),
    Part(
        "growth",
        "Whether costs are flat or grow with tenants, series, partitions, bodies, log length.",
        "No cost grows faster than expected, by a rule upon the slope of its logarithm; InfluxDB "
        "holds every point that was drained into it.",
        growth.Plan(),
        growth.measure,
    ),
    Part(
        "chain",
        "The whole chain with everything on this machine: its ceiling, and latency below it.",
        "The store holds every acknowledged point, in each view. A peer's chain "
        "(`TELEGRAF=/path/to/telegraf`) takes turns with ours; what it loses is reported.",
        chain.Plan(),
        chain.measure,
    ),
    Part(
        "isolation",
        "Latency of a modest tenant alone, and beside one that sends nothing but trouble.",
        "Beside a tenant that sends nothing but trouble at full rate, p99 until stored of a modest "
        "tenant stays under twice its value without.",
        isolation.Plan(),
        isolation.measure,
        reported=False,
    ),
    Part(
        "stall",
        "How long hostile bodies hold the gateway's event loop, and with it all other tenants.",
        "None: it measures how long the event loop stands still.",
        stall.Plan(),
        stall.measure,
        reported=False,
    ),
    Part(
        "gateway-kill",
        "A gateway killed with -9 at full speed: no acknowledged point may be missing.",
        "After a kill -9 of the gateway at full speed no acknowledged point is missing from either "
        "view, and none is there that was not sent.",
        gateway_kill.Plan(),
        gateway_kill.measure,
        reported=False,
    ),
    Part(
        "scaling",
        "Points/s of 1, 2 and 4 consumers in front of a database that answers 200 ms late.",
        "With a store that answers 200 ms late, 2 and 4 consumers reach at least 0.9 times 2 and 4 "
        "times the throughput of one, and the lag falls.",
        scaling.Plan(),
        scaling.measure,
        reported=False,
    ),
    Part(
        "batch-size",
        "Points/s of one worker with fixed and with adapted batches, on a quick and a late store.",
        "None: it compares two settings.",
        batch_size.Plan(),
        batch_size.measure,
        reported=False,
    ),
    Part(
        "rebalance",
        "How long commits stand still while a consumer joins, leaves, or is killed.",
        "None: it measures how long commits stand still.",
        rebalance.Plan(),
        rebalance.measure,
        reported=False,
    ),
    Part(
        "postgres",
        "Metrics into PostgreSQL, row by row and in batches, and the same through us.",
        "Every store holds as many values as were sent to it. Needs PostgreSQL and psycopg: "
        "`make bench-postgres`.",
        postgres.Plan(),
        postgres.measure,
        reported=False,
    ),
    Part(
        "ranks",
        "A job of 64 ranks that log 100 metrics 10 times a second, through one gateway.",
        "Nothing of a job of 64 ranks, each with 100 metrics at 10 steps/s, is missing: by the "
        "receipt of each rank, and by every value that either view of the store holds.",
        ranks.Plan(),
        ranks.measure,
        reported=False,
    ),
)


def with_table(page: str, parts: Sequence[Part[Any]]) -> str:
    """A page with the table of the parts between its markers. Raises ValueError without them."""
    rows = [
        f"| `{part.name}` | {'yes' if part.reported else 'no'} | {part.claims} |" for part in parts
    ]
    head = "| part | in `make bench` | claims that it checks (exit code 1 if one fails) |"
    text = "\n".join([head, "|---|---|---|", *rows])
    return between_markers(page, text, "<!-- parts -->", "<!-- /parts -->")


if __name__ == "__main__":
    README.write_text(with_table(README.read_text("utf-8"), PARTS), "utf-8")
