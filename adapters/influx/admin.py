"""Buckets of InfluxDB, the mapping that makes them a database to InfluxQL, and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from adapters.influx.connection import InfluxConnection
from adapters.influx.errors import translated
from schemas.store.protocols import LinesRefused, StoreMisconfigured

_DAY_S = 86_400

#: Buckets, or tasks, asked for at a time; the server gives at most 100 buckets.
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as it stands. keep_s None means for ever; shard_s is the shard duration."""

    name: str
    keep_s: int | None
    shard_s: int


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it stands. failure: why its last run failed; None if it did not."""

    id: str
    name: str
    flux: str
    is_active: bool
    failure: str | None = None


def default_shard_s(keep_s: int | None) -> int:
    """The shard duration that InfluxDB chooses for a retention when none is asked for.

    Source: https://docs.influxdata.com/influxdb/v2/reference/internals/shards/
    """
    if keep_s is None or keep_s > 180 * _DAY_S:
        return 7 * _DAY_S
    return _DAY_S if keep_s >= 2 * _DAY_S else 3600


class InfluxAdmin:
    """Reads and changes buckets, mappings and tasks of one organisation. For one thread.

    Every method raises StoreUnavailable, or StoreMisconfigured where the token, the
    organisation or what is asked for can't be. The token needs all access.
    """

    def __init__(self, at: InfluxConnection, *, timeout_s: float = 10.0) -> None:
        self._client = at.client(timeout_s)
        self._org = at.org

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def buckets(self) -> dict[str, Bucket]:
        """Every bucket by name."""
        return {name: _bucket(found) for name, found in self._buckets().items()}

    def create_bucket(self, name: str, keep_s: int | None, shard_s: int | None) -> None:
        """Make a bucket. shard_s None: the server chooses."""
        rules = _rules(keep_s, shard_s)
        body = {"orgID": self._org_id(), "name": name, "retentionRules": rules}
        self._call("POST", "/buckets", body=body)

    def update_bucket(self, name: str, keep_s: int | None, shard_s: int) -> None:
        """Give a bucket another retention and shard duration; shards that exist stay."""
        body = {"retentionRules": _rules(keep_s, shard_s)}
        self._call("PATCH", f"/buckets/{self._bucket_id(name)}", body=body)

    def default_mapping(self, database: str) -> str | None:
        """The retention policy that InfluxQL takes for a database when none is named."""
        for mapping in self._mappings(database):
            if mapping["default"]:
                return str(mapping["retention_policy"])
        return None

    def map_default(self, database: str, retention_policy: str, bucket: str) -> None:
        """Make a bucket the database's default: what a query means that names no policy."""
        mapping = {"retention_policy": retention_policy, "default": True}
        for found in self._mappings(database):
            # What the server makes of a bucket's name by itself is virtual and can't be changed.
            if found["retention_policy"] == retention_policy and not found["virtual"]:
                self._call("PATCH", f"/dbrps/{found['id']}", query={"org": self._org}, body=mapping)
                return
        mapping |= {"org": self._org, "database": database, "bucketID": self._bucket_id(bucket)}
        self._call("POST", "/dbrps", body=mapping)

    def tasks(self) -> list[Task]:
        """Every task. Names are no keys to the server: two may have the same."""
        tasks: list[Task] = []
        query: dict[str, object] = {"org": self._org, "limit": _PAGE}
        while page := self._call("GET", "/tasks", query=query)["tasks"]:
            tasks += map(_task, page)
            query["after"] = page[-1]["id"]
        return tasks

    def create_task(self, flux: str) -> str:
        """Make a task, which runs from now on with the rights of our token. Returns its id."""
        body = {"orgID": self._org_id(), "flux": flux}
        return str(self._call("POST", "/tasks", body=body)["id"])

    def update_task(self, task_id: str, flux: str, *, is_active: bool) -> None:
        """Give a task another text, and let it run or rest."""
        body = {"flux": flux, "status": "active" if is_active else "inactive"}
        self._call("PATCH", f"/tasks/{task_id}", body=body)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._client.close()

    def _org_id(self) -> str:
        (org,) = self._call("GET", "/orgs", query={"org": self._org})["orgs"]
        return str(org["id"])

    def _buckets(self) -> dict[str, dict[str, Any]]:
        buckets: dict[str, dict[str, Any]] = {}
        query = {"org": self._org, "limit": _PAGE}
        while page := self._call("GET", "/buckets", query=query)["buckets"]:
            buckets |= {bucket["name"]: bucket for bucket in page}
            query["after"] = page[-1]["id"]
        return buckets

    def _bucket_id(self, name: str) -> str:
        try:
            return str(self._buckets()[name]["id"])
        except KeyError:
            raise StoreMisconfigured(f"InfluxDB has no bucket {name!r}") from None

    def _mappings(self, database: str) -> list[dict[str, Any]]:
        found = self._call("GET", "/dbrps", query={"org": self._org, "db": database})
        return found["content"] or []

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Any:
        """The JSON that one request of the API is answered with."""
        try:
            with translated():
                return self._client.api_client.call_api(
                    f"/api/v2{path}",
                    method,
                    query_params=list((query or {}).items()),
                    body=body,
                    response_type="object",
                    _return_http_data_only=True,
                )
        except LinesRefused as exc:
            raise StoreMisconfigured(str(exc)) from exc


def _bucket(found: Mapping[str, Any]) -> Bucket:
    """Without a rule, or with 0 seconds, a bucket keeps for ever."""
    rule: Mapping[str, Any] = next(iter(found["retentionRules"]), {})
    keep_s = rule.get("everySeconds") or None
    return Bucket(
        found["name"], keep_s, rule.get("shardGroupDurationSeconds") or default_shard_s(keep_s)
    )


def _task(found: Mapping[str, Any]) -> Task:
    failed = found.get("lastRunStatus") == "failed"
    return Task(
        found["id"],
        found["name"],
        found["flux"],
        found["status"] == "active",
        str(found.get("lastRunError") or "no reason given") if failed else None,
    )


def _rules(keep_s: int | None, shard_s: int | None) -> list[dict[str, object]]:
    rule: dict[str, object] = {"type": "expire", "everySeconds": keep_s or 0}
    if shard_s is not None:
        rule["shardGroupDurationSeconds"] = shard_s
    return [rule]
