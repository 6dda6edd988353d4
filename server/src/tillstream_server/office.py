"""What head office and the operator may order: one typed command each, run in the one process that writes.

The same functions serve the admin socket of a running server, the CLI when no server runs, and the HTTP API.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta, Struct, to_builtins

from tillstream_protocol.errors import ErrorBody, InvalidInput, TillstreamError
from tillstream_protocol.limits import MAX_SHORT, MAX_TEXT
from tillstream_protocol.messages import Name, decode_batch
from tillstream_protocol.signing import fingerprint

from . import auth, keys, tills, users
from .auth import Randomness
from .campaigns import book as campaigns
from .campaigns.book import CampaignBook
from .clock import Clock
from .customers.originals import Originals
from .devices import Devices
from .events import Events
from .folder import Folder
from .gateway import quarantine
from .gateway.batches import Intake
from .gateway.deliveries import Deliveries
from .hooks import book as hook_book
from .hooks import sources
from .hooks.intake import HookIntake
from .hooks.replacing import MAX_OPTIONS, replace
from .hooks.replacing import SourceReplace as SourceReplace
from .hooks.signatures import Kind
from .keys import ServerKeys
from .ledger import alarms, gaps
from .ledger.database import Database, LedgerFault
from .office_fleet import DAY_MS, MAX_TILLS, FleetCommand, FleetOffice

MAX_USES: Final = 100_000
MIN_TTL_MS: Final = 1000
MAX_TTL_MS: Final = 366 * DAY_MS
MAX_LETTERS: Final = 10_000
MAX_BATCHES: Final = 10_000

Result = dict[str, object]


class TokenCreate(Struct, frozen=True, forbid_unknown_fields=True, tag="token_create"):
    """A token for one till, or for the next tills of a store."""

    retailer: Name
    store: Name
    till: Name | None = None
    uses: Annotated[int, Meta(ge=1, le=MAX_USES)] = 1
    ttl_ms: Annotated[int, Meta(ge=MIN_TTL_MS, le=MAX_TTL_MS)] = DAY_MS


class KeyCreate(Struct, frozen=True, forbid_unknown_fields=True, tag="key_create"):
    """A key for head office's API."""

    role: auth.Role


class KeyRotateBox(Struct, frozen=True, forbid_unknown_fields=True, tag="key_rotate_box"):
    """Have tills seal to a new key of the server's."""


class KeyRotateEscrow(Struct, frozen=True, forbid_unknown_fields=True, tag="key_rotate_escrow"):
    """Have tills seal to a new escrow key."""


class KeyForgetEscrow(Struct, frozen=True, forbid_unknown_fields=True, tag="key_forget_escrow"):
    """Take the escrow private key, which a recovery needed, off the server."""


class CampaignPut(Struct, frozen=True, forbid_unknown_fields=True, tag="campaign_put"):
    """A campaign's JSON file, to be in force from now on."""

    retailer: Name
    document: str


class CampaignEnd(Struct, frozen=True, forbid_unknown_fields=True, tag="campaign_end"):
    """Take a campaign out of force."""

    retailer: Name
    campaign: Name


class CampaignList(Struct, frozen=True, forbid_unknown_fields=True, tag="campaign_list"):
    """Every version of every campaign."""

    retailer: Name | None = None


class TillGaps(Struct, frozen=True, forbid_unknown_fields=True, tag="till_gaps"):
    """What of a till's records is not here, and what the till says it lost."""

    retailer: Name
    store: Name
    till: Name


class TillAlarms(Struct, frozen=True, forbid_unknown_fields=True, tag="till_alarms"):
    """What does not fit together in the history of tills."""

    retailer: Name | None = None
    settled: bool = False
    after: Annotated[int, Meta(ge=0)] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_TILLS)] = MAX_TILLS


class TillSettle(Struct, frozen=True, forbid_unknown_fields=True, tag="till_settle"):
    """Put an alarm right, and say why."""

    retailer: Name
    store: Name
    till: Name
    alarm: Annotated[int, Meta(ge=1)]
    note: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]


class QuarantineList(Struct, frozen=True, forbid_unknown_fields=True, tag="quarantine_list"):
    """What revoked tills sent."""


class QuarantineRelease(Struct, frozen=True, forbid_unknown_fields=True, tag="quarantine_release"):
    """Take a till's quarantined batches after all."""

    retailer: Name
    store: Name
    till: Name


class DeadLettersList(Struct, frozen=True, forbid_unknown_fields=True, tag="dead_letters_list"):
    """The newest records that could not be taken."""

    limit: Annotated[int, Meta(ge=1, le=MAX_LETTERS)] = 1000


class DeadLettersRetry(Struct, frozen=True, forbid_unknown_fields=True, tag="dead_letters_retry"):
    """Try dead letters again: these, or all of them."""

    ids: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1, max_length=MAX_LETTERS)] | None = None


class BatchImport(Struct, frozen=True, forbid_unknown_fields=True, tag="batch_import"):
    """Take batches that an agent has exported to a file."""

    batches: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=MAX_BATCHES)]


class RecordOriginal(Struct, frozen=True, forbid_unknown_fields=True, tag="record_original"):
    """Read the bytes that a POS sent with a record, for a reason."""

    retailer: Name
    store: Name
    till: Name
    epoch: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    seq: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    reason: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]


class SourceCreate(Struct, frozen=True, forbid_unknown_fields=True, tag="source_create"):
    """Let a cloud POS's webhooks in. Name and till are the kind's unless they are given."""

    kind: Kind
    retailer: Name
    store: Name
    name: Name | None = None
    till: Name | None = None
    adapter: Name | None = None
    url: Annotated[str, Meta(max_length=MAX_TEXT)] = ""
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] | None = None
    zone: Annotated[str, Meta(max_length=MAX_SHORT)] = "UTC"
    options: Annotated[str, Meta(max_length=MAX_OPTIONS)] = "{}"
    secret: str | None = None


class SourceList(Struct, frozen=True, forbid_unknown_fields=True, tag="source_list"):
    """Every source of webhooks, without its secrets."""

    retailer: Name | None = None


class SourceRevoke(Struct, frozen=True, forbid_unknown_fields=True, tag="source_revoke"):
    """Take nothing more of a source."""

    kind: Kind
    name: Name | None = None


class SourceRotate(Struct, frozen=True, forbid_unknown_fields=True, tag="source_rotate"):
    """Put another secret in force; the former one is taken for a while yet."""

    kind: Kind
    name: Name | None = None
    secret: str | None = None
    overlap_ms: Annotated[int, Meta(ge=0, le=MAX_TTL_MS)] = DAY_MS


class SourceOrders(Struct, frozen=True, forbid_unknown_fields=True, tag="source_orders"):
    """The orders that a source has named without telling what is in them."""

    kind: Kind
    name: Name | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LETTERS)] = 1000


class Rebuild(Struct, frozen=True, forbid_unknown_fields=True, tag="rebuild"):
    """Drop every projection and fold the ledger again."""


Command = (
    TokenCreate
    | KeyCreate
    | KeyRotateBox
    | KeyRotateEscrow
    | KeyForgetEscrow
    | CampaignPut
    | CampaignEnd
    | CampaignList
    | FleetCommand
    | TillGaps
    | TillAlarms
    | TillSettle
    | QuarantineList
    | QuarantineRelease
    | DeadLettersList
    | DeadLettersRetry
    | BatchImport
    | RecordOriginal
    | SourceCreate
    | SourceList
    | SourceRevoke
    | SourceRotate
    | SourceOrders
    | SourceReplace
    | Rebuild
    | users.UserCommand
)
SourceCommand = SourceCreate | SourceList | SourceRevoke | SourceRotate | SourceOrders | SourceReplace


@dataclass(frozen=True, slots=True)
class Office:
    """Runs commands."""

    database: Database
    devices: Devices
    book: CampaignBook
    deliveries: Deliveries
    intake: Intake
    hooks: HookIntake
    fleet: FleetOffice
    rebuild: Callable[[], Awaitable[Mapping[str, object]]]
    originals: Originals
    keys: ServerKeys
    clock: Clock
    random: Randomness
    events: Events
    folder: Folder
    begin_again: Callable[[], None]
    """Have a running server read everything anew, as soon as the command has been answered."""

    async def run(self, command: Command) -> Result:
        """Carry out a command and give its result as JSON can hold it. Raises `TillstreamError`."""
        result = await self._do(command)
        self.events.commanded(str(command.__struct_config__.tag))
        return result

    async def _do(self, command: Command) -> Result:
        match command:
            case TokenCreate():
                return await self._create_token(command)
            case KeyCreate():
                return await self._create_key(command)
            case KeyRotateBox():
                return self._changed(keys.rotate_box(self.folder.keys, self.random, self.clock.now_ms()))
            case KeyRotateEscrow():
                return self._rotate_escrow()
            case KeyForgetEscrow():
                return self._forget_escrow()
            case CampaignPut():
                return await self._put_campaign(command)
            case CampaignEnd():
                return await self._end_campaign(command)
            case CampaignList():
                return await self._list_campaigns(command)
            case TillGaps():
                return await self._gaps(command)
            case TillAlarms():
                return await self._alarms(command)
            case TillSettle():
                return await self._settle(command)
            case QuarantineList():
                async with self.database.read() as conn:
                    return {"quarantine": await quarantine.listing(conn)}
            case QuarantineRelease():
                return await self._release(command)
            case DeadLettersList():
                return await self._list_dead_letters(command)
            case DeadLettersRetry():
                return (await self.intake.replay(command.ids, self.hooks.read_again)).plain()
            case BatchImport():
                return await self._import(command)
            case RecordOriginal():
                return await self._read_original(command)
            case SourceCreate() | SourceList() | SourceRevoke() | SourceRotate() | SourceOrders() | SourceReplace():
                return await self._do_with_sources(command)
            case users.UserCreate() | users.UserList() | users.UserRemove() | users.UserPassword():
                return await users.do(self.database, command, self.clock.now_ms(), self.random)
            case Rebuild():
                return dict(await self.rebuild())
            case _:
                return await self.fleet.do(command)

    async def _create_token(self, command: TokenCreate) -> Result:
        if command.till is not None and command.uses != 1:
            raise InvalidInput("a token for one till has one use", field="uses", limit="1", hint="leave out the till")
        grant = auth.Grant(command.retailer, command.store, command.till)
        now_ms = self.clock.now_ms()
        async with self.database.write() as conn:
            token = await auth.create_token(
                conn,
                grant,
                uses=command.uses,
                ttl_ms=command.ttl_ms,
                now_ms=now_ms,
                fingerprint=fingerprint(self.keys.sign.public),
                random=self.random,
            )
        return {"token": token.text(), "uses": command.uses, "expires_ms": now_ms + command.ttl_ms}

    async def _create_key(self, command: KeyCreate) -> Result:
        async with self.database.write() as conn:
            key = await auth.create_key(conn, command.role, now_ms=self.clock.now_ms(), random=self.random)
        return {"key": key, "role": command.role}

    def _rotate_escrow(self) -> Result:
        """The new private half is on the disk before any till seals to it."""
        private = keys.new_escrow(self.random)
        self.folder.write_escrow(private)
        changed = self._changed(keys.rotate_escrow(self.folder.keys, private, self.clock.now_ms()))
        return {**changed, "escrow_private_key": str(self.folder.escrow_file)}

    def _forget_escrow(self) -> Result:
        forgotten = keys.forget_escrow(self.folder.keys)
        if forgotten:
            self.begin_again()
        return {"forgotten": forgotten}

    def _changed(self, now: ServerKeys) -> Result:
        self.begin_again()
        return now.facts()

    async def _put_campaign(self, command: CampaignPut) -> Result:
        campaign = campaigns.parse(command.document.encode())
        async with self.database.write() as conn:
            changed = await self.book.put(conn, command.retailer, campaign, self.clock.now_ms())
        if changed:
            await self._book_changed(command.retailer, campaign.id, "put")
        return {"campaign": campaign.id, "version": campaign.version, "changed": changed}

    async def _end_campaign(self, command: CampaignEnd) -> Result:
        async with self.database.write() as conn:
            await self.book.end(conn, command.retailer, command.campaign)
        await self._book_changed(command.retailer, command.campaign, "ended")
        return {"campaign": command.campaign, "active": False}

    async def _book_changed(self, retailer: str, campaign: str, change: str) -> None:
        async with self.database.read() as conn:
            await self.book.refresh(conn, retailer)
        self.events.campaign_changed(retailer, campaign, change)
        await self.deliveries.announce(retailer)

    async def _list_campaigns(self, command: CampaignList) -> Result:
        async with self.database.read() as conn:
            entries = await self.book.entries(conn, command.retailer)
        return {
            "campaigns": [
                {
                    "retailer": entry.retailer,
                    "active": entry.active,
                    "created_ms": entry.created_ms,
                    "campaign": to_builtins(entry.campaign),
                }
                for entry in entries
            ]
        }

    async def _read_original(self, command: RecordOriginal) -> Result:
        async with self.database.read() as conn:
            place = await tills.require(conn, command.retailer, command.store, command.till)
            found = await self.originals.read(conn, place.till_id, bytes.fromhex(command.epoch), command.seq)
        self.events.original_read(place.till_id, command.epoch, command.seq, command.reason)
        return {"media_type": found.media_type, "sha256": found.sha256.hex(), "data": found.data}

    async def _release(self, command: QuarantineRelease) -> Result:
        async with self.database.read() as conn:
            place = await tills.require(conn, command.retailer, command.store, command.till)
        return {"released": await self.intake.release(place.till_id)}

    async def _list_dead_letters(self, command: DeadLettersList) -> Result:
        async with self.database.read() as conn:
            rows = await conn.exec_driver_sql(
                "SELECT d.id, d.retailer, t.store, t.till, hex(d.till_id), hex(d.epoch), d.seq, d.code, d.reason,"
                " d.received_ms FROM dead_letter d LEFT JOIN till t ON t.till_id = d.till_id"
                " ORDER BY d.id DESC LIMIT ?",
                (command.limit,),
            )
            names = ("id", "retailer", "store", "till", "till_id", "epoch", "seq", "code", "reason", "received_ms")
            return {"dead_letters": [dict(zip(names, row, strict=True)) for row in rows]}

    async def _gaps(self, command: TillGaps) -> Result:
        async with self.database.read() as conn:
            place = await tills.require(conn, command.retailer, command.store, command.till)
            found = await gaps.of_till(conn, place.till_id)
            return {"gaps": [gap.plain() for gap in found], "lost": await gaps.lost_of(conn, place.till_id)}

    async def _alarms(self, command: TillAlarms) -> Result:
        limit = command.limit
        async with self.database.read() as conn:
            rows = await alarms.listing(
                conn, retailer=command.retailer, settled=command.settled, after=command.after, limit=limit
            )
        return {"alarms": rows, "next": rows[-1]["id"] if len(rows) == limit else None}

    async def _settle(self, command: TillSettle) -> Result:
        async with self.database.write() as conn:
            place = await tills.require(conn, command.retailer, command.store, command.till)
            settled = await alarms.settle(conn, place.till_id, command.alarm, command.note, self.clock.now_ms())
        return settled.plain()

    async def _import(self, command: BatchImport) -> Result:
        """Take what can be taken; a batch that cannot is told of, and keeps nobody waiting."""
        counts: Counter[str] = Counter()
        refused: list[ErrorBody] = []
        for data in command.batches:
            try:
                outcome = await self.intake.take_imported(decode_batch(data))
            except LedgerFault:
                raise
            except TillstreamError as error:
                refused.append(error.body())
            else:
                counts.update(outcome.counts)
        return {"batches": len(command.batches), **counts, "refused": [to_builtins(body) for body in refused]}

    async def _do_with_sources(self, command: SourceCommand) -> Result:
        match command:
            case SourceCreate():
                return await self._create_source(command)
            case SourceList():
                async with self.database.read() as conn:
                    return {"sources": await sources.listing(conn, command.retailer)}
            case SourceRevoke():
                return await self._revoke_source(command)
            case SourceRotate():
                return await self._rotate_source(command)
            case SourceReplace():
                return await self._replace_source(command)
            case SourceOrders():
                async with self.database.read() as conn:
                    till_id = await sources.require_id(conn, command.kind, command.name or command.kind)
                    return {"orders": await hook_book.hinted(conn, till_id, command.limit)}

    async def _create_source(self, command: SourceCreate) -> Result:
        kind = command.kind
        name = command.name or kind
        new = sources.NewSource(
            kind=kind,
            name=name,
            retailer=command.retailer,
            store=command.store,
            till=command.till or name,
            adapter=command.adapter or (sources.CANONICAL if kind == "generic" else kind),
            base_url=command.url,
            currency=command.currency,
            zone=command.zone,
            options=command.options,
        )
        secret = sources.secret_for(kind, command.secret, self.random)
        async with self.database.write() as conn:
            now_ms = self.clock.now_ms()
            till_id = await sources.create(conn, self.keys, new, secret, now_ms=now_ms, random=self.random)
        self.events.source_changed(kind, name, "created")
        made: Result = {"till_id": till_id.hex(), "kind": kind, "name": name, "till": new.till, "url": new.url}
        return made if command.secret is not None else {**made, "secret": secret}

    async def _revoke_source(self, command: SourceRevoke) -> Result:
        name = command.name or command.kind
        async with self.database.write() as conn:
            till_id = await sources.revoke(conn, command.kind, name, self.clock.now_ms())
        self.devices.forget()
        self.events.source_changed(command.kind, name, "revoked")
        return {"till_id": till_id.hex(), "revoked": True}

    async def _replace_source(self, command: SourceReplace) -> Result:
        async with self.database.write() as conn:
            till_id, new = await replace(conn, self.keys, command, random=self.random)
        self.devices.forget()
        self.events.source_changed(new.kind, new.name, "replaced")
        return {"till_id": till_id.hex(), "kind": new.kind, "name": new.name, "till": new.till, "url": new.url}

    async def _rotate_source(self, command: SourceRotate) -> Result:
        name = command.name or command.kind
        secret = sources.secret_for(command.kind, command.secret, self.random)
        until_ms = self.clock.now_ms() + command.overlap_ms
        async with self.database.write() as conn:
            till_id = await sources.rotate(
                conn, self.keys, command.kind, name, secret, until_ms=until_ms, random=self.random
            )
        self.events.source_changed(command.kind, name, "rotated")
        made: Result = {"till_id": till_id.hex(), "former_until_ms": until_ms}
        return made if command.secret is not None else {**made, "secret": secret}
