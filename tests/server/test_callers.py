"""Who calls: proxies of ours are believed whom they speak for, and nobody else."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from tillstream_server.callers import caller_of, place_of

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fe80::/10"))


@pytest.mark.parametrize(
    ("peer", "said", "caller"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.2", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.2", ["made.up, 198.51.100.1", "10.9.9.9"], "198.51.100.1"),
        ("10.0.0.2", ["192.0.2.1, 198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.2", ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2:3:4:5:6"),
        ("fe80::1%eth0", ["2001:db8::1%" + "x" * 99], "2001:db8::1"),
        ("10.0.0.2", [], "10.0.0.2"),
        ("10.0.0.2", ["unknown"], "10.0.0.2"),
        ("10.0.0.2", ["198.51.100.1, what you like, 10.0.0.3"], "10.0.0.3"),
        ("10.0.0.2", ["198.51.100.1, "], "10.0.0.2"),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_only_our_proxies_say_whom_they_speak_for(peer: str, said: list[str], caller: str) -> None:
    headers = CIMultiDict([("X-Forwarded-For", one) for one in said])
    headers["Forwarded"] = "for=192.0.2.77"
    request = make_mocked_request("GET", "/", headers=headers).clone(remote=peer)
    assert caller_of(request, PROXIES) == caller
    assert place_of(request, PROXIES) in (caller, "2001:db8:1:2::/64", "2001:db8::/64")


def test_who_has_a_network_of_their_own_guesses_as_one() -> None:
    places = set()
    for last in ("1", "2:3:4:5"):
        request = make_mocked_request("GET", "/").clone(remote=f"2001:db8::{last}")
        places.add(place_of(request, ()))
    assert places == {"2001:db8::/64"}
