"""Who is calling: keys from keys.toml, reloaded when the file changes."""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote_plus

from ingest.errors import Unauthorized
from schemas.keys import InvalidKeys, KeyRecord, digest, id_of, parse

_log = logging.getLogger("stepclock.auth")

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
        self._stamp = self._file_stamp()
        try:
            self._keys: Mapping[str, KeyRecord] = parse(path.read_text("utf-8"))
        except InvalidKeys as exc:
            raise InvalidKeys(f"{path}: {exc}") from exc

    def authenticate(self, key: str | None) -> KeyRecord:
        """The record of a valid key. Raises Unauthorized, which never repeats the key."""
        if not key:
            raise Unauthorized(f"no key was sent; {_HINT}")
        self._reload_if_changed()
        record = self._keys.get(id_of(key) or "")
        # The digest is compared for unknown ids too, so that time tells nothing of ids.
        expected = record.sha256 if record else "0" * 64
        if not hmac.compare_digest(digest(key), expected) or record is None:
            raise Unauthorized(f"the key is not known; {_HINT}")
        if record.revoked:
            raise Unauthorized(f"key {record.id} was revoked; ask for a new one")
        if record.expires is not None and record.expires <= self._utc_now():
            raise Unauthorized(f"key {record.id} expired at {record.expires.isoformat()}")
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
        else:
            self._keys = keys
            _log.info("%s reloaded: %d keys", self._path, len(keys))

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
                raise Unauthorized(f"the Basic credentials can't be decoded; {_HINT}") from exc
            return decoded.partition(":")[2]
        case _:
            raise Unauthorized(f"Authorization must be Bearer, Token or Basic; {_HINT}")
