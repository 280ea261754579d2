"""Who is calling: keys from keys.toml, reloaded when the file changes."""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote_plus

from ingest.errors import Unauthorized
from schemas.tenants.keys import InvalidKeys, KeyRecord, digest, id_of
from schemas.tenants.keys_file import parse
from telemetry import audit

_log = logging.getLogger("stepclock.auth")

#: A key in use is worth a line an hour, not one for each request.
_USE_IS_SAID_EVERY_S = 3600.0

_HINT = "send a key made by 'stepclock-server keys create' as 'Authorization: Bearer <key>'"

#: Larger files are read beside the event loop; this one holds some 300 keys.
_INLINE_BYTES = 64 * 1024


class KeyStore:
    """The keys of one file. A file that can't be read keeps the old keys, and says why.

    A large one takes seconds, in which the old keys stay valid.

    Raises InvalidKeys or OSError if the file can't be read at the start.
    """

    def __init__(
        self,
        path: Path,
        *,
        check_every_s: float = 1.0,
        now: Callable[[], float] = time.monotonic,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path = path
        self._check_every_s = check_every_s
        self._now = now
        self._utc_now = utc_now
        self._checked_at = now()
        self._reading: threading.Thread | None = None
        #: What the file was when it was last read; None: it is to be read again.
        self._stamp: tuple[int, int, int] | None = self._file_stamp()
        #: When a use of each key was last said.
        self._used_at: dict[str, float] = {}
        try:
            self._keys: Mapping[str, KeyRecord] = parse(path.read_text("utf-8"))
        except InvalidKeys as exc:
            raise InvalidKeys(f"{path}: {exc}") from exc
        except UnicodeDecodeError as exc:
            raise InvalidKeys(f"{path}: not UTF-8: {exc}") from exc

    def authenticate(self, key: str | None) -> KeyRecord:
        """The record of a valid key. Raises Unauthorized, which never repeats the key."""
        if not key:
            raise Unauthorized(f"no key was sent; {_HINT}", reason="no_key")
        self._reload_if_changed()
        record = self._keys.get(id_of(key) or "")
        # The digest is compared for unknown ids too, so that time tells nothing of ids.
        expected = record.sha256 if record else "0" * 64
        if not hmac.compare_digest(digest(key), expected) or record is None:
            raise Unauthorized(
                f"the key is not known; {_HINT}",
                reason="unknown_key" if record is None else "wrong_secret",
                actor="unknown" if record is None else f"key:{record.id}",
            )
        actor = f"key:{record.id}"
        if record.revoked:
            raise Unauthorized(
                f"key {record.id} was revoked; ask for a new one", reason="revoked", actor=actor
            )
        if record.expires is not None and record.expires <= self._utc_now():
            raise Unauthorized(
                f"key {record.id} expired at {record.expires.isoformat()}",
                reason="expired",
                actor=actor,
            )
        now = self._now()
        if now - self._used_at.get(record.id, -math.inf) >= _USE_IS_SAID_EVERY_S:
            self._used_at[record.id] = now
            audit.record("key.use", actor=actor, outcome="granted", tenant=record.tenant.name)
        return record

    def reload_on_hangup(self) -> None:
        """Read the file on SIGHUP. Call it in the event loop that authenticates."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)

    def reload(self) -> None:
        """Read the file now; one that can't be read keeps the old keys, and the log says why."""
        self._read(even_if_unchanged=True)

    def _reload_if_changed(self) -> None:
        if self._now() - self._checked_at >= self._check_every_s:
            self._read(even_if_unchanged=False)

    def _read(self, *, even_if_unchanged: bool) -> None:
        self._checked_at = self._now()
        if self._reading is not None and self._reading.is_alive():
            return  # what it misses, the next look finds
        try:
            stamp = self._file_stamp()
        except OSError as exc:
            _log.error("%s can't be read, the old keys stay valid: %s", self._path, exc)
            return
        if stamp == self._stamp and not even_if_unchanged:
            return
        self._stamp = stamp
        if stamp[1] <= _INLINE_BYTES:
            self._read_whole()
        else:
            self._reading = threading.Thread(target=self._read_whole, name="keys", daemon=True)
            self._reading.start()

    def _read_whole(self) -> None:
        try:
            keys = parse(self._path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, InvalidKeys) as exc:
            _log.error("%s can't be read, the old keys stay valid: %s", self._path, exc)
            audit.record("keys.reload", actor="gateway", outcome="failed", file=self._path)
            if isinstance(exc, OSError):
                self._stamp = None  # rights that are set right leave no trace in it
        else:
            self._keys = keys
            used = dict(self._used_at)  # copied at once: others use keys meanwhile
            self._used_at = {key_id: at for key_id, at in used.items() if key_id in keys}
            _log.info("%s reloaded: %d keys", self._path, len(keys))
            audit.record("keys.reload", actor="gateway", outcome="done", keys=len(keys))

    def _file_stamp(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def key_in_headers(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key of an Authorization header: Bearer, Token, or the password of Basic.

    InfluxDB 1 clients send ``Token user:password`` as well. None if there is no such header.
    Raises Unauthorized for a header that has another form.
    """
    for name, value in headers:
        if name == b"authorization":
            return _key_in(value.decode("latin-1"))
    return None


def key_in_query(query: bytes) -> str | None:
    """The key in an InfluxDB 1 query string, as its password ``p``; None if there is none."""
    for pair in query.split(b"&"):
        if pair.startswith(b"p="):
            return unquote_plus(pair[2:].decode("latin-1"))
    return None


def _key_in(value: str) -> str:
    scheme, _, credentials = value.partition(" ")
    credentials = credentials.strip()
    match scheme.lower():
        case "bearer":
            return credentials
        case "token":
            return credentials.rpartition(":")[2]
        case "basic":
            try:
                decoded = base64.b64decode(credentials, validate=True).decode()
            except ValueError as exc:  # no base64, no ASCII, or no UTF-8
                raise Unauthorized(
                    f"the Basic credentials can't be decoded; {_HINT}", reason="malformed"
                ) from exc
            return decoded.partition(":")[2]
        case _:
            raise Unauthorized(
                f"Authorization must be Bearer, Token or Basic; {_HINT}", reason="malformed"
            )
