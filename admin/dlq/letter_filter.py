"""Which dead letters are meant: by reason, tenant, namespace and time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from admin.dlq.letters import FoundLetter
from schemas.log.dead_letter import Reason

_AGO = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str) -> datetime:
    """A time such as ``2026-11-01T12:00`` (UTC unless it says otherwise), or ``2h`` ago.

    Raises typer.BadParameter.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        parsed = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-11-01, 2026-11-01T12:00Z, or 30m, 2h, 7d ago"
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


ByReason = Annotated[Reason | None, typer.Option("--reason", help="Only letters of this reason.")]
ByTenant = Annotated[str | None, typer.Option("--tenant", help="Only letters of this tenant.")]
ByNamespace = Annotated[str | None, typer.Option("--namespace", help="Only of this namespace.")]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since", parser=moment, metavar="TIME", help="Written then or later: ISO (UTC), or 2h."
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(
        "--until", parser=moment, metavar="TIME", help="Written before then: ISO (UTC), or 2h."
    ),
]


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """What is None does not matter. since is inclusive, until is not.

    poison: whether lines that bring the store down are meant although the reason is not given.
    """

    reason: Reason | None = None
    tenant: str | None = None
    namespace: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    poison: bool = True

    def __call__(self, one: FoundLetter) -> bool:
        """Whether this letter is meant."""
        letter = one.letter
        return (
            (self.reason is None or letter.reason is self.reason)
            and (self.poison or self.reason is not None or letter.reason is not Reason.POISON)
            and (self.tenant is None or letter.tenant == self.tenant)
            and (self.namespace is None or letter.namespace == self.namespace)
            and (self.since is None or one.written >= self.since)
            and (self.until is None or one.written < self.until)
        )
