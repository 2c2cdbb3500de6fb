"""The proxy that the environment names for a server, as curl, requests and httpx take it."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult
from urllib.request import getproxies, proxy_bypass

from aligner_chains.checks import without_password
from aligner_chains.errors import ConfigurationError


def proxy_for(server: SplitResult) -> str | None:
    """The address of the proxy to a server; `None` for none, as always to one on this machine.

    It is what `HTTP_PROXY` or `HTTPS_PROXY`, else `ALL_PROXY`, says, unless `NO_PROXY` names the server.

    Args:
        server: The server's address, taken apart.

    Raises:
        ConfigurationError: It is not an HTTP proxy: SOCKS, say.
    """
    host = server.hostname or ""
    if _is_loopback(host) or proxy_bypass(f"{host}:{server.port}" if server.port else host):
        return None
    proxies = getproxies()
    proxy = proxies.get(server.scheme) or proxies.get("all")
    if proxy is not None and "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy is not None and not proxy.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"The environment names the proxy {without_password(proxy)!r} for {host!r}, but only HTTP proxies can be "
            f"used. Set {server.scheme.upper()}_PROXY to one, or name {host!r} in NO_PROXY."
        )
    return proxy


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
