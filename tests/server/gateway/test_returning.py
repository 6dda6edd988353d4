"""A server that was restored from an older backup takes tills back by their own certificates."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from support.serving import Server, Till, sale, serving
from tillstream_protocol import messages
from tillstream_protocol.pack import open_pack
from tillstream_protocol.signing import SignKey
from tillstream_server import office_fleet


async def forgets(server: Server, *tills: Till, device_only: bool = False) -> None:
    """Have the server's ledger forget tills, or the devices that speak for them, as an older backup would."""
    with closing(sqlite3.connect(server.folder.ledger, timeout=10)) as conn, conn:
        for till in tills:
            conn.execute("DELETE FROM device WHERE key_id = ?", (till.device.key_id,))
            if not device_only:
                for table in ("push_outbox", "till_status", "till"):
                    conn.execute(f"DELETE FROM {table} WHERE till_id = ?", (till.reply.till_id,))


@asynccontextmanager
async def restored(root: Path, *tills: Till, device_only: bool = False) -> AsyncIterator[Server]:
    """The server on a folder again, which has forgotten these tills meanwhile."""
    async with serving(root) as server:
        await forgets(server, *tills, device_only=device_only)
    async with serving(root) as server:
        for till in tills:
            till.server = server
        yield server


async def names(server: Server) -> list[str]:
    return sorted(str(one["till"]) for one in (await server.order(office_fleet.TillList()))["tills"])


async def returns(till: Till) -> str:
    reply = await till.returns()
    assert reply.status == 200, reply.body
    return messages.decode_return_reply(reply.body).till


@pytest.fixture
async def till(tmp_path: Path) -> Till:
    """A till that has enrolled and sold at a server that is down by now."""
    async with serving(tmp_path / "data") as server:
        till = await server.till("till-1")
        await till.sends(sale(1))
        return till


async def test_a_forgotten_till_is_known_again_under_its_name_and_id(tmp_path: Path, till: Till) -> None:
    async with restored(tmp_path / "data", till) as server:
        assert (await till.uploads(till.batch(sale(2)))).error["code"] == "unknown_device"
        assert await returns(till) == "till-1"
        (one,) = (await server.order(office_fleet.TillList()))["tills"]
        assert (one["till_id"], one["retailer"], one["store"]) == (till.reply.till_id.hex(), "acme", "north")
        assert (await till.uploads(till.batch(sale(3)))).status == 200
        assert server.count("returns_total", outcome="taken_back") == 1


async def test_it_gets_a_pack_when_it_connects(tmp_path: Path, till: Till) -> None:
    async with restored(tmp_path / "data", till):
        await returns(till)
        async with till.on_push(pack_version=0) as pushes:
            _, body = await pushes.next(messages.PackPush)
            assert open_pack(body.pack, till.introduction.server_public_key, till.reply.till_id).store == "north"


async def test_of_a_device_that_is_known_nothing_changes(server: Server) -> None:
    till = await server.till("till-1")
    assert [await returns(till) for _ in range(2)] == ["till-1", "till-1"]
    assert server.count("returns_total", outcome="known") == 2


async def test_a_revoked_till_stays_revoked(server: Server) -> None:
    till = await server.till("till-1")
    await server.order(office_fleet.TillRevoke("acme", "north", "till-1"))
    await returns(till)
    assert (await till.uploads(till.batch(sale(1)))).error["code"] == "revoked"


async def test_a_forgotten_device_of_a_revoked_till_stays_out_too(tmp_path: Path, till: Till) -> None:
    async with serving(tmp_path / "data") as server:
        await server.order(office_fleet.TillRevoke("acme", "north", "till-1"))
    async with restored(tmp_path / "data", till, device_only=True):
        await returns(till)
        assert (await till.uploads(till.batch(sale(1)))).error["code"] == "revoked"


async def test_a_name_that_another_till_has_by_now_is_not_taken_from_it(tmp_path: Path, till: Till) -> None:
    async with restored(tmp_path / "data", till) as server:
        other = await server.till("till-1")
        name = f"till-1-returned-{till.reply.till_id.hex()[:4]}"
        assert await returns(till) == name
        assert await names(server) == ["till-1", name]
        assert (await other.uploads(other.batch(sale(1)))).status == 200
        assert (await till.uploads(till.batch(sale(2)))).status == 200


async def test_a_name_as_long_as_a_name_may_be_finds_a_place(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server:
        till = await server.till("t" * 64)
    async with restored(tmp_path / "data", till) as server:
        await server.till("t" * 64)
        ending = f"-returned-{till.reply.till_id.hex()[:4]}"
        assert await returns(till) == "t" * (64 - len(ending)) + ending


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_of_several_devices_the_last_to_enrol_speaks_whoever_returns_first(
    tmp_path: Path, order: tuple[int, int]
) -> None:
    async with serving(tmp_path / "data") as server:
        old = await server.till("till-1")
        server.clock.turn(60)
        new = await server.till("till-1")
    async with restored(tmp_path / "data", old, new):
        for index in order:
            await returns((old, new)[index])
        assert (await old.uploads(old.batch(sale(1)))).error["code"] == "revoked"
        assert (await new.uploads(new.batch(sale(2)))).status == 200


async def test_a_certificate_without_its_device_is_refused(server: Server) -> None:
    till = await server.till()
    reply = await till.returns(proven_by=SignKey(os.urandom(32)))
    assert (reply.status, reply.error["code"]) == (401, "bad_signature")
    assert server.count("returns_total", outcome="refused") == 1


async def test_a_certificate_of_another_server_is_refused(server: Server, tmp_path: Path) -> None:
    async with serving(tmp_path / "other") as other:
        stranger = await other.till()
    stranger.server = server
    reply = await stranger.returns()
    assert (reply.status, reply.error["code"]) == (401, "bad_signature")
    assert await names(server) == []


async def test_a_certificate_that_was_altered_is_refused(server: Server) -> None:
    till = await server.till()
    payload = till.reply.certificate.payload.replace(b"acme", b"evil")
    signature = till.reply.certificate.signature
    till.reply = messages.EnrolReply(
        **{name: getattr(till.reply, name) for name in till.reply.__struct_fields__ if name != "certificate"},
        certificate=messages.SignedCertificate(payload, signature),
    )
    assert (await till.returns()).status == 401


@pytest.mark.parametrize("body", [b"", b"\xc1", b"x" * 10_000])
async def test_what_is_no_request_is_refused_with_a_reason(server: Server, body: bytes) -> None:
    headers = {"Content-Type": messages.CONTENT_TYPE}
    reply = await server.send("POST", "/till/v1/return", body, headers)
    assert reply.status in (400, 413)
    assert server.count("returns_total", outcome="refused") == 1


async def test_many_that_return_at_once_are_all_known(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server:
        tills = [await server.till() for _ in range(3)]
    async with restored(tmp_path / "data", *tills) as server:
        await asyncio.gather(*(returns(till) for till in [*tills, *tills]))
        assert await names(server) == ["till-1", "till-2", "till-3"]
