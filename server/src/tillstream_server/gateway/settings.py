"""Bringing settings to tills: each says with its heartbeat what it has, and gets what it is to have.

So nothing is lost where a push is: what a till lacks is seen again with its next heartbeat. A till that does not speak
of settings is never sent any. Settings travel through the outbox like a pack, the newest in the place of older ones. A
rollout is halted by the reports of the tills that could not take it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.messages import Push, SettingsPush
from tillstream_protocol.settings import Settings, SettingsReport, sign_settings
from tillstream_protocol.signing import SignKey

from .. import remote
from ..clock import Clock
from ..devices import Device
from ..events import Events
from ..ledger import outbox
from ..ledger.database import Database
from ..remote import Rollout
from .hub import Hub

LIFETIME_MS: Final = 3_600_000
"""How long settings wait for a till; one that comes later says what it lacks."""
_AT_ONCE: Final = 100
"""Settings signed in one transaction."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A version that was put into a till's outbox, where it stays until the till has it or this millisecond."""

    device: Device
    version: int
    until_ms: int


class SettingsDesk:
    """Knows what each till is to have, hears what it has, and sends what it lacks."""

    def __init__(self, database: Database, hub: Hub, sign: SignKey, clock: Clock, events: Events) -> None:
        self._database = database
        self._hub = hub
        self._sign = sign
        self._clock = clock
        self._events = events
        self._rollouts: dict[str, list[Rollout]] = {}
        self._heard: dict[bytes, SettingsReport] = {}
        self._changed: dict[bytes, tuple[Device, SettingsReport]] = {}
        self._due: dict[bytes, Device] = {}
        self._sent: dict[bytes, _Sent] = {}
        self._wake = asyncio.Event()
        self._closing = False

    async def refresh(self, conn: AsyncConnection) -> None:
        """Read every rollout anew: one has changed."""
        known: defaultdict[str, list[Rollout]] = defaultdict(list)
        for rollout in await remote.rollouts(conn):
            known[rollout.retailer].append(rollout)
        self._rollouts = dict(known)

    async def withdraw(self, conn: AsyncConnection, retailer: str) -> None:
        """Take out of the outbox what tills of this retailer have not fetched and are no longer to have."""
        for till_id, sent in list(self._sent.items()):
            report = self._heard.get(till_id)
            if sent.device.retailer != retailer or (report is not None and report.newest >= sent.version):
                continue
            if report is None or self._meant_for(sent.device, report) != sent.version:
                await outbox.withdraw(conn, till_id, SettingsPush)
                del self._sent[till_id]

    def hear(self, device: Device, report: SettingsReport) -> None:
        """A till said what became of its settings."""
        if self._heard.get(device.till_id) != report:
            self._heard[device.till_id] = report
            self._changed[device.till_id] = (device, report)
            self._wake.set()
        self._look_after(device)

    def announce(self, retailer: str) -> None:
        """A rollout of this retailer has changed: connected tills that lack something get it."""
        for device in self._hub.connected(retailer):
            self._look_after(device)

    async def run(self) -> None:
        """Write and send until `close`."""
        while not self._closing:
            await self._wake.wait()
            try:
                await self.flush()
            except Exception as error:  # noqa: BLE001 - the next heartbeat says it again
                self._heard.clear()
                self._events.unexpected("settings", error)

    def close(self) -> None:
        """Have `run` do what is left and return."""
        self._closing = True
        self._wake.set()

    async def flush(self) -> None:
        """Write what tills said, halt what they could not take, and send what they lack."""
        self._wake.clear()
        await self._take_all()
        due, self._due = self._due, {}
        devices = [device for device in due.values() if self._lacks(device)]
        for start in range(0, len(devices), _AT_ONCE):
            await self._send(devices[start : start + _AT_ONCE])
            await self._take_all()  # what the first could not take reaches none of the rest

    async def _take_all(self) -> None:
        changed, self._changed = self._changed, {}
        if changed:
            await self._take(changed)

    def _look_after(self, device: Device) -> None:
        if self._lacks(device):
            self._due[device.till_id] = device
            self._wake.set()

    def _lacks(self, device: Device) -> int:
        """The version that a till is to have and does not; 0 where there is none, or it is on its way."""
        report = self._heard.get(device.till_id)
        if report is None:
            return 0
        version = self._meant_for(device, report)
        sent = self._sent.get(device.till_id)
        on_its_way = sent is not None and sent.version == version and self._clock.now_ms() < sent.until_ms
        return version if version > report.newest and not on_its_way else 0

    def _meant_for(self, device: Device, report: SettingsReport) -> int:
        known = self._rollouts.get(device.retailer, ())
        return remote.meant_for(known, device.till_id, device.store, report.running)

    async def _take(self, changed: Mapping[bytes, tuple[Device, SettingsReport]]) -> None:
        now_ms = self._clock.now_ms()
        for _, report in changed.values():
            self._events.settings_reported(report.outcome)
        async with self._database.write() as conn:
            await remote.tell(conn, {till_id: report for till_id, (_, report) in changed.items()}, now_ms)
            halted = await self._halt(conn, changed.values(), now_ms)
            if halted:
                await self.refresh(conn)
            for retailer in {rollout.retailer for rollout, _ in halted}:
                await self.withdraw(conn, retailer)
        for rollout, why in halted:
            self._events.rollout_halted(rollout.retailer, rollout.version, why)

    async def _halt(
        self, conn: AsyncConnection, changed: Iterable[tuple[Device, SettingsReport]], now_ms: int
    ) -> list[tuple[Rollout, str]]:
        """Halt the rollouts that too many tills could not take; each with the reason."""
        failing = {(device.retailer, one.newest) for device, one in changed if one.outcome in remote.FAILED}
        halted = []
        for retailer, version in failing:
            rollout = next((one for one in self._rollouts.get(retailer, ()) if one.version == version), None)
            if rollout is None or rollout.halted_ms is not None:
                continue
            taken = await remote.progress(conn, retailer, version)
            failures = sum(taken[outcome] for outcome in remote.FAILED)
            if failures >= rollout.halt_after:
                why = f"{failures} tills could not take it"
                await remote.halt(conn, retailer, version, why, now_ms)
                halted.append((rollout, why))
        return halted

    async def _send(self, devices: list[Device]) -> None:
        now_ms = self._clock.now_ms()
        until_ms = now_ms + LIFETIME_MS
        pushes: list[tuple[bytes, Push]] = []
        sent: dict[bytes, _Sent] = {}
        async with self._database.write() as conn:
            for device in devices:
                version = self._lacks(device)
                if version:
                    sent[device.till_id] = _Sent(device, version, until_ms)
                    body = await self._signed(conn, device, version, now_ms)
                    queued = await outbox.enqueue(conn, device.till_id, [(body, until_ms)], now_ms)
                    pushes += [(device.till_id, push) for push in queued]
        for till_id, push in pushes:
            self._sent[till_id] = sent[till_id]
            self._hub.send(till_id, push)

    async def _signed(self, conn: AsyncConnection, device: Device, version: int, now_ms: int) -> SettingsPush:
        values = await remote.settings_of(conn, device.retailer, version)
        return SettingsPush(sign_settings(Settings(version, device.till_id, now_ms, values), self._sign))
