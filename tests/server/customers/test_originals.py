"""A POS's own bytes are read back as they were sealed, or it is said why not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.pipelining import NOW, Server, SetClock, Till, member, sale, server_at
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.events import Original, Record
from tillstream_server.customers.originals import NoOriginal, OriginalErased, Originals, UnknownRecord
from tillstream_server.customers.vault import Vault, VaultDamaged

DATA = b"\x1b@\xff one receipt"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with server_at(tmp_path) as server:
        yield server


def original(data: bytes = DATA, digest: bytes | None = None) -> Original:
    return Original("text/plain", hashlib.sha256(data).digest() if digest is None else digest, data)


async def back(server: Server, till: Till, seq: int = 0) -> Original:
    """What is read by a vault that has nothing in memory."""
    vault = Vault(server.vault_keys, server.keys.vault_key, SetClock(), os.urandom)
    async with server.database.read() as conn:
        return await Originals(vault, server.keys.identifier_key).read(conn, till.till_id, till.epoch, seq)


async def test_a_members_and_a_strangers_are_both_read(server: Server) -> None:
    await server.take(
        Record(sale("1", customer=member()), NOW, original=original()),
        Record(sale("2"), NOW, original=original(b"")),
    )
    assert await back(server, server.till()) == original()
    assert await back(server, server.till(), 1) == original(b"")


async def test_a_record_that_has_none_or_is_not_there_is_told_apart(server: Server) -> None:
    await server.take(sale("1"), sale("2", customer=member()))
    for seq, wrong in ((0, NoOriginal), (1, NoOriginal), (2, UnknownRecord)):
        with pytest.raises(wrong) as caught:
            await back(server, server.till(), seq)
        assert caught.value.hint


async def test_nothing_of_anybody_is_no_original_either(server: Server) -> None:
    await server.take(sale("1", ext=None))
    with pytest.raises(NoOriginal):
        await back(server, server.till())


async def test_the_same_sale_under_another_name_says_where_the_bytes_are(server: Server) -> None:
    await server.take(Record(sale("1"), NOW, original=original()))
    await server.take(Record(sale("1"), NOW, original=original(b"other")), till="2")
    with pytest.raises(NoOriginal) as caught:
        await back(server, server.till("2"))
    assert caught.value.hint is not None
    assert server.till("1").epoch.hex() in caught.value.hint


async def test_with_the_subjects_key_the_bytes_are_gone_and_others_stay(server: Server) -> None:
    await server.take(
        Record(sale("1", customer=member("4711")), NOW, original=original()),
        Record(sale("2", customer=member("4712")), NOW, original=original()),
    )
    ((subject,),) = await server.rows("SELECT subject FROM ledger WHERE seq = 0")
    async with server.vault_keys.write() as conn:
        await conn.exec_driver_sql("DELETE FROM subject_key WHERE subject = ?", (subject,))
    with pytest.raises(OriginalErased):
        await back(server, server.till())
    assert await back(server, server.till(), 1) == original()


@pytest.mark.parametrize("statement", ["UPDATE vault_item SET sealed = zeroblob(64) WHERE field = 'original'", ""])
async def test_what_was_altered_is_never_given_out(server: Server, statement: str) -> None:
    await server.take(Record(sale("1"), NOW, original=original(digest=None if statement else bytes(32))))
    if statement:
        async with server.database.write() as conn:
            await conn.exec_driver_sql(statement)
    with pytest.raises(VaultDamaged) as caught:
        await back(server, server.till())
    assert isinstance(caught.value, TillstreamError)
