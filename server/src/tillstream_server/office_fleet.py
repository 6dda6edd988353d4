"""What store IT may order of tills: to list them, to turn one away, to let it in again, to see who was not let in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta, Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.limits import MAX_TEXT
from tillstream_protocol.messages import Name, Revoked, Rotate

from . import fleet, remote, tills
from .clock import Clock
from .devices import Devices
from .events import Events
from .fleet import Filter
from .gateway.batches import Intake
from .gateway.hub import Hub
from .ledger import outbox
from .ledger.database import Database
from .office_settings import (
    ConfigCommand,
    ConfigHalt,
    ConfigHistory,
    ConfigRollBack,
    ConfigSet,
    ConfigShow,
    ConfigStage,
    SettingsOffice,
)
from .states import State, heard_since_ms
from .tills import Place

DAY_MS: Final = 86_400_000
MAX_TILLS: Final = 1000

Result = dict[str, object]


class TillList(Struct, frozen=True, forbid_unknown_fields=True, tag="till_list"):
    """Tills by id, a page at a time."""

    retailer: Name | None = None
    store: Name | None = None
    state: State | None = None
    version: Annotated[str, Meta(max_length=MAX_TEXT)] | None = None
    after: Annotated[str, Meta(pattern="^([0-9a-f]{32})?$")] = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_TILLS)] = MAX_TILLS


class TillCounts(Struct, frozen=True, forbid_unknown_fields=True, tag="till_counts"):
    """How many tills are in which state, and run which version."""

    retailer: Name | None = None
    store: Name | None = None


class TillShow(Struct, frozen=True, forbid_unknown_fields=True, tag="till_show"):
    """Everything that is known of one till."""

    retailer: Name
    store: Name
    till: Name


class TillRevoke(Struct, frozen=True, forbid_unknown_fields=True, tag="till_revoke"):
    """Turn a till away; what it sends is quarantined."""

    retailer: Name
    store: Name
    till: Name


class TillAllowAgain(Struct, frozen=True, forbid_unknown_fields=True, tag="till_allow_again"):
    """Let a revoked till in again, and take what it sent meanwhile, unless that is to stay in quarantine."""

    retailer: Name
    store: Name
    till: Name
    hold: bool = False


class TillRotate(Struct, frozen=True, forbid_unknown_fields=True, tag="till_rotate"):
    """Have a till take another device key now, rather than when the present one is old."""

    retailer: Name
    store: Name
    till: Name


class FailedEnrolments(Struct, frozen=True, forbid_unknown_fields=True, tag="till_failed_enrolments"):
    """Who was not let in, the newest first."""

    retailer: Name | None = None
    store: Name | None = None
    limit: Annotated[int, Meta(ge=1, le=fleet.MAX_FAILURES)] = 100


class TokenList(Struct, frozen=True, forbid_unknown_fields=True, tag="token_list"):
    """Which enrolment tokens still let somebody in."""

    retailer: Name | None = None


FleetCommand = (
    ConfigCommand
    | TillList
    | TillCounts
    | TillShow
    | TillRevoke
    | TillAllowAgain
    | TillRotate
    | FailedEnrolments
    | TokenList
)


@dataclass(frozen=True, slots=True)
class FleetOffice:
    """Runs these commands."""

    database: Database
    devices: Devices
    intake: Intake
    hub: Hub
    settings: SettingsOffice
    clock: Clock
    events: Events
    silent_s: float
    """A till that was not heard for so long is silent."""

    async def do(self, command: FleetCommand) -> Result:
        """Carry out a command and give its result as JSON can hold it. Raises `TillstreamError`."""
        match command:
            case TillList():
                return await self._list(command)
            case TillCounts():
                return await self._count(command)
            case TillShow():
                return await self._show(command)
            case TillRevoke():
                return await self._revoke(command)
            case TillAllowAgain():
                return await self._allow_again(command)
            case TillRotate():
                return await self._rotate(command)
            case FailedEnrolments():
                async with self.database.read() as conn:
                    found = await fleet.failures(
                        conn, retailer=command.retailer, store=command.store, limit=command.limit
                    )
                return {"failed_enrolments": found}
            case ConfigSet() | ConfigStage() | ConfigHalt() | ConfigShow() | ConfigHistory() | ConfigRollBack():
                return await self.settings.do(command)
            case TokenList():
                async with self.database.read() as conn:
                    now_ms = self.clock.now_ms()
                    return {"tokens": await fleet.tokens(conn, retailer=command.retailer, now_ms=now_ms)}

    async def _list(self, command: TillList) -> Result:
        which = Filter(command.retailer, command.store, command.state, command.version)
        after, since_ms = bytes.fromhex(command.after), self._heard_since_ms()
        async with self.database.read() as conn:
            rows = await fleet.search(conn, which, heard_since_ms=since_ms, after=after, limit=command.limit)
        return {"tills": rows, "next": rows[-1]["till_id"] if len(rows) == command.limit else None}

    async def _count(self, command: TillCounts) -> Result:
        which, since_ms = Filter(command.retailer, command.store), self._heard_since_ms()
        async with self.database.read() as conn:
            states = await fleet.counts(conn, which, heard_since_ms=since_ms)
            return {"states": states, "versions": await fleet.versions(conn, which, heard_since_ms=since_ms)}

    async def _show(self, command: TillShow) -> Result:
        async with self.database.read() as conn:
            place = await tills.require(conn, command.retailer, command.store, command.till)
            since_ms, now_ms = self._heard_since_ms(), self.clock.now_ms()
            found = await fleet.one(conn, place.till_id, heard_since_ms=since_ms, now_ms=now_ms)
            settings = await remote.of_till(conn, place.till_id)
        return {**found, "connected": self.hub.has(place.till_id), "settings": settings}

    def _heard_since_ms(self) -> int:
        return heard_since_ms(self.clock.now_ms(), self.silent_s)

    async def _revoke(self, command: TillRevoke) -> Result:
        now_ms = self.clock.now_ms()
        async with self.database.write() as conn:
            place = await tills.require(conn, command.retailer, command.store, command.till)
            await tills.revoke(conn, place, now_ms)
            word = Revoked("this till was revoked by head office")
            pushes = await outbox.enqueue(conn, place.till_id, [(word, now_ms + DAY_MS)], now_ms)
        self.devices.forget()
        for push in pushes:
            self.hub.send(place.till_id, push)
        self.hub.end(place.till_id, "revoked")
        self._changed(place, "revoked")
        return {"till_id": place.till_id.hex(), "revoked": True}

    async def _allow_again(self, command: TillAllowAgain) -> Result:
        async with self.database.write() as conn:
            place = await tills.require(conn, command.retailer, command.store, command.till)
            await tills.allow_again(conn, place)
            await self._unsay_revocation(conn, place.till_id)
        self.devices.forget()
        self._changed(place, "allowed_again")
        released = 0 if command.hold else await self.intake.release(place.till_id)
        async with self.database.read() as conn:
            held = await fleet.held(conn, place.till_id)
        return {"till_id": place.till_id.hex(), "revoked": False, "released": released, "quarantine": held}

    async def _rotate(self, command: TillRotate) -> Result:
        """It is told when it is connected next, if that is within a month."""
        now_ms = self.clock.now_ms()
        async with self.database.write() as conn:
            place = await tills.require(conn, command.retailer, command.store, command.till)
            word = Rotate("head office asked for it")
            pushes = await outbox.enqueue(conn, place.till_id, [(word, now_ms + 30 * DAY_MS)], now_ms)
        for push in pushes:
            self.hub.send(place.till_id, push)
        self._changed(place, "told_to_rotate")
        return {"till_id": place.till_id.hex(), "told": any(self.hub.hears(place.till_id, push) for push in pushes)}

    async def _unsay_revocation(self, conn: AsyncConnection, till_id: bytes) -> None:
        """Take back the word of a revocation that the till has not heard yet."""
        waiting = await outbox.after(conn, till_id, 0, self.clock.now_ms())
        unsaid = [(till_id, push.seq) for push in waiting if isinstance(push.body, Revoked)]
        if unsaid:
            await conn.exec_driver_sql("DELETE FROM push_outbox WHERE till_id = ? AND seq = ?", unsaid)

    def _changed(self, place: Place, change: str) -> None:
        self.events.till_changed(place.retailer, place.store, place.till, change)
