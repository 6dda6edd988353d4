"""From identifiers to subjects."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tillstream_protocol.transaction import Identifier
from tillstream_server.customers.identity import Identities, Name, Namer, normalise
from tillstream_server.ledger.database import Database, LedgerFault, migrate

PHONE = Identifier("phone", "+1 555-123-4567")
LOYALTY = Identifier("loyalty", "4711")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    await migrate(tmp_path / "ledger.db")
    database = await Database.open(tmp_path / "ledger.db")
    yield database
    await database.close()


def name_of(identifier: Identifier, *, key: bytes = b"k" * 32, retailer: str = "acme") -> Name:
    return Namer(key, retailer).name(identifier, normalise(identifier.scheme, identifier.value))


async def resolve(database: Database, identities: Identities, *names: Name) -> list[bytes]:
    async with database.write() as conn:
        resolved = await identities.resolve(conn, "acme", [name.hash for name in names], 1)
    identities.remember(resolved, names)
    return [resolved.subjects[name.hash] for name in names]


@pytest.mark.parametrize(
    ("scheme", "value", "normal"),
    [
        ("phone", "+1 (555) 123-4567", "+15551234567"),
        ("phone", "001 555 123 4567", "+15551234567"),
        ("phone", "555.123.4567", "5551234567"),
        ("phone", "５５５１２３", "555123"),
        ("phone", "+", ""),
        ("phone", "unknown", ""),
        ("email", " Ann@Example.COM ", "ann@example.com"),
        ("loyalty", "47 11", "4711"),
        ("loyalty", "aB", "aB"),
        ("account", "   ", ""),
        ("card", "411111******1111", ""),
        ("card", "411111XXXXXX1111", ""),
        ("card", "tok_4eC39", "tok_4eC39"),
    ],
)
def test_ways_of_writing_an_identifier_become_one(scheme: str, value: str, normal: str) -> None:
    assert normalise(scheme, value) == normal


def test_a_hash_is_of_its_key_its_retailer_and_its_scheme() -> None:
    hashes = {
        name_of(LOYALTY).hash,
        name_of(LOYALTY, key=b"l" * 32).hash,
        name_of(LOYALTY, retailer="other").hash,
        name_of(Identifier("account", "4711")).hash,
        Namer(b"k" * 32, "acme").own(),
    }
    assert len(hashes) == 5


def test_a_form_tells_the_ways_of_writing_apart() -> None:
    one, other = name_of(PHONE), name_of(Identifier("phone", "001 555 1234567"))
    assert one.hash == other.hash
    assert one.form != other.form
    plain = name_of(LOYALTY)
    assert plain.form == plain.hash


async def test_one_identifier_is_one_subject_for_ever(database: Database) -> None:
    identities = Identities(os.urandom)
    first = await resolve(database, identities, name_of(LOYALTY), name_of(PHONE))
    assert await resolve(database, identities, name_of(LOYALTY), name_of(PHONE)) == first
    assert await resolve(database, Identities(os.urandom), name_of(LOYALTY), name_of(PHONE)) == first
    assert len({len(subject) for subject in first}) == 1
    assert first[0] != first[1]


async def test_the_same_identifier_twice_in_one_transaction_is_one_subject(database: Database) -> None:
    one, other = await resolve(database, Identities(os.urandom), name_of(LOYALTY), name_of(LOYALTY))
    assert one == other


async def test_a_full_cache_only_costs_a_look(database: Database) -> None:
    identities = Identities(os.urandom, cached=1)
    names = [name_of(Identifier("loyalty", str(i))) for i in range(1200)]
    assert await resolve(database, identities, *names) == await resolve(database, identities, *names)


async def test_a_subject_that_was_rolled_back_is_made_anew(database: Database) -> None:
    identities = Identities(os.urandom)

    async def fail() -> None:
        async with database.write() as conn:
            await identities.resolve(conn, "acme", [name_of(LOYALTY).hash], 1)
            await conn.exec_driver_sql("INSERT INTO subject (subject) VALUES (NULL)")

    with pytest.raises(LedgerFault):
        await fail()
    (subject,) = await resolve(database, identities, name_of(LOYALTY))
    async with database.read() as conn:
        assert (await conn.exec_driver_sql("SELECT subject FROM identifier")).scalar_one() == subject


async def test_only_what_may_be_new_is_kept_again(database: Database) -> None:
    identities = Identities(os.urandom)
    name, spaced = name_of(LOYALTY), name_of(Identifier("loyalty", "47 11"))
    async with database.write() as conn:
        resolved = await identities.resolve(conn, "acme", [name.hash], 1)
    assert identities.needs_keeping(name, resolved)
    identities.remember(resolved, [name])
    async with database.write() as conn:
        again = await identities.resolve(conn, "acme", [name.hash], 1)
    assert not identities.needs_keeping(name, again)
    assert identities.needs_keeping(spaced, again)
    identities.remember(again, [spaced])
    assert not identities.needs_keeping(spaced, again)
    identities.forget()
    assert identities.needs_keeping(spaced, again)
