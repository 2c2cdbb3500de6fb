"""The proxy that the environment names for a server; a system's own settings are not read."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult
from urllib.request import getproxies_environment

from aligner_chains.checks import is_http_address, without_password
from aligner_chains.errors import ConfigurationError


def proxy_for(server: SplitResult) -> str | None:
    """The address of the proxy to a server; `None` for none, as always to a loopback address.

    It is what `HTTP_PROXY` or `HTTPS_PROXY`, else `ALL_PROXY`, says, unless `NO_PROXY` names the server: by its name or
    a domain that it is in, by its address or a network that it is in (`10.0.0.0/8`), or with all others (`*`).

    Args:
        server: The server's address, taken apart.

    Raises:
        ConfigurationError: It is not the address of an HTTP proxy: one of SOCKS, say.
    """
    host = (server.hostname or "").rstrip(".")
    address = _address(host)
    proxies = getproxies_environment()
    port = server.port or (443 if server.scheme == "https" else 80)
    if _is_loopback(host, address) or _is_excepted(host, address, port, proxies.get("no", "")):
        return None
    proxy = proxies.get(server.scheme) or proxies.get("all")
    if proxy is None:
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not is_http_address(proxy):
        raise ConfigurationError(
            f"The environment names the proxy {without_password(proxy)!r} for {host!r}, which is not an HTTP proxy's "
            f"address. Set {server.scheme.upper()}_PROXY to one like 'http://proxy:3128', or name {host!r} in NO_PROXY."
        )
    return proxy


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_loopback(host: str, address: IPv4Address | IPv6Address | None) -> bool:
    if address is None:
        return f".{host}".endswith(".localhost")
    return address.is_loopback or address.is_unspecified  # connecting to 0.0.0.0 or :: stays on this machine


def _is_excepted(host: str, address: IPv4Address | IPv6Address | None, port: int, no_proxy: str) -> bool:
    name = f"[{host}]" if ":" in host else host
    for entry in no_proxy.lower().split(","):
        excepted = entry.strip().strip(".")
        if excepted == "*" or f".{name}".endswith(f".{excepted}") or f".{name}:{port}".endswith(f".{excepted}"):
            return True
        try:
            if address is not None and address in ip_network(excepted.strip("[]"), strict=False):
                return True
        except ValueError:
            continue  # a name
    return False
