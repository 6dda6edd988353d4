"""What tills are configured with from head office: versions, how far each is rolled out, and how tills took it.

    version     all that head office sets on a retailer's tills; it never changes, and the next one has a higher number:
                the second since 1970 in which it was made, or the next that is free. A server that came back from an
                old backup does not know what it made since, and so gives no number out that a till knows already
    rollout     which tills are to have a version: a share of those of some stores, or of all; it only ever grows
    report      what a till says became of the newest version that it was given

A till is to have the version of the newest rollout that reaches it. A rollout that is halted reaches nobody new: tills
that run its version keep it, the others fall back to the rollout before. To go back, the settings of an earlier version
become a new version, so that a till never has to ask which of two is meant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import InvalidInput, TillstreamError
from tillstream_protocol.settings import SettingsReport

FAILED: Final = ("refused", "rolled_back")
EVERYWHERE: Final[tuple[str, ...]] = ()

_ROLLOUT: Final = "retailer, version, stores, percent, halt_after, began_ms, changed_ms, halted_ms, halted_why"


class UnknownVersion(TillstreamError):
    """Head office has made no such version."""

    code = "unknown_version"


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a version is rolled out. `stores` are names, none for all of them; times are milliseconds."""

    retailer: str
    version: int
    stores: tuple[str, ...]
    percent: int
    halt_after: int
    """So many tills that cannot take it halt it."""
    began_ms: int
    changed_ms: int
    halted_ms: int | None = None
    halted_why: str = ""

    def reaches(self, till_id: bytes, store: str) -> bool:
        """Whether a till is among those that are to have this version. As the share grows, none drops out."""
        return (not self.stores or store in self.stores) and share(till_id, self.version) < self.percent

    def plain(self) -> dict[str, object]:
        """As JSON can hold it."""
        halted = {"halted_ms": self.halted_ms, "halted_why": self.halted_why}
        return {
            "version": self.version,
            "stores": list(self.stores),
            "percent": self.percent,
            "halt_after": self.halt_after,
            "began_ms": self.began_ms,
            "changed_ms": self.changed_ms,
            **(halted if self.halted_ms is not None else {}),
        }


def share(till_id: bytes, version: int) -> int:
    """Where a till stands among a hundred, evenly spread and for each version anew, so that not always the same are
    first."""
    digest = hashlib.blake2b(till_id + version.to_bytes(8, "big"), digest_size=8, person=b"tillstream-share").digest()
    return int.from_bytes(digest, "big") % 100


def meant_for(rollouts: Sequence[Rollout], till_id: bytes, store: str, running: int) -> int:
    """The version that a till is to have, of its retailer's rollouts, the newest first; 0 where none reaches it."""
    for rollout in rollouts:
        if not rollout.reaches(till_id, store):
            continue
        if rollout.halted_ms is None or rollout.version == running:
            return rollout.version
    return 0


async def make(conn: AsyncConnection, retailer: str, settings: Mapping[str, str], note: str, now_ms: int) -> int:
    """Keep settings as the retailer's next version; its number."""
    rows = await conn.exec_driver_sql("SELECT MAX(version) FROM till_settings WHERE retailer = ?", (retailer,))
    version = max((rows.scalar() or 0) + 1, now_ms // 1000)
    await conn.exec_driver_sql(
        "INSERT INTO till_settings (retailer, version, settings, note, made_ms) VALUES (?, ?, ?, ?, ?)",
        (retailer, version, msgspec.json.encode(dict(settings)).decode(), note, now_ms),
    )
    return version


async def settings_of(conn: AsyncConnection, retailer: str, version: int) -> dict[str, str]:
    """What a version sets. Raises `UnknownVersion`."""
    rows = await conn.exec_driver_sql(
        "SELECT settings FROM till_settings WHERE retailer = ? AND version = ?", (retailer, version)
    )
    found = rows.scalar_one_or_none()
    if found is None:
        raise UnknownVersion(f"{retailer!r} has no version {version}", field="version", hint="see: config history")
    return msgspec.json.decode(found, type=dict[str, str])


async def newest_settings(conn: AsyncConnection, retailer: str) -> dict[str, str]:
    """What a retailer's newest version sets; nothing where there is none."""
    rows = await conn.exec_driver_sql(
        "SELECT settings FROM till_settings WHERE retailer = ? ORDER BY version DESC LIMIT 1", (retailer,)
    )
    return msgspec.json.decode(rows.scalar_one_or_none() or "{}", type=dict[str, str])


async def history(conn: AsyncConnection, retailer: str, limit: int = 1000) -> list[dict[str, object]]:
    """Every version, the newest first, with its rollout if it has one."""
    rows = await conn.exec_driver_sql(
        "SELECT version, settings, note, made_ms FROM till_settings WHERE retailer = ? ORDER BY version DESC LIMIT ?",
        (retailer, limit),
    )
    staged = {rollout.version: rollout.plain() for rollout in await rollouts(conn, retailer)}
    return [
        {
            "version": version,
            "made_ms": made_ms,
            "note": note,
            "settings": msgspec.json.decode(settings),
            "rollout": staged.get(version),
        }
        for version, settings, note, made_ms in map(tuple, rows)
    ]


async def rollouts(conn: AsyncConnection, retailer: str | None = None) -> list[Rollout]:
    """One retailer's rollouts or all, the newest first."""
    rows = await conn.exec_driver_sql(
        f"SELECT {_ROLLOUT} FROM rollout WHERE :retailer IS NULL OR retailer = :retailer"  # noqa: S608
        " ORDER BY retailer, version DESC",
        {"retailer": retailer},
    )
    return [Rollout(name, version, _stores(stores), *rest) for name, version, stores, *rest in map(tuple, rows)]


async def stage(conn: AsyncConnection, wanted: Rollout) -> Rollout:
    """Roll a version out so far, or further; one that was halted goes on. Raises `UnknownVersion` or `InvalidInput`."""
    await settings_of(conn, wanted.retailer, wanted.version)
    known = await rollouts(conn, wanted.retailer)
    newest = known[0].version if known else 0
    if newest > wanted.version:
        raise InvalidInput(
            f"version {newest} is being rolled out already",
            field="version",
            hint=f"to go back: config roll-back --to {wanted.version}",
        )
    before = next((rollout for rollout in known if rollout.version == wanted.version), None)
    if before is not None:
        _require_growth(before, wanted)
    began_ms = before.began_ms if before is not None else wanted.began_ms
    await conn.exec_driver_sql(
        f"INSERT OR REPLACE INTO rollout ({_ROLLOUT}) VALUES (?, ?, ?, ?, ?, ?, ?, NULL, '')",  # noqa: S608
        (
            wanted.retailer,
            wanted.version,
            msgspec.json.encode(wanted.stores).decode(),
            wanted.percent,
            wanted.halt_after,
            began_ms,
            wanted.changed_ms,
        ),
    )
    return replace(wanted, began_ms=began_ms)


async def halt(conn: AsyncConnection, retailer: str, version: int, why: str, now_ms: int) -> None:
    """Let a rollout reach nobody new. Raises `UnknownVersion` for one that was never staged."""
    rows = await conn.exec_driver_sql(
        "UPDATE rollout SET halted_ms = ?, halted_why = ?, changed_ms = ?"
        " WHERE retailer = ? AND version = ? AND halted_ms IS NULL RETURNING version",
        (now_ms, why, now_ms, retailer, version),
    )
    if rows.scalar_one_or_none() is not None:
        return
    if version not in {rollout.version for rollout in await rollouts(conn, retailer)}:
        raise UnknownVersion(f"version {version} of {retailer!r} is not staged", field="version")


async def tell(conn: AsyncConnection, reports: Mapping[bytes, SettingsReport], now_ms: int) -> None:
    """Keep what tills say became of their settings."""
    rows = [
        (till_id, report.running, report.newest, report.outcome, report.reason, now_ms)
        for till_id, report in reports.items()
    ]
    if rows:
        await conn.exec_driver_sql(
            "INSERT OR REPLACE INTO till_config (till_id, running, newest, state, reason, told_ms)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )


async def progress(conn: AsyncConnection, retailer: str, version: int) -> dict[str, int]:
    """How many tills run a version, are trying it, could not take it, or went back from it."""
    rows = await conn.exec_driver_sql(
        "SELECT c.state, COUNT(*) FROM till_config c JOIN till t ON t.till_id = c.till_id"
        " WHERE t.retailer = ? AND c.newest = ? GROUP BY c.state",
        (retailer, version),
    )
    found = {str(state): int(number) for state, number in map(tuple, rows)}
    return {state: found.get(state, 0) for state in ("kept", "trial", *FAILED)}


async def waiting(conn: AsyncConnection, rollout: Rollout) -> int:
    """How many tills are to have a version and have not said that they were given it; of a halted rollout none is.

    Among them are tills that are off, and agents from before there were such settings.
    """
    if rollout.halted_ms is not None:
        return 0
    rows = await conn.exec_driver_sql(
        "SELECT t.till_id, t.store FROM till t LEFT JOIN till_config c ON c.till_id = t.till_id"
        " WHERE t.retailer = ? AND t.revoked_ms IS NULL AND t.till_id NOT IN (SELECT till_id FROM source)"
        " AND COALESCE(c.newest, 0) < ?",
        (rollout.retailer, rollout.version),
    )
    return sum(rollout.reaches(till_id, store) for till_id, store in map(tuple, rows))


async def ahead(conn: AsyncConnection, rollout: Rollout) -> int:
    """How many tills pass a version over that they are to have: they were given a later one, and not one of ours.

    So it is after a restore at a server whose clock is behind, or was ahead before.
    """
    rows = await conn.exec_driver_sql(
        "SELECT t.till_id, t.store FROM till t JOIN till_config c ON c.till_id = t.till_id"
        " WHERE t.retailer = ? AND t.revoked_ms IS NULL AND c.newest > ? AND c.newest NOT IN"
        " (SELECT version FROM till_settings WHERE retailer = t.retailer)",
        (rollout.retailer, rollout.version),
    )
    return sum(rollout.reaches(till_id, store) for till_id, store in map(tuple, rows))


async def failed(conn: AsyncConnection, retailer: str, version: int, limit: int = 100) -> list[dict[str, object]]:
    """Tills that could not take a version, and why, the newest first."""
    rows = await conn.exec_driver_sql(
        "SELECT t.store, t.till, c.state, c.reason, c.running, c.told_ms"
        " FROM till_config c JOIN till t ON t.till_id = c.till_id"
        " WHERE t.retailer = ? AND c.newest = ? AND c.state IN ('refused', 'rolled_back')"
        " ORDER BY c.told_ms DESC, t.store, t.till LIMIT ?",
        (retailer, version, limit),
    )
    return [dict(row._mapping) for row in rows]


async def of_till(conn: AsyncConnection, till_id: bytes) -> dict[str, object] | None:
    """What a till said last of its settings; None for one that never did."""
    rows = await conn.exec_driver_sql(
        "SELECT running, newest, state, reason, told_ms FROM till_config WHERE till_id = ?", (till_id,)
    )
    return next((dict(row._mapping) for row in rows), None)


def _require_growth(before: Rollout, wanted: Rollout) -> None:
    """Raise `InvalidInput` where tills that are to have the version would no longer be."""
    hint = f"to take it back: config halt --version {wanted.version}, or config roll-back"
    if wanted.percent < before.percent:
        raise InvalidInput("a rollout only grows", field="percent", limit=f"at least {before.percent}", hint=hint)
    if wanted.stores and not (before.stores and set(before.stores) <= set(wanted.stores)):
        limit = ", ".join(before.stores) or "all"
        raise InvalidInput("a rollout only grows", field="stores", limit=f"at least {limit}", hint=hint)


def _stores(text: str) -> tuple[str, ...]:
    return msgspec.json.decode(text, type=tuple[str, ...])
