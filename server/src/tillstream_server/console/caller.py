"""Where a request comes from: the other end of the connection, or whom a proxy of ours says that it speaks for."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import chain
from typing import Final

from aiohttp import web

_HOUSEHOLD: Final = 64
"""Bits of an IPv6 address that tell places apart; of the others everybody has as many as they like."""


def place_of(request: web.Request, proxies: Collection[IPv4Network | IPv6Network]) -> str:
    """The address that guesses are counted by. A header is heeded only as far back as proxies of ours wrote it."""
    place = request.remote or ""
    said = ",".join(request.headers.getall("X-Forwarded-For", ())).split(",")
    for further in chain(reversed(said), ("",)):
        try:
            address = ip_address(place.strip())
        except ValueError:
            return place
        address = getattr(address, "ipv4_mapped", None) or address
        if not further.strip() or not any(address in network for network in proxies):
            break
        place = further.strip()
    return str(IPv6Network((address, _HOUSEHOLD), strict=False)) if isinstance(address, IPv6Address) else str(address)
