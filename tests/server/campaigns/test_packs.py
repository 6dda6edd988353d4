"""Packs: what a till gets to decide by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.campaigning import NOW, REGULAR, Server, Till, campaign, sale, server_keys
from tillstream_protocol.decisions import Budget
from tillstream_protocol.pack import ForeignPack, open_pack
from tillstream_protocol.signing import BadSignature, SignKey
from tillstream_server.campaigns.book import CampaignBook
from tillstream_server.campaigns.packs import LIFETIME_MS, Packs


async def test_a_pack_carries_what_the_till_can_decide_by_itself(server: Server) -> None:
    device = await server.enrols()
    await server.puts(
        campaign("edge"),
        campaign("of-member-figures", condition=REGULAR),
        campaign("once-a-member", once_per="member"),
        campaign("elsewhere", stores=("south",)),
        campaign("here", stores=("north",)),
        campaign("over"),
    )
    await server.ends("over")
    pack = await server.issues(device)
    assert {one.id for one in pack.campaigns} == {"edge", "here"}


async def test_a_pack_is_signed_for_one_till_and_expires(server: Server) -> None:
    device, other = await server.enrols("1"), await server.enrols("2")
    await server.puts(campaign())
    async with server.database.write() as conn:
        signed = await server.packs.issue(conn, device, NOW)
    pack = server.opens(signed, device)
    assert (pack.version, pack.till, pack.store) == (2, device.till_id, "north")
    assert (pack.issued_ms, pack.expires_ms) == (NOW, NOW + LIFETIME_MS)
    with pytest.raises(ForeignPack):
        server.opens(signed, other)
    with pytest.raises(BadSignature):
        open_pack(signed, SignKey(b"x" * 32).public, device.till_id)


async def test_a_pack_of_an_empty_book_can_be_issued(server: Server) -> None:
    pack = await server.issues(await server.enrols())
    assert (pack.version, pack.campaigns, pack.leases) == (1, (), ())


async def test_a_lease_is_granted_once_and_comes_again_with_the_next_pack(server: Server) -> None:
    device = await server.enrols()
    await server.puts(campaign(budget=Budget(units=10, lease=3)))
    first = await server.issues(device)
    assert [(lease.campaign, lease.units) for lease in first.leases] == [("big-sale", 3)]
    assert (await server.issues(device)).leases == first.leases


async def test_the_last_lease_is_what_is_left_and_then_there_is_none(server: Server) -> None:
    await server.puts(campaign(budget=Budget(units=5, lease=3)))
    units = []
    for name in "123":
        pack = await server.issues(await server.enrols(name))
        units.append([lease.units for lease in pack.leases])
    assert units == [[3], [2], []]


async def test_a_spent_lease_gives_way_to_a_new_one(server: Server) -> None:
    device = await server.enrols()
    till = Till(device)
    await server.puts(campaign(budget=Budget(units=2, lease=1)))
    first = await server.issues(device)
    till.takes(first)
    await server.processes(server.sells(device, sale(), decisions=till.decides(sale())))
    second = await server.issues(device)
    assert [lease.id for lease in second.leases] != [lease.id for lease in first.leases]
    assert len(await server.leases()) == 2


async def test_a_new_device_of_a_till_starts_on_a_lease_of_its_own(server: Server) -> None:
    device = await server.enrols()
    await server.puts(campaign(budget=Budget(units=4, lease=2)))
    old = await server.issues(device)
    new = await server.issues(replace(device, key_id=b"newdevic"))
    assert len({lease.id for pack in (old, new) for lease in pack.leases}) == 2


# Keys


async def test_a_pack_carries_the_keys_that_its_till_needs(server: Server) -> None:
    pack = await server.issues(await server.enrols())
    keys = server.keys
    assert (pack.box_public_key, pack.escrow_public_key) == (keys.box_public, keys.escrow_public)
    assert pack.offer_key == keys.offer_key("acme")
    other = await server.issues(await server.enrols("2", retailer="other"))
    assert other.offer_key != pack.offer_key


async def test_packs_of_newer_keys_are_newer_whatever_the_book(server: Server) -> None:
    device = await server.enrols()
    await server.puts(*(campaign(f"campaign-{number}") for number in range(20)))
    before = await server.issues(device)
    newer = Packs(CampaignBook(), server_keys(server.key, generation=1), server.random)
    assert newer.version("acme") > before.version
    await server.puts(campaign("one-more"))
    after = Packs(server.book, server_keys(server.key, generation=1), server.random)
    async with server.database.write() as conn:
        pack = server.opens(await after.issue(conn, device, NOW), device)
    assert pack.version == after.version("acme") > newer.version("acme")


async def test_the_first_generation_changes_no_number(server: Server) -> None:
    device = await server.enrols()
    await server.puts(campaign())
    assert (await server.issues(device)).version == server.packs.version("acme") == server.book.version("acme") == 2


async def test_seconds_since_1970_are_a_generation(server: Server) -> None:
    device = await server.enrols()
    late = Packs(server.book, server_keys(server.key, generation=4_102_444_800), server.random)
    async with server.database.write() as conn:
        pack = server.opens(await late.issue(conn, device, NOW), device)
    assert 2**50 < pack.version < 2**53
