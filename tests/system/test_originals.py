"""Every sample goes through its adapter, a till and the server into the ledger; its own bytes come back identical."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from support.agents import running_agent
from support.samples import BROKEN, SAMPLES, Sample
from support.serving import Server, serving
from tillstream_agent.capture import Capture, Captured, Enrolment
from tillstream_agent.clock import SystemClock
from tillstream_agent.folder import Folder
from tillstream_agent.journal import Journal, JournalIdentity
from tillstream_agent.offers.edge import Edge
from tillstream_agent.sync import enrol
from tillstream_agent.sync.asking import Asker
from tillstream_protocol.adapters import Reading
from tillstream_protocol.errors import InvalidInput, TillstreamError
from tillstream_protocol.events import Original
from tillstream_protocol.messages import Token
from tillstream_server import cli, office
from tillstream_server.ledger import export
from tillstream_server.reading import reading

pytestmark = pytest.mark.system

PLACE = ("acme", "north", "till-1")


@dataclass(frozen=True)
class ServersTime(SystemClock):
    """The till's clock, set by the server's."""

    server: Server

    def now_ms(self) -> int:
        return self.server.clock.now_ms()


async def joined(state: Path, server: Server) -> Folder:
    folder = Folder(state)
    client = Asker(server.address, tls=None, timeout=5)
    try:
        joining = enrol.Enrolment(folder, client, ServersTime(server), os.urandom, "1.0")
        await joining.join(server.address, Token.parse(await server.token()), replace=False)
    finally:
        await client.close()
    return folder


@asynccontextmanager
async def capturing(folder: Folder, server: Server) -> AsyncIterator[Capture]:
    """The till's one path from a typed call to a sealed record, behind whichever door it is that an adapter feeds."""
    who, clock = folder.identity(), ServersTime(server)
    keys = JournalIdentity(who.till_id, folder.device_key(who), who.box_public, who.escrow_public)
    journal = await Journal.open(folder.journal, identity=keys, clock=clock, randomness=os.urandom)
    edge = Edge(server_public_key=who.server_public, till_id=who.till_id, clock=clock)
    where = Enrolment(who.till_id, who.retailer, who.store, who.till, who.currency)
    try:
        yield Capture(journal, edge, where, tag_key=folder.tag_key(), clock=clock, randomness=os.urandom)
    finally:
        await journal.close()


def captured(capture: Capture, one: Sample) -> list[tuple[Reading, Captured]]:
    """What a payload holds, captured with the bytes that each transaction was read from."""
    found = []
    for read in one.read():
        original = Original(one.adapter.media_type, hashlib.sha256(read.original).digest(), read.original)
        found.append((read, capture.transaction(read.transaction, original)))
    return found


async def drained(folder: Folder, server: Server) -> None:
    """Have the whole agent send what was captured."""
    headers = {"Authorization": f"Bearer {folder.hook_token()}"}
    async with (
        running_agent(folder, clock=ServersTime(server)) as (port, _),
        aiohttp.ClientSession(headers=headers) as http,
        asyncio.timeout(60),
    ):
        queued = 1
        while queued:
            async with http.get(f"http://127.0.0.1:{port}/v1/status") as reply:
                queued = (await reply.json())["queue"]["records"]
            await asyncio.sleep(0.02)


def asked(one: Captured, till: tuple[str, str, str] = PLACE) -> office.RecordOriginal:
    return office.RecordOriginal(*till, one.name.epoch.hex(), one.name.seq, "an audit")


async def in_ledger(server: Server) -> dict[tuple[str, int], Any]:
    async with reading(server.folder.ledger) as conn:
        return {(row["epoch"], row["seq"]): row async for row in export.rows(conn)}


async def test_every_sample_arrives_once_and_its_bytes_come_back_identical(tmp_path: Path) -> None:
    async with serving(tmp_path / "server") as server:
        folder = await joined(tmp_path / "till", server)
        sent: list[tuple[Reading, Captured]] = []
        async with capturing(folder, server) as capture:
            for one in SAMPLES:
                made = captured(capture, one)
                assert len(made) == one.sells, one.name
                sent += made
        await drained(folder, server)
        rows = await in_ledger(server)
        assert len(rows) == len(sent)
        for read, name in sent:
            row = rows[name.name.epoch.hex(), name.name.seq]
            assert (row["amount_minor"], row["business_date"]) == (
                read.transaction.total,
                read.transaction.business_date,
            )
            back = await server.order(asked(name))
            assert base64.b64decode(back["data"]) == read.original
            assert bytes.fromhex(back["sha256"]) == hashlib.sha256(read.original).digest()
        readings = server.logged("original_read")
        assert len(readings) == len(sent)
        assert {line["reason"] for line in readings} == {"an audit"}


async def test_what_is_broken_has_a_named_error_and_costs_no_other_sale(tmp_path: Path) -> None:
    async with serving(tmp_path / "server") as server:
        folder = await joined(tmp_path / "till", server)
        sent: list[tuple[Reading, Captured]] = []
        async with capturing(folder, server) as capture:
            for one in (one for one in SAMPLES if one.adapter.name != "escpos"):
                for how, breaking in BROKEN.items():
                    with pytest.raises(InvalidInput) as caught:
                        captured(capture, Sample(one.name, one.adapter, breaking(one.data), one.setting))
                    assert (caught.value.code, bool(caught.value.field)) == ("invalid_input", True), (one.name, how)
                sent += captured(capture, one)
        await drained(folder, server)
        assert len(await in_ledger(server)) == len(sent)
        for read, name in sent:
            assert base64.b64decode((await server.order(asked(name)))["data"]) == read.original


def test_of_a_broken_print_job_is_read_what_a_receipt_is() -> None:
    """Paper has no structure: what is no receipt gives none, and one with noise around it is read all the same."""
    (one,) = (one for one in SAMPLES if one.adapter.name == "escpos")
    found = {how: len(one.adapter.read(breaking(one.data), one.setting)) for how, breaking in BROKEN.items()}
    assert found == {"cut off": 0, "of another format": 0, "no text": 1, "nothing": 0}


async def test_what_was_erased_or_never_came_is_told_apart(tmp_path: Path) -> None:
    of_a_member = next(one for one in SAMPLES if one.name.startswith("woocommerce"))
    of_nobody = next(one for one in SAMPLES if one.name.startswith("escpos"))
    async with serving(tmp_path / "server") as server:
        folder = await joined(tmp_path / "till", server)
        async with capturing(folder, server) as capture:
            ((_, member),) = captured(capture, of_a_member)
            ((read, nobody),) = captured(capture, of_nobody)
            bare = capture.transaction(msgspec.structs.replace(read.transaction, pos_id="another"))
        await drained(folder, server)
        rows = await in_ledger(server)
        subject = rows[member.name.epoch.hex(), member.name.seq]["subject"]
        assert await error_of(server, asked(bare)) == "no_original"
        missing = office.RecordOriginal(*PLACE, nobody.name.epoch.hex(), 999, "an audit")
        assert await error_of(server, missing) == "unknown_record"
        assert await error_of(server, asked(nobody, ("acme", "north", "nowhere"))) == "unknown_till"
    with closing(sqlite3.connect(server.folder.vault_keys)) as keys, keys:
        assert keys.execute("DELETE FROM subject_key WHERE subject = ?", (bytes.fromhex(subject),)).rowcount == 1
    async with serving(tmp_path / "server") as server:
        assert await error_of(server, asked(member)) == "original_erased"
        assert base64.b64decode((await server.order(asked(nobody)))["data"]) == read.original


async def error_of(server: Server, command: office.RecordOriginal) -> str:
    with pytest.raises(TillstreamError) as caught:
        await server.order(command)
    assert caught.value.message
    return caught.value.code


async def test_the_operator_reads_an_original_by_the_command(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (one,) = (one for one in SAMPLES if one.name.startswith("shopify"))
    async with serving(tmp_path / "server") as server:
        folder = await joined(tmp_path / "till", server)
        async with capturing(folder, server) as capture:
            ((read, name),) = captured(capture, one)
        await drained(folder, server)
    arguments = ["record", "original", "--data", str(tmp_path / "server"), "--reason", "an audit"]
    arguments += ["--retailer", "acme", "--store", "north", "--till", "till-1"]
    arguments += ["--epoch", name.name.epoch.hex(), "--seq", str(name.name.seq)]
    assert await asyncio.to_thread(cli.main, arguments) == 0
    said = capfdbinary.readouterr()
    assert said.out == read.original
    assert f"{len(read.original)} bytes, application/json, SHA-256".encode() in said.err
