"""Which proxy the environment names for an address: http_proxy, https_proxy, all_proxy and no_proxy, in either case."""

from __future__ import annotations

import os

from swupd.agent import address
from swupd.agent.address import Address


def find(wanted: Address) -> Address | None:
    """The proxy to ask, None where there is none. Raises ValueError for one that cannot be used."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415  slow to load, and seldom needed

    named = getproxies()
    url = named.get(wanted.scheme) or named.get("all")
    bypassed = proxy_bypass(f"{wanted.named_host}:{wanted.port}") or _in_a_network(wanted.host, named.get("no", ""))
    if not url or bypassed:
        return None
    found = address.parse(url if "://" in url else f"http://{url}")
    if found.scheme != "http":
        raise ValueError(f"a proxy must be http://, not {found.url}")
    return found


def _in_a_network(host: str, excepted: str) -> bool:
    """Whether no_proxy has a network, like 10.0.0.0/8, that an address is in."""
    import ipaddress  # noqa: PLC0415  as above

    for network in excepted.replace(" ", "").split(","):
        try:
            if "/" in network and ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False):
                return True
        except ValueError:
            continue
    return False
