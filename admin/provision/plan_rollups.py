"""What provisioning has to do about rollups: the tasks in InfluxDB that fill derived classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from adapters.influx.admin import InfluxAdmin, Task
from adapters.influx.flux import rollup_task
from admin.provision.plan import Action, Change
from schemas.retention import RetentionClass, format_duration
from schemas.rollup import Rollup

#: Names of our tasks begin so; the bucket that the task fills follows.
_OURS = "stepclock rollup "

_MAX_FAILURE_CHARS = 200


def plan_rollups(
    influx: InfluxAdmin, classes: Mapping[str, RetentionClass], namespaces: Iterable[str]
) -> Iterator[Change]:
    """A task for each class with a rollup of each namespace. Raises a StoreError.

    The task of a class that has none any more is made to rest. One of ours for a class or a
    namespace that this call does not know is left alone, and the detail says so.
    """
    existing: dict[str, list[Task]] = {}
    for task in influx.tasks():
        if task.name.startswith(_OURS):
            existing.setdefault(task.name.removeprefix(_OURS), []).append(task)
    for namespace in namespaces:
        for target in classes.values():
            bucket = target.bucket(namespace)
            tasks = existing.pop(bucket, [])
            found = tasks[0] if tasks else None
            if target.rollup is not None:
                source = classes[target.rollup.source].bucket(namespace)
                yield _wanted(influx, bucket, source, target.rollup, found)
            elif found is not None:
                yield _unwanted(influx, bucket, found)
            yield from (_left(bucket, other, "one more of this name") for other in tasks[1:])
    for bucket, tasks in existing.items():
        yield from (_left(bucket, task, "no class and namespace of this call") for task in tasks)


def _wanted(
    influx: InfluxAdmin, bucket: str, source: str, rollup: Rollup, found: Task | None
) -> Change:
    flux = rollup_task(_OURS + bucket, source, bucket, rollup)
    detail = (
        f"{format_duration(rollup.window_s)} of {source}, every {format_duration(rollup.every_s)}, "
        f"{format_duration(rollup.look_back_s)} back"
    )
    if found is None:
        return Change("task", bucket, Action.CREATE, detail, partial(influx.create_task, flux))
    if found.flux == flux and found.is_active:
        return Change("task", bucket, Action.KEEP, detail + _failure(found))
    was = "text differs" if found.is_active else "was inactive"
    apply = partial(influx.update_task, found.id, flux, is_active=True)
    return Change("task", bucket, Action.CHANGE, f"{detail}; {was}", apply)


def _unwanted(influx: InfluxAdmin, bucket: str, found: Task) -> Change:
    if not found.is_active:
        return Change("task", bucket, Action.KEEP, "inactive: the class has no rollup")
    apply = partial(influx.update_task, found.id, found.flux, is_active=False)
    return Change("task", bucket, Action.CHANGE, "becomes inactive: the class has no rollup", apply)


def _left(bucket: str, task: Task, why: str) -> Change:
    runs = "still runs" if task.is_active else "inactive"
    return Change("task", bucket, Action.KEEP, f"{why}: left as it is, {runs} (id {task.id})")


def _failure(task: Task) -> str:
    if task.failure is None:
        return ""
    return f"; its last run failed: {task.failure[:_MAX_FAILURE_CHARS]}"
