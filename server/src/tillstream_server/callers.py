"""Where a request comes from: the other end of the connection, or whom a proxy of ours says that it speaks for.

`X-Forwarded-For` alone is read. A proxy that writes that header hands `Forwarded` on as anybody sent it: to read both
would be to believe strangers.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from aiohttp import web

Proxies = tuple[IPv4Network | IPv6Network, ...]
Address = IPv4Address | IPv6Address

_HOUSEHOLD: Final = 64
"""Bits of an IPv6 address that tell places apart; of the others everybody has as many as they like."""


def caller_of(request: web.Request, proxies: Proxies) -> str:
    """The caller's address, to be noted; empty where the connection has none."""
    return str(_found(request, proxies) or "")


def place_of(request: web.Request, proxies: Proxies) -> str:
    """The same, for guesses to be counted by: of an IPv6 address, its network."""
    address = _found(request, proxies)
    return str(IPv6Network((address, _HOUSEHOLD), strict=False) if isinstance(address, IPv6Address) else address or "")


def _found(request: web.Request, proxies: Proxies) -> Address | None:
    """The last address that is no proxy of ours, as far back as proxies of ours wrote the header."""
    address = _read(request.remote or "")
    for said in reversed(",".join(request.headers.getall("X-Forwarded-For", ())).split(",")):
        if address is None or not any(address in network for network in proxies):
            break
        further = _read(said.strip())
        if further is None:
            break
        address = further
    return address


def _read(text: str) -> Address | None:
    """An address without what is written of IPv4 in IPv6, and without a zone, in which anything can stand."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or IPv6Address(int(address))) if isinstance(address, IPv6Address) else address
