"""The places that tills are: how one comes to be, gets a new device, is turned away and let in again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.limits import MAX_SHORT
from tillstream_protocol.messages import Certificate, Vitals
from tillstream_protocol.sealing import key_id

from .auth import Grant, Randomness, TokenRefused

_NUMBERED: Final = re.compile(r"till-([1-9]\d{0,8})")

_STATUS_COLUMNS: Final = (
    "epoch, position, queued, oldest_queued_ms, hook_p50, hook_p99, hook_max, disk_free, clock_ms, agent_version,"
    " last_error, seen_ms, dead_letters, damaged_files"
)


class UnknownTill(TillstreamError):
    """There is no such till."""

    code = "unknown_till"


@dataclass(frozen=True, slots=True)
class Place:
    """One till by its names. `till_id` has 16 bytes."""

    till_id: bytes
    retailer: str
    store: str
    till: str
    revoked: bool


@dataclass(frozen=True, slots=True)
class NewDevice:
    """What an agent brings along when it joins. `key_id` has 8 bytes, `public_key` 32."""

    key_id: bytes
    public_key: bytes
    agent_version: str
    platform: str


async def place_for(conn: AsyncConnection, grant: Grant, *, now_ms: int, random: Randomness) -> Place:
    """The till that a token's grant leads to, made if need be. Raises `TokenRefused` for one that is revoked."""
    name = grant.till or await _next_name(conn, grant.retailer, grant.store)
    found = await find(conn, grant.retailer, grant.store, name)
    if found is not None:
        if found.revoked:
            hint = "let it in again first: tillstream-server till allow-again"
            raise TokenRefused("till_revoked", f"the till {name} is revoked", hint=hint)
        if await _is_source(conn, found):
            raise TokenRefused("till_is_source", f"the till {name} takes webhooks", hint="name another till")
        return found
    return await make(conn, random(16), grant.retailer, grant.store, name, now_ms)


async def _is_source(conn: AsyncConnection, place: Place) -> bool:
    """Whether the server itself speaks for a till, as it does for sources of webhooks."""
    rows = await conn.exec_driver_sql("SELECT 1 FROM source WHERE till_id = ?", (place.till_id,))
    return rows.first() is not None


async def make(conn: AsyncConnection, till_id: bytes, retailer: str, store: str, till: str, now_ms: int) -> Place:
    """A new till under a name that is free, with its store if need be."""
    await conn.exec_driver_sql(
        "INSERT INTO store (retailer, store, created_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (retailer, store, now_ms),
    )
    await conn.exec_driver_sql(
        "INSERT INTO till (till_id, retailer, store, till, created_ms, revoked_ms, push_seq)"
        " VALUES (?, ?, ?, ?, ?, NULL, 0)",
        (till_id, retailer, store, till, now_ms),
    )
    return Place(till_id, retailer, store, till, revoked=False)


async def give_device(
    conn: AsyncConnection, place: Place, device: NewDevice, now_ms: int, *, made_ms: int | None = None
) -> None:
    """Let a new device speak for a till; those before it may no longer. It was made now unless told otherwise."""
    await conn.exec_driver_sql(
        "UPDATE device SET revoked_ms = ? WHERE till_id = ? AND (revoked_ms IS NULL OR revoked_ms > ?)",
        (now_ms, place.till_id, now_ms),
    )
    await _add_device(conn, place, device, now_ms if made_ms is None else made_ms, None)


async def add_next_device(conn: AsyncConnection, place: Place, former: bytes, device: NewDevice, now_ms: int) -> int:
    """Let another device speak for a till beside the `former` one, by its key id; when it was made.

    One that was to follow before and was never heard no longer may.
    """
    await conn.exec_driver_sql(
        "UPDATE device SET revoked_ms = ? WHERE till_id = ? AND revoked_ms IS NULL AND key_id <> ?",
        (now_ms, place.till_id, former),
    )
    rows = await conn.exec_driver_sql("SELECT MAX(created_ms) FROM device WHERE till_id = ?", (place.till_id,))
    made_ms = max(now_ms, int(rows.scalar_one()) + 1)
    await _add_device(conn, place, device, made_ms, None)
    return made_ms


async def made_ms(conn: AsyncConnection, key_id: bytes) -> int:
    """When a device that is known was made."""
    rows = await conn.exec_driver_sql("SELECT created_ms FROM device WHERE key_id = ?", (key_id,))
    return int(rows.scalar_one())


async def devices_made(conn: AsyncConnection, till_id: bytes, *, after_ms: int) -> int:
    """How many devices of a till were made after a moment."""
    rows = await conn.exec_driver_sql(
        "SELECT COUNT(*) FROM device WHERE till_id = ? AND created_ms > ?", (till_id, after_ms)
    )
    return int(rows.scalar_one())


async def device_versions(conn: AsyncConnection, key_id: bytes) -> tuple[str, str]:
    """Agent version and platform that a device was enrolled with."""
    rows = await conn.exec_driver_sql("SELECT agent_version, platform FROM device WHERE key_id = ?", (key_id,))
    version, platform = tuple(rows.one())
    return str(version), str(platform)


async def take_back(conn: AsyncConnection, given: Certificate, now_ms: int) -> Place:
    """Make a till, its store and its device again as a certificate has them, where they are not there.

    Of several devices of a till, the one whose certificate was issued last speaks for it. A name that another till has
    by now is not taken from it. A till that is there stays as it is, revoked or not.
    """
    place = await by_id(conn, given.till_id)
    if place is None:
        name = await _free_name(conn, given)
        place = await make(conn, given.till_id, given.retailer, given.store, name, given.issued_ms)
    device = NewDevice(key_id(given.device_public_key), given.device_public_key, "", "")
    newest = await conn.exec_driver_sql("SELECT MAX(created_ms) FROM device WHERE till_id = ?", (place.till_id,))
    if given.issued_ms > (newest.scalar() or 0):
        await give_device(conn, place, device, now_ms, made_ms=given.issued_ms)
    else:
        await _add_device(conn, place, device, given.issued_ms, now_ms)
    return place


async def _add_device(
    conn: AsyncConnection, place: Place, device: NewDevice, created_ms: int, revoked_ms: int | None
) -> None:
    await conn.exec_driver_sql(
        "INSERT INTO device (key_id, till_id, public_key, created_ms, revoked_ms, agent_version, platform)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            device.key_id,
            place.till_id,
            device.public_key,
            created_ms,
            revoked_ms,
            device.agent_version,
            device.platform,
        ),
    )


async def _free_name(conn: AsyncConnection, given: Certificate) -> str:
    """The till's own name, or one like it where another till has that by now."""
    if await find(conn, given.retailer, given.store, given.till) is None:
        return given.till
    own = given.till_id.hex()
    for digits in range(4, len(own) + 1):
        ending = f"-returned-{own[:digits]}"
        name = given.till[: MAX_SHORT - len(ending)] + ending
        if await find(conn, given.retailer, given.store, name) is None:
            return name
    raise TokenRefused("name_taken", f"no name like {given.till} is free", hint="enrol the till with a token")


async def by_id(conn: AsyncConnection, till_id: bytes) -> Place | None:
    """The till of this id, or None."""
    rows = await conn.exec_driver_sql(
        "SELECT till_id, retailer, store, till, revoked_ms IS NOT NULL FROM till WHERE till_id = ?", (till_id,)
    )
    for row in rows.all():
        id_, retailer, store, till, revoked = tuple(row)
        return Place(id_, retailer, store, till, bool(revoked))
    return None


async def find(conn: AsyncConnection, retailer: str, store: str, till: str) -> Place | None:
    """The till of these names, or None."""
    rows = await conn.exec_driver_sql(
        "SELECT till_id, revoked_ms FROM till WHERE retailer = ? AND store = ? AND till = ?", (retailer, store, till)
    )
    for row in rows.all():
        till_id, revoked_ms = tuple(row)
        return Place(till_id, retailer, store, till, revoked_ms is not None)
    return None


async def require(conn: AsyncConnection, retailer: str, store: str, till: str) -> Place:
    """The till of these names. Raises `UnknownTill`."""
    place = await find(conn, retailer, store, till)
    if place is None:
        raise UnknownTill(f"there is no till {till!r} in store {store!r} of {retailer!r}", hint="see: till list")
    return place


async def revoke(conn: AsyncConnection, place: Place, now_ms: int) -> None:
    """Turn a till away: what it sends from now on is quarantined."""
    await conn.exec_driver_sql(
        "UPDATE till SET revoked_ms = ? WHERE till_id = ? AND revoked_ms IS NULL", (now_ms, place.till_id)
    )


async def allow_again(conn: AsyncConnection, place: Place) -> None:
    """Undo a revocation."""
    await conn.exec_driver_sql("UPDATE till SET revoked_ms = NULL WHERE till_id = ?", (place.till_id,))


async def record_vitals(conn: AsyncConnection, beats: Iterable[tuple[Vitals, int]]) -> None:
    """Keep each till's last heartbeat, received at the given millisecond."""
    rows = [
        (
            v.till_id,
            v.epoch,
            v.position,
            v.queued,
            v.oldest_queued_ms,
            v.hook.p50,
            v.hook.p99,
            v.hook.max,
            v.disk_free,
            v.clock_ms,
            v.agent_version,
            v.last_error,
            seen_ms,
            v.dead_letters,
            v.damaged_files,
        )
        for v, seen_ms in beats
    ]
    if rows:
        await conn.exec_driver_sql(
            f"INSERT OR REPLACE INTO till_status (till_id, {_STATUS_COLUMNS})"  # noqa: S608
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )


async def number_pushes_above(conn: AsyncConnection, till_id: bytes, seq: int) -> None:
    """Never number a push so that the till takes it for an old one: after a restore, tills know higher numbers."""
    await conn.exec_driver_sql("UPDATE till SET push_seq = ? WHERE till_id = ? AND push_seq < ?", (seq, till_id, seq))


async def _next_name(conn: AsyncConnection, retailer: str, store: str) -> str:
    rows = await conn.exec_driver_sql("SELECT till FROM till WHERE retailer = ? AND store = ?", (retailer, store))
    numbers = [int(match[1]) for (name,) in rows if (match := _NUMBERED.fullmatch(name))]
    return f"till-{max(numbers, default=0) + 1}"
