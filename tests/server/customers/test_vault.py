"""What names a person lies sealed, under a key that can be destroyed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.pipelining import Server, SetClock, server_at
from tillstream_server.customers.vault import Item, Vault, VaultDamaged

ANN, BOB = b"a" * 16, b"b" * 16
PHONE = Item(ANN, "identifier", b"1", b"+15551234567")
NOTE = Item(ANN, "note", b"2", b"likes tea")
OTHER = Item(BOB, "identifier", b"1", b"bob@example.com")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with server_at(tmp_path) as server:
        yield server


async def put(server: Server, *items: Item) -> None:
    async with server.database.write() as conn:
        await server.vault.write(conn, items)


async def reveal(server: Server, subject: bytes, vault: Vault | None = None) -> tuple[Item, ...]:
    async with server.database.read() as conn:
        return await (vault or server.vault).reveal(conn, subject)


def fresh(server: Server, vault_key: bytes | None = None) -> Vault:
    """A vault that has nothing in memory."""
    return Vault(server.vault_keys, vault_key or server.keys.vault_key, SetClock(), os.urandom)


async def test_a_subject_reveals_exactly_its_own(server: Server) -> None:
    await put(server, PHONE, NOTE, OTHER)
    assert await reveal(server, ANN) == (PHONE, NOTE)
    assert await reveal(server, BOB, fresh(server)) == (OTHER,)


async def test_nobody_reveals_nothing(server: Server) -> None:
    assert await reveal(server, b"n" * 16) == ()


async def test_an_item_stays_as_it_was_first(server: Server) -> None:
    await put(server, PHONE)
    await put(server, Item(ANN, "identifier", b"1", b"changed"))
    assert await reveal(server, ANN) == (PHONE,)


async def test_nothing_is_readable_in_either_file(server: Server) -> None:
    await put(server, PHONE, NOTE)
    for path in server.database.path.parent.glob("*.db*"):
        assert b"5551234567" not in path.read_bytes()
        assert b"likes tea" not in path.read_bytes()


async def test_a_destroyed_key_takes_everything_with_it(server: Server) -> None:
    await put(server, PHONE, OTHER)
    async with server.vault_keys.write() as conn:
        await conn.exec_driver_sql("DELETE FROM subject_key WHERE subject = ?", (ANN,))
    assert await reveal(server, ANN, fresh(server)) == ()
    assert await reveal(server, BOB, fresh(server)) == (OTHER,)


@pytest.mark.parametrize("column", ["subject", "field", "record"])
async def test_an_item_cannot_pass_for_another(server: Server, column: str) -> None:
    await put(server, PHONE, OTHER)
    changed = {"subject": BOB, "field": "note", "record": b"9"}[column]
    async with server.database.write() as conn:
        await conn.exec_driver_sql("DELETE FROM vault_item WHERE subject = ?", (BOB,))
        await conn.exec_driver_sql(f"UPDATE vault_item SET {column} = ?", (changed,))
    with pytest.raises(VaultDamaged):
        await reveal(server, BOB if column == "subject" else ANN)


async def test_another_servers_key_opens_nothing(server: Server) -> None:
    await put(server, PHONE)
    with pytest.raises(VaultDamaged):
        await reveal(server, ANN, fresh(server, vault_key=b"x" * 32))


async def test_a_full_cache_only_costs_a_look(server: Server) -> None:
    vault = Vault(server.vault_keys, server.keys.vault_key, SetClock(), os.urandom, cached=1)
    items = [Item(bytes([i]) * 16, "note", b"", bytes([i])) for i in range(5)]
    async with server.database.write() as conn:
        await vault.write(conn, items)
    assert [await reveal(server, item.subject, vault) for item in items] == [(item,) for item in items]
