"""What head office may order of tills' settings: to make a version, to roll it out, to halt it, to go back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta, Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.limits import MAX_TEXT
from tillstream_protocol.messages import Name
from tillstream_protocol.settings import (
    MAX_HEARTBEAT_S,
    MAX_NAMES,
    SettingName,
    Settings,
    Value,
    Version,
    require_remote,
    sign_settings,
)
from tillstream_protocol.signing import SignKey

from . import remote
from .clock import Clock
from .events import Events
from .gateway.settings import SettingsDesk
from .ledger.database import Database
from .remote import EVERYWHERE, Rollout
from .states import HEARTBEATS

HEARTBEAT: Final = "sync.heartbeat_s"
POS_FACING: Final = ("hook.origins", "hook.port")
"""By these a POS finds its hook, and is let in. A till cannot tell by itself that its POS no longer reaches it."""

Result = dict[str, object]


class ConfigSet(Struct, frozen=True, forbid_unknown_fields=True, tag="config_set"):
    """Make a version of a retailer's tills' settings: all that head office sets. No till has it before it is staged."""

    retailer: Name
    settings: Annotated[dict[SettingName, Value], Meta(max_length=MAX_NAMES)]
    note: Annotated[str, Meta(max_length=MAX_TEXT)] = ""
    pos_follows: bool = False


class ConfigStage(Struct, frozen=True, forbid_unknown_fields=True, tag="config_stage"):
    """Roll a version out to a share of the tills of some stores, or of all; or further than before."""

    retailer: Name
    version: Version
    percent: Annotated[int, Meta(ge=1, le=100)] = 100
    stores: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()
    halt_after: Annotated[int, Meta(ge=1, le=100_000)] = 1


class ConfigHalt(Struct, frozen=True, forbid_unknown_fields=True, tag="config_halt"):
    """Let a rollout reach nobody new."""

    retailer: Name
    version: Version
    why: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)] = "by head office"


class ConfigShow(Struct, frozen=True, forbid_unknown_fields=True, tag="config_show"):
    """A version, how far it is rolled out, and how tills took it; the newest unless one is named."""

    retailer: Name
    version: Version | None = None


class ConfigHistory(Struct, frozen=True, forbid_unknown_fields=True, tag="config_history"):
    """Every version, the newest first."""

    retailer: Name


class ConfigRollBack(Struct, frozen=True, forbid_unknown_fields=True, tag="config_roll_back"):
    """Give every till the settings of an earlier version again, as a new one; of version 0, none."""

    retailer: Name
    to: Annotated[int, Meta(ge=0, le=2**53)]
    pos_follows: bool = False


ConfigCommand = ConfigSet | ConfigStage | ConfigHalt | ConfigShow | ConfigHistory | ConfigRollBack


@dataclass(frozen=True, slots=True)
class SettingsOffice:
    """Runs these commands."""

    database: Database
    desk: SettingsDesk
    sign: SignKey
    clock: Clock
    events: Events
    silent_s: float
    """A till that was not heard for so long is silent."""

    async def do(self, command: ConfigCommand) -> Result:
        """Carry out a command and give its result as JSON can hold it. Raises `TillstreamError`."""
        match command:
            case ConfigSet():
                return await self._set(command)
            case ConfigStage():
                return await self._stage(command)
            case ConfigHalt():
                return await self._halt(command)
            case ConfigShow():
                return await self._show(command)
            case ConfigHistory():
                async with self.database.read() as conn:
                    return {"versions": await remote.history(conn, command.retailer)}
            case ConfigRollBack():
                return await self._roll_back(command)

    async def _set(self, command: ConfigSet) -> Result:
        require_remote(frozenset(command.settings))
        self._require_heard(command.settings)
        now_ms = self.clock.now_ms()
        sign_settings(Settings(1, bytes(16), now_ms, command.settings), self.sign)  # raises if no till could take it
        async with self.database.write() as conn:
            await self._require_pos(conn, command, command.settings)
            version = await remote.make(conn, command.retailer, command.settings, command.note, now_ms)
        self.events.settings_changed(command.retailer, version, "made")
        return {"version": version}

    async def _stage(self, command: ConfigStage) -> Result:
        now_ms = self.clock.now_ms()
        stores = tuple(sorted(set(command.stores)))
        wanted = Rollout(command.retailer, command.version, stores, command.percent, command.halt_after, now_ms, now_ms)
        async with self.database.write() as conn:
            staged = await remote.stage(conn, wanted)
            tills = {"waiting": await remote.waiting(conn, staged), "ahead": await remote.ahead(conn, staged)}
        await self._rolled(command.retailer, command.version, "staged")
        return {**staged.plain(), **tills}

    async def _halt(self, command: ConfigHalt) -> Result:
        async with self.database.write() as conn:
            await remote.halt(conn, command.retailer, command.version, command.why, self.clock.now_ms())
        await self._rolled(command.retailer, command.version, "halted")
        return {"version": command.version, "halted": True}

    async def _show(self, command: ConfigShow) -> Result:
        async with self.database.read() as conn:
            known = await remote.history(conn, command.retailer)
            version = command.version or (known[0]["version"] if known else 0)
            found = next((one for one in known if one["version"] == version), None)
            if found is None:
                raise remote.UnknownVersion(f"{command.retailer!r} has no such version", field="version")
            number = int(str(version))
            rollout = next(
                (one for one in await remote.rollouts(conn, command.retailer) if one.version == number), None
            )
            taken = await remote.progress(conn, command.retailer, number)
            taken["waiting"] = await remote.waiting(conn, rollout) if rollout is not None else 0
            taken["ahead"] = await remote.ahead(conn, rollout) if rollout is not None else 0
            return {**found, "tills": taken, "failed": await remote.failed(conn, command.retailer, number)}

    async def _roll_back(self, command: ConfigRollBack) -> Result:
        now_ms = self.clock.now_ms()
        async with self.database.write() as conn:
            values = await remote.settings_of(conn, command.retailer, command.to) if command.to else {}
            self._require_heard(values)
            await self._require_pos(conn, command, values)
            note = f"version {command.to} again" if command.to else "nothing set from afar"
            version = await remote.make(conn, command.retailer, values, note, now_ms)
            await remote.stage(conn, Rollout(command.retailer, version, EVERYWHERE, 100, 100_000, now_ms, now_ms))
        await self._rolled(command.retailer, version, "rolled_back")
        return {"version": version, "settings_of": command.to}

    def _require_heard(self, settings: Mapping[str, str]) -> None:
        """Raise `InvalidInput` for heartbeats so far apart that well tills would count as silent. What is no number is
        for the till to refuse."""
        try:
            seconds = float(settings.get(HEARTBEAT, "0"))
        except ValueError:
            return
        most = min(self.silent_s / HEARTBEATS, MAX_HEARTBEAT_S)
        if seconds > most:
            hint = f"a till is silent after silent_seconds, {self.silent_s:g} s: {HEARTBEATS} heartbeats have to fit in"
            raise InvalidInput(f"{HEARTBEAT} is {seconds:g}", field=HEARTBEAT, limit=f"at most {most:g} s", hint=hint)

    async def _require_pos(
        self, conn: AsyncConnection, command: ConfigSet | ConfigRollBack, settings: Mapping[str, str]
    ) -> None:
        """Raise `InvalidInput` where every POS would have to be set otherwise too, and nobody has said that it is."""
        before = await remote.newest_settings(conn, command.retailer)
        for name in POS_FACING:
            if settings.get(name) != before.get(name) and not command.pos_follows:
                what = f"{name} changes: a POS that is not set otherwise too is cut off, and no till notices"
                hint = "set the POS otherwise too, and add --even-if-the-pos-must-follow"
                raise InvalidInput(what, field=name, hint=hint)

    async def _rolled(self, retailer: str, version: int, change: str) -> None:
        async with self.database.write() as conn:
            await self.desk.refresh(conn)
            await self.desk.withdraw(conn, retailer)
        self.desk.announce(retailer)
        self.events.settings_changed(retailer, version, change)
