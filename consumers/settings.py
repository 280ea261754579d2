"""Settings of the consumer workers: how they batch, wait and give up."""

from __future__ import annotations

from pydantic import Field, field_validator

from adapters.settings import CommonSettings, InfluxSettings, KafkaSettings, ProbeSettings


class WorkerSettings(CommonSettings):
    """What the loop needs, whatever the log and the store are."""

    batch_points: int = Field(
        default=5000,
        ge=1,
        description="Points per write at first; default 5000, where InfluxDB is near its best. "
        "Under a backlog it adapts to the store's answers, between a fifth of this and "
        "BATCH_POINTS_MAX. Raise it to 10000 for thousands of series.",
    )
    batch_points_max: int = Field(
        default=50_000,
        ge=1,
        description="Most points per write under a backlog, if the store answers late; default "
        "50000. BATCH_POINTS counts where it is more. Lower it to BATCH_POINTS to never go beyond.",
    )
    write_target_s: float = Field(
        default=0.5,
        gt=0,
        description="Seconds that the points of a write may take the store, its delay apart; "
        "default 0.5. Batches grow no more above it, and are halved above twice as much. Lower it "
        "where tenants share workers and a backlog of one must delay others less.",
    )
    batch_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=1,
        description="Bytes of lines per write; default 4 MiB. "
        "Lower it if the store or a proxy before it answers 413.",
    )
    batch_age_s: float = Field(
        default=0.25,
        ge=0,
        description="Seconds that a batch waits to fill; default 0.25. "
        "Raise it for fewer, larger writes; lower it to see points sooner.",
    )
    max_buffered_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=1,
        description="Bytes polled and not settled at which the worker stops fetching; default "
        "64 MiB. One fetch may go beyond it. Raise it only with the memory limit of the process.",
    )
    retry_base_s: float = Field(
        default=0.5,
        gt=0,
        description="Seconds of rest after the first write that the store did not answer; "
        "doubles with each further one; default 0.5. Seldom worth changing.",
    )
    retry_cap_s: float = Field(
        default=30.0,
        gt=0,
        description="Longest rest in seconds between tries unless the store asks for more; "
        "default 30. Lower it to notice a returning store sooner.",
    )
    park_after_s: float = Field(
        default=60.0,
        ge=0,
        description="Seconds of 401, 403 or 404 after which a namespace's blocks go to the dead "
        "letters so that others go on; default 60. Raise it if tokens are rotated slowly.",
    )
    poison_apart_s: float = Field(
        default=60.0,
        ge=0,
        description="Seconds between two of the three tries of a line on which the store seems to "
        "die; default 60. Raise it for a store that takes minutes to start.",
    )
    drain_s: float = Field(
        default=10.0,
        ge=0,
        description="Seconds to write and commit what is polled on SIGTERM or when partitions "
        "move; default 10; one running write may exceed it. Keep it below the grace period of "
        "the orchestrator less the store's timeout.",
    )
    accept_loss: bool = Field(
        default=False,
        description="Go on from the log's start when records were deleted unread; default false: "
        "stop and say so. Set it for one start, once the loss is understood.",
    )
    volatile_tags: frozenset[str] = Field(
        default=frozenset({"node", "host", "pod", "slurm_job_id"}),
        description='Tags left out by training step, as JSON; default ["node", "host", "pod", '
        '"slurm_job_id"]. Add tags that change when a job resumes elsewhere.',
    )

    @field_validator("volatile_tags")
    @classmethod
    def _keep_what_names_a_run(cls, tags: frozenset[str]) -> frozenset[str]:
        named = tags & {"run", "rank", "attempt", "experiment", "metric", "kind"}
        if named:
            raise ValueError(f"would merge different series: {', '.join(sorted(named))}")
        return tags


class ConsumerSettings(KafkaSettings, InfluxSettings, WorkerSettings, ProbeSettings):
    """One worker process between Kafka and InfluxDB."""

    threads: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Workers in one process, each with its own connections; default 2, so that "
        "one reads while the other writes. Raise it where they wait for the store: they share one "
        "core, and the bytes that may be buffered.",
    )
    consumer_instance_id: str | None = Field(
        default=None,
        description="Static member name, unique in the group, such as the pod's name; default "
        "unset. With it a restarted worker takes its partitions back at once. Each of several "
        "threads appends its number.",
    )
    influx_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds until a write counts as unanswered; default 10, as long as InfluxDB "
        "itself tries. Raise it for a slow disk.",
    )
    dead_letter_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="Seconds until dead letters must be acknowledged, else the worker stops; "
        "default 30.",
    )

    def share_of_a_thread(self) -> ConsumerSettings:
        """Settings of one worker: what the process may buffer is divided among its threads."""
        return self.model_copy(
            update={"max_buffered_bytes": max(1, self.max_buffered_bytes // self.threads)}
        )

    def instance_id_of(self, number: int) -> str | None:
        """The static member name of a thread; the process's own if it has only one."""
        if self.consumer_instance_id is None or self.threads == 1:
            return self.consumer_instance_id
        return f"{self.consumer_instance_id}-{number}"
