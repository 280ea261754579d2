"""What connections may be and send before anybody knows who it is."""

from __future__ import annotations

import dataclasses
import logging
import resource
from dataclasses import dataclass

from ingest.settings import HttpSettings

_log = logging.getLogger("stepclock.gateway")

#: Connections over the bound that are told so; those beyond are dropped without a word.
REFUSED_POLITELY = 256

#: Files that a process has open beside its connections: databases, brokers, modules.
_OTHER_FILES = 256


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """What connections may be and send; `ingest.settings.HttpSettings` explains each.

    body_timeout_s: without a byte of a body; from an answer on, for what is left of the body;
    and for reading an answer. keep_alive_s: between two requests.
    """

    max_connections: int = 10_000
    max_request_line_bytes: int = 8 * 1024
    max_headers: int = 100
    max_header_bytes: int = 64 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    keep_alive_s: float = 75.0

    @classmethod
    def of(cls, settings: HttpSettings) -> ConnectionBounds:
        """The bounds that the settings name."""
        return cls(
            settings.max_connections,
            settings.max_request_line_bytes,
            settings.max_headers,
            settings.max_header_bytes,
            settings.header_timeout_s,
            settings.body_timeout_s,
        )

    def within_file_limit(self) -> ConnectionBounds:
        """These bounds with as many connections as this process may open files for.

        Its limit is raised as far as needed and allowed: without a file for it, a connection
        could not even be told that there are too many.
        """
        needed = self.max_connections + REFUSED_POLITELY + _OTHER_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < needed:
            soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft == resource.RLIM_INFINITY or soft >= needed:
            return self
        fewer = max(1, self.max_connections - (needed - soft))
        _log.warning(
            "%d connections at most, not %d: a process here may open %d files",
            fewer,
            self.max_connections,
            soft,
        )
        return dataclasses.replace(self, max_connections=fewer)
