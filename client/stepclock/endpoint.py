"""The gateway's base URL: what it may be, and whether that is this machine."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1")

# Names as they are in use: underscores stand in those of containers.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)


def check_endpoint(text: str) -> str:
    """The URL without slashes and spaces around it.

    Raises ValueError that says what would be right; a password that stands in it is not shown.
    """
    url = text.strip().rstrip("/")
    if "@" in url:
        raise _wrong("without user and password; the key goes into STEPCLOCK_TOKEN")
    if any(each <= " " or each == "\x7f" for each in url):
        raise _wrong(f"without spaces, not {url!r}")
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise _wrong(f"not {url!r}: {exc}") from None
    if parts.scheme not in {"http", "https"}:
        hint = "" if "//" in url else f"; did you mean http://{url}?"
        raise _wrong(f"not {url!r}{hint}")
    if parts.query or parts.fragment or url[-1] in "?#":
        raise _wrong(f"without ? and #, not {url!r}")
    if not _is_host(parts.hostname or ""):
        raise _wrong(f"with a host's name or address (IPv6 in brackets), not {url!r}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise _wrong(f"with a port from 1 to 65535, not {url!r}")
    return url


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine itself."""
    return _LOOPBACK.fullmatch(host) is not None


def _wrong(why: str) -> ValueError:
    return ValueError(f"endpoint must be like https://host:port, {why}")


def _is_host(host: str) -> bool:
    """Whether it is the name or the address of a host, as far as its form tells."""
    try:
        if ":" in host:
            import ipaddress

            ipaddress.IPv6Address(host)
            return True
        if not host.isascii():
            host = host.encode("idna").decode()
    except ValueError:  # UnicodeError is one
        return False
    labels = host.rstrip(".").split(".")
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels))
