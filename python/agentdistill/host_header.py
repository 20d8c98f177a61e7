"""Check the Host header of HTTP requests, against DNS rebinding.

A web page can make its own host name resolve to this machine (DNS rebinding). Its requests then come from the user's
own browser, but their Host header still contains the page's name. So a server that listens only on this machine accepts
only this machine's names.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address


def host_name(hosts: Sequence[str]) -> str | None:
    """The name or address in the Host headers of a request, in lower case. "" if there is no such header, as before
    HTTP/1.1; None if there are several, or if the header is not a host with an optional port."""
    if not hosts:
        return ""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+?)\.?)(?::[0-9]*)?", hosts[0])
    return (found[1] or found[2]).lower() if found and len(hosts) == 1 else None


def names_this_machine(hosts: Sequence[str]) -> bool:
    """Whether the Host headers name this machine or are absent."""
    name = host_name(hosts)
    return name is not None and (name in ("", "localhost") or name.endswith(".localhost") or is_loopback(name))


def is_loopback(name: str) -> bool:
    """Whether ``name`` is an address that only this machine can reach."""
    address = address_of(name)
    return address is not None and address.is_loopback


def address_of(name: str) -> IPv4Address | IPv6Address | None:
    """``name`` as an address, or None if it is not one. An IPv4-mapped IPv6 address becomes the IPv4 address."""
    try:
        address = ip_address(name.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address
