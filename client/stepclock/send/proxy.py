"""The proxy between this machine and the gateway, as curl and requests find it.

HTTPS_PROXY or HTTP_PROXY by the endpoint's scheme, else ALL_PROXY; none for what NO_PROXY names
(hosts, domains, networks such as 10.0.0.0/8, `*`), and never one for this machine itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from stepclock.endpoint import is_loopback


@dataclass(frozen=True)
class HttpProxy:
    """Where it is, and the variable that says so. fault: why it can't be used; empty if it can.

    authorization: what it gets as Proxy-Authorization, if its URL holds user and password.
    """

    host: str
    port: int
    variable: str
    authorization: str | None = field(default=None, repr=False)
    fault: str = ""

    def __str__(self) -> str:
        return f"{self.variable} {self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """What it wants to see of each request that it is to pass on."""
        return {"Proxy-Authorization": self.authorization} if self.authorization else {}


def proxy_for(endpoint: str) -> HttpProxy | None:
    """The proxy for an endpoint, by the environment; None for none."""
    if not any(name[-6:].lower() == "_proxy" for name in os.environ):
        return None
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if is_loopback(host):
        return None
    from urllib.request import getproxies_environment, proxy_bypass  # dear

    proxies = getproxies_environment()
    scheme = parts.scheme if proxies.get(parts.scheme) else "all"
    url = proxies.get(scheme)
    if not url:
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if proxy_bypass(f"{host}:{port}") or _named(host, proxies.get("no", "")):
        return None
    return _proxy(url, f"{scheme.upper()}_PROXY")


def _proxy(url: str, variable: str) -> HttpProxy:
    """The proxy of a URL; no part of one that can't be read is shown, it may be a password."""
    url = url.strip()
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname or "", parts.port or 80
    except ValueError:
        return HttpProxy("", 0, variable, fault=f"{variable} must be like http://host:port")
    authorization = None
    if parts.username is not None:
        import base64

        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(login.encode()).decode()}"
    fault = ""
    if not host:
        fault = f"{variable} must be like http://host:port"
    elif parts.scheme != "http":
        fault = f"{variable} must begin with http://; {parts.scheme}:// is not spoken to a proxy"
    return HttpProxy(host, port, variable, authorization, fault)


def _named(host: str, no_proxy: str) -> bool:
    """Whether NO_PROXY names a network that the address is in."""
    networks = [each.strip() for each in no_proxy.split(",") if "/" in each]
    if not networks:
        return False
    import ipaddress

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for each in networks:
        try:
            if address in ipaddress.ip_network(each, strict=False):
                return True
        except ValueError:
            continue
    return False
