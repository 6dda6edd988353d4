"""What lies on a till, and in ledger and projections, names nobody; who holds the server's keys can read it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

import demo
from demo.processes import Server, Till, command
from tillstream_agent.capture import keyed_tag
from tillstream_agent.folder import Folder
from tillstream_protocol.decisions import Campaign, offer_id
from tillstream_protocol.events import MemberIdentified
from tillstream_protocol.facts import identification_occasion_key
from tillstream_protocol.pack import SignedPack, open_pack
from tillstream_protocol.transaction import Identifier
from tillstream_server import keys
from tillstream_server.clock import SystemClock
from tillstream_server.customers.vault import Vault
from tillstream_server.ledger import schema
from tillstream_server.ledger.database import Database

pytestmark = pytest.mark.system

CAMPAIGNS = Path(demo.__file__).parent / "campaigns"
PHONE = "5558675309"
LOYALTY = "7734902184"
EMAIL = "canary.bird@example.org"
CARD = "4012888888881881"
SPACED_CARD = "4012 8888 8888 1881"
NAMES = (PHONE, LOYALTY, EMAIL, CARD, SPACED_CARD, "Canary Bird")
SECRET_TABLES = {"vault_item"}

SALE = {
    "source": {"system": "test"},
    "kind": "sale",
    "pos_id": "1",
    "business_date": "2026-01-31",
    "end": {"at": 1_769_850_000_000},
    "currency": "USD",
    "total": 700,
    "lines": [{"seq": 1, "sku": "A", "amount": 700, "name": f"ENGRAVED {PHONE}"}],
    "tenders": [{"type": "card", "amount": 700, "card": CARD, "reference": f"for {EMAIL}"}],
    "note": f"call {PHONE}, paid with {CARD}",
    "reason": f"VISA {SPACED_CARD} 12/27",
    "customer": {
        "name": "Canary Bird",
        "identifiers": [
            {"scheme": "phone", "value": PHONE},
            {"scheme": "loyalty", "value": LOYALTY},
            {"scheme": "email", "value": EMAIL},
        ],
    },
    "ext": {"said": f"{PHONE} {LOYALTY}"},
}
EVENT = {"identifiers": [{"scheme": "phone", "value": PHONE}], "event_id": PHONE}


async def everything_captured(till: Till, server: Server) -> None:
    """Send the canaries through the hook, and wait until the server has them."""
    headers = {"Authorization": f"Bearer {till.token}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        for path, body in (("/v1/transactions", SALE), ("/v1/members/identify", EVENT)):
            async with http.post(till.url + path, json=body) as response:
                assert response.status == 201, await response.text()
        for refused in ({**SALE, "total": PHONE}, {**SALE, PHONE: 1}):
            async with http.post(till.url + "/v1/transactions", json=refused) as response:
                assert response.status == 400
        async with asyncio.timeout(30):
            while True:
                async with http.get(f"{till.url}/v1/status") as response:
                    if (await response.json())["queue"]["records"] == 0:
                        return
                await asyncio.sleep(0.05)


@pytest.fixture
async def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A till's and a server's folder after the canaries went through, and after both were stopped."""
    server = await Server.set_up(tmp_path)
    try:
        till = await Till.set_up(tmp_path, server, "north", 1)
        try:
            await everything_captured(till, server)
        finally:
            await till.program.stop()
    finally:
        await server.program.stop()
    return till.state, server.folder


def files(*places: Path) -> Iterator[tuple[Path, bytes]]:
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.is_file():
                yield path, path.read_bytes()


def dump(ledger: Path) -> bytes:
    """Ledger and projections as bytes: every table but the vault's."""
    database = sqlite3.connect(ledger)
    parts: list[bytes] = []
    for table in schema.metadata.sorted_tables:
        if table.name in SECRET_TABLES:
            continue
        for row in database.execute(f"SELECT * FROM {table.name}"):
            parts.extend(value if isinstance(value, bytes) else str(value).encode() for value in row)
    database.close()
    return b"\n".join(parts)


def guesses(value: str, known_keys: list[bytes]) -> Iterator[bytes]:
    """What somebody would look for who holds the till's folder and guesses an identifier."""
    texts = {prefix + value for prefix in ("", "+", "+1", "phone:", "phone\0", "loyalty:", "loyalty\0")}
    for text in (text.encode() for text in texts):
        for name in ("md5", "sha1", "sha256", "sha512", "blake2b", "blake2s", "sha3_256"):
            yield hashlib.new(name, text).digest()
        for size in (8, 16, 32):
            yield hashlib.blake2b(text, digest_size=size).digest()
            for key in known_keys:
                yield hashlib.blake2b(text, digest_size=size, key=key[:64]).digest()
        for key in known_keys:
            yield hmac.digest(key, text, "sha256")


def own_guesses(value: str, state: Path) -> Iterator[bytes]:
    """The same with this project's own constructions, which the thief has read, and the keys in the till's pack."""
    identity = Folder(state).identity()
    database = sqlite3.connect(state / "state.db")
    pack = SignedPack(*database.execute("SELECT payload, signature FROM pack").fetchone())
    database.close()
    offer_key = open_pack(pack, identity.server_public, identity.till_id).offer_key
    tag_key = (state / "tag.key").read_bytes()
    event = MemberIdentified(identifiers=(Identifier("phone", value),), event_id=value)
    for kind in (b"identified", b"sale", b"offer"):
        yield keyed_tag(tag_key, [kind, value.encode()])
    for path in CAMPAIGNS.glob("*.json"):
        yield offer_id(
            msgspec.json.decode(path.read_bytes(), type=Campaign),
            identification_occasion_key(event, identity.till_id),
            offer_key,
        )


async def test_no_identifier_is_in_any_file_of_the_till_or_in_ledger_logs_and_projections(
    folders: tuple[Path, Path],
) -> None:
    state, data = folders
    logs = [state.parent / name for name in ("till-1.log", "till-1.out", "server.log", "server.out")]
    held = [*files(state, data, *logs), (Path("dump"), dump(data / "ledger.db"))]
    assert any(path.suffix == ".chunk" and len(content) > 2000 for path, content in held)
    found = [
        f"{name} in {path}"
        for path, content in held
        for name in NAMES
        for form in (name.encode(), name.encode("utf-16-le"), name.encode().hex().encode())
        if form in content
    ]
    assert found == []


async def test_no_hash_that_one_can_make_without_the_servers_keys_leads_to_a_number(
    folders: tuple[Path, Path],
) -> None:
    state, data = folders
    at_hand = [content for path, content in files(state) if path.suffix in (".key", "") and 16 <= len(content) <= 64]
    held = b"".join(content for _, content in files(state)) + dump(data / "ledger.db")
    assert at_hand, "the till's own keys are part of what a thief has"
    tried = [
        (value, guess) for value in (PHONE, LOYALTY) for guess in (*guesses(value, at_hand), *own_guesses(value, state))
    ]
    hits = [value for value, guess in tried if guess[:8] in held]
    assert hits == []


async def test_the_server_opens_them_and_the_card_number_is_cut(folders: tuple[Path, Path]) -> None:
    _, data = folders
    rows = [
        json.loads(line)
        for line in (await command("tillstream-server", "ledger", "export", "--data", str(data))).splitlines()
    ]
    subject = bytes.fromhex(next(row["subject"] for row in rows if row["type"] == "transaction"))
    held = keys.load(data / "keys")
    ledger, vault_keys = await Database.open(data / "ledger.db"), await Database.open(data / "vault-keys.db")
    try:
        vault = Vault(vault_keys, held.vault_key, SystemClock(), os.urandom)
        async with ledger.read() as conn:
            items = await vault.reveal(conn, subject)
    finally:
        await vault_keys.close()
        await ledger.close()
    opened = b" ".join(msgspec.json.encode(msgspec.msgpack.decode(item.plain)) for item in items).decode()
    assert PHONE in opened
    assert "Canary Bird" in opened
    assert CARD not in opened
    assert "401288******1881" in opened
