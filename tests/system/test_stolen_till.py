"""A till is stolen: whatever moment its disk is copied at, it names nobody; and what it closed, it cannot open."""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import random
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from nacl.public import PrivateKey

from crash.stand import Stand, standing
from support.thief import hits, keys_in, keys_in_memory, opens
from support.tills import TurnedClock
from support.zygote import AGENT, SERVER, Zygote
from system.test_nobody_is_named import CAMPAIGNS, CARD, EMAIL, EVENT, LOYALTY, NAMES, PHONE, SALE, files
from tillstream_agent.journal import Journal, JournalIdentity
from tillstream_protocol.signing import SignKey

pytestmark = pytest.mark.system

WAIT_S = 60
SECRETS = (*NAMES, "ENGRAVED", "Canary")


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(AGENT, SERVER) as parent:
        yield parent


class Burglar:
    """Copies the till's folder whenever he passes, and reads everything later."""

    def __init__(self, stand: Stand, loot: Path) -> None:
        self.stand = stand
        self.loot = loot
        self.images: list[Path] = []

    def copies(self, what: str) -> None:
        """The folder as it is now, sockets and all."""
        image = self.loot / f"{len(self.images)} {what}"
        for path, content in files(self.stand.state):
            copy = image / path.relative_to(self.stand.state)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
        self.images.append(image)


async def sells(stand: Stand, number: int) -> None:
    """One sale and one identification that name the canary."""
    for call, body in (
        ("transactions", {**SALE, "pos_id": f"sale-{number}"}),
        ("identify", {**EVENT, "event_id": f"{PHONE}-{number}"}),
    ):
        reply = await stand.ask({"call": call, "ack": "disk", "body": body})
        assert reply is not None
        assert reply["status"] == 201, reply


def put_campaigns_in_force(stand: Stand) -> None:
    for campaign in sorted(CAMPAIGNS.glob("*.json")):
        stand.command("campaign", "put", "--retailer", "acme", str(campaign))


async def test_an_image_of_the_folder_at_any_time_names_nobody(zygote: Zygote, tmp_path: Path) -> None:
    with standing(tmp_path / "stand", zygote) as stand:
        put_campaigns_in_force(stand)
        stand.enrol()
        burglar = Burglar(stand, tmp_path / "loot")
        burglar.copies("before it ever ran")
        await stand.open_till()
        for round_ in range(3):
            stand.server.kill()
            for number in range(5):
                await sells(stand, round_ * 100 + number)
                burglar.copies("while it captured, without the server")
            stand.till.kill()
            burglar.copies("after it was killed")
            stand.serve()
            await stand.open_till()
            await sells(stand, round_ * 100 + 50)
            burglar.copies("while it drained")
            await stand.drained(WAIT_S)
            burglar.copies("with offers and pack")
        assert stand.till.stop() == 0
        burglar.copies("after it was stopped")
    assert len(burglar.images) == 26
    assert any(image.glob("journal/*") for image in burglar.images)
    found = {
        f"{image.name}: {path.name}": named
        for image in burglar.images
        for path, content in files(image)
        if (named := hits(content, SECRETS))
    }
    assert found == {}
    assert hits(stand.till.log.read_bytes(), SECRETS) == []


@pytest.mark.parametrize("secret", [PHONE, LOYALTY, EMAIL, CARD, "Canary Bird"])
def test_the_burglar_would_have_found_it(secret: str) -> None:
    inner = b"what is before " + secret.encode() + b" and after"
    hidden = {
        "plain": inner,
        "utf-16": inner.decode().encode("utf-16-le"),
        "base64": base64.b64encode(inner),
        "base64, shifted": base64.b64encode(b"x" + inner),
        "base64, shifted twice": base64.urlsafe_b64encode(b"xx" + inner),
        "hex": inner.hex().encode(),
        "zlib": b"junk" + zlib.compress(inner * 3) + b"junk",
        "gzip": b"junk" + zlib.compress(inner * 3, wbits=31) + b"junk",
        "zstd": b"junk" + zstandard.compress(inner * 3) + b"junk",
    }
    assert [how for how, data in hidden.items() if not hits(data, [secret])] == []


async def journal_in(folder: Path, server: bytes, escrow: bytes) -> Journal:
    """A journal in this process, which has never seen a private key that opens it."""
    identity = JournalIdentity(os.urandom(16), SignKey(os.urandom(32)), server, escrow)
    return await Journal.open(folder, identity=identity, clock=TurnedClock(), randomness=os.urandom)


def openers(candidates: set[bytes], chunk: bytes) -> int:
    """How many of the candidates open the chunk."""
    return sum(opens(candidate, chunk) for candidate in candidates)


async def test_once_a_chunk_is_closed_nothing_in_the_process_opens_it(tmp_path: Path) -> None:
    (tmp_path / "private").write_bytes(bytes(PrivateKey.generate()))
    public = bytes(PrivateKey((tmp_path / "private").read_bytes()).public_key)
    journal = await journal_in(tmp_path / "journal", public, public)
    first = await appended(journal, tmp_path, 1)
    assert openers_in_memory(first) > 0, "while it is open its key is there, and is found"
    journal.roll()
    second = await appended(journal, tmp_path, 2)
    assert openers_in_memory(second) > 0
    assert openers_in_memory(first) == 0
    await journal.close()
    assert openers_in_memory(first) == 0
    assert openers_in_memory(second) == 0
    assert opens((tmp_path / "private").read_bytes(), first), "the server could"


async def appended(journal: Journal, folder: Path, number: int) -> bytes:
    """A record on the disk; the bytes of the chunk that holds it."""
    name = journal.append(random.Random(number).randbytes(200), kind=1)
    await journal.synced(name)
    await asyncio.sleep(0)
    return max((folder / "journal").glob("*.chunk")).read_bytes()


def openers_in_memory(chunk: bytes) -> int:
    """How many values that this process holds open the chunk, of those that look like chance as keys do."""
    gc.collect()
    return openers({value for value in keys_in_memory() if len(set(value)) > 20}, chunk)


async def test_no_key_in_the_folder_opens_a_closed_chunk(zygote: Zygote, tmp_path: Path) -> None:
    with standing(tmp_path, zygote) as stand:
        stand.enrol()
        await stand.open_till()
        await sells(stand, 1)
        assert stand.till.stop() == 0
        chunk = next(content for path, content in files(stand.state / "journal") if len(content) > 1500)
        held = {key for _, content in files(stand.state) for key in keys_in(content)}
        assert len(held) > 20
        assert openers(held, chunk) == 0
        theirs = {key for _, content in files(stand.data / "keys") for key in keys_in(content)}
        assert openers(theirs, chunk) > 0, "the server's keys do"
        shutil.rmtree(stand.state)
