"""Takes a group of batches inside one transaction: the middle of the pipeline.

    what each batch brings that is new · subjects and places in the ledger, over all batches · fold · write · vault ·
    triggers · what each batch settles of its own till

The batches of a group are of one retailer and of different tills, and are taken in their order, as if one after the
other: so a sale that two of them bring is stored once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.events import MemberIdentified, OfferAnswered, OfferShown
from tillstream_protocol.facts import (
    LazyFacts,
    identification_facts,
    identification_occasion_key,
    sale_facts,
    sale_occasion_key,
)
from tillstream_protocol.framing import MAX_SEQ, ChunkHeader
from tillstream_protocol.messages import DeadLetter, Push, Range
from tillstream_protocol.ranges import collect, merge
from tillstream_protocol.transaction import Transaction

from ..campaigns.triggers import Fired, Marked
from ..customers.identity import Identities, Name, Namer, Resolved
from ..customers.originals import ORIGINAL, record_name
from ..customers.vault import Item, Vault
from ..devices import Device
from ..keys import ServerKeys
from ..ledger import lineage, received
from ..ledger.alarms import Suspicion
from ..ledger.database import Statement
from . import facts, projections
from .facts import Placed
from .opening import Opened, OpenedBatch
from .outcome import Outcome
from .projections import Projector
from .sales import Entry, voided
from .sorting import Sorted, sort
from .split import IDENTIFIER, OPERATION, PARTICULARS
from .tally import tally


class Campaigns(Protocol):
    """What a processed record sets off, inside the pipeline's transaction. `campaigns.triggers` has it."""

    async def fire(self, conn: AsyncConnection, facts: Sequence[Fired]) -> list[tuple[bytes, Push]]:
        """Keep the till's decisions, make the server's, and give what is to be pushed to which till."""
        ...

    async def mark(self, conn: AsyncConnection, events: Sequence[Marked]) -> None:
        """Note what tills report about offers."""
        ...


@dataclass(frozen=True, slots=True)
class Arrived:
    """An opened batch, and the device that wrote its chunk."""

    device: Device
    opened: OpenedBatch


@dataclass(slots=True)
class _Batch:
    """One batch on its way through the transaction."""

    arrived: Arrived
    stretch: received.Stretch
    found: Sorted
    placed: list[Placed] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Records by what became of them."""
        duplicates = sum(p.duplicate for p in self.placed)
        left_out = sum(_left_out(p) for p in self.placed)
        return {
            **({"original_left_out": left_out} if left_out else {}),
            "stored": len(self.placed) - duplicates,
            "repeat": self.found.repeated,
            "duplicate": duplicates,
            "dead": len(self.found.dead),
            "conflict": len(self.found.conflicts),
        }

    def seen(self) -> tuple[Range, ...]:
        """Every seq of the batch, in ranges."""
        return merge(collect(item.seq for item in self.arrived.opened.items))

    def reached(self) -> tuple[ChunkHeader, int | None]:
        """The epoch, and the position that new records have brought it to."""
        new = self.found.new
        position = min(max(item.seq for item in new), MAX_SEQ - 1) + 1 if new else None
        return self.arrived.opened.header, position

    def outcome(
        self,
        acked: tuple[Range, ...],
        lost: tuple[str, ...],
        alarms: Sequence[Suspicion],
        pushes: Sequence[tuple[bytes, Push]],
    ) -> Outcome:
        """What became of the batch; of the pushes, those to its own till."""
        till_id = self.arrived.device.till_id
        return Outcome(
            reply_acked=acked,
            repeated=self.found.repeated,
            dead=tuple(self.dead_letters()),
            counts=self.counts(),
            pushes=tuple(push for push in pushes if push[0] == till_id),
            conflicts=tuple(item.seq for _, item in self.found.conflicts),
            alarms=tuple(alarms),
            lost=lost,
            gaps=self.arrived.opened.gaps,
            tally=tally(p.opened.body for p in self.placed if not p.duplicate),
        )

    def dead_letters(self) -> Iterator[DeadLetter]:
        """What the till is told of records that were not taken."""
        for item in (*(refused for _, refused in self.found.dead), *self.found.still_dead):
            yield DeadLetter(item.seq, item.code, item.reason)
        for _, opened in self.found.conflicts:
            yield DeadLetter(opened.seq, "conflict", "another content came under this name before")


@dataclass(slots=True)
class _Effects:
    """What folding has come to: how the projections change, and what is set off."""

    statements: list[Statement] = field(default_factory=list)
    fired: list[Fired] = field(default_factory=list)
    marked: list[Marked] = field(default_factory=list)


class Taking:
    """One group inside its transaction."""

    def __init__(
        self,
        vault: Vault,
        keys: ServerKeys,
        campaigns: Campaigns,
        identities: Identities,
        conn: AsyncConnection,
        group: Sequence[Arrived],
        now_ms: int,
    ) -> None:
        self._vault = vault
        self._campaigns = campaigns
        self._identities = identities
        self._retailer = group[0].device.retailer
        self._own = Namer(keys.identifier_key, self._retailer).own()
        self._offer_key = keys.offer_key(self._retailer)
        self._conn = conn
        self._group = group
        self._now_ms = now_ms
        self._fresh: set[bytes] = set()
        self.resolved = Resolved({}, frozenset())
        self.names: set[Name] = set()

    async def run(self) -> list[Outcome]:
        """Take the group; the outcome of each batch."""
        batches = await self._sort()
        await self._place(batches)
        pushes = await self._write([p for batch in batches for p in batch.placed])
        outcomes = await self._settle(batches, pushes)
        refused = Counter[str]()
        for outcome in outcomes:
            refused.update(outcome.counts)
        await facts.count_refusals(self._conn, ((reason, n) for reason, n in refused.items() if reason != "stored"))
        return outcomes

    async def _sort(self) -> list[_Batch]:
        """Each batch, with its records told from what was received before."""
        opened = [arrived.opened for arrived in self._group]
        spans = [(o.header.till, o.header.epoch, received.spanning([item.seq for item in o.items])) for o in opened]
        stretches = await received.near_each(self._conn, spans)
        return [
            _Batch(arrived, stretch, await sort(self._conn, arrived.opened, stretch))
            for arrived, stretch in zip(self._group, stretches, strict=True)
        ]

    async def _settle(self, batches: Sequence[_Batch], pushes: Sequence[tuple[bytes, Push]]) -> list[Outcome]:
        """Note what each batch says of its till: what it lost, what cannot be taken, how far its epoch has come."""
        lost = [await self._keep_aside(batch) for batch in batches]
        seen = [(batch.stretch, batch.seen()) for batch in batches]
        acked = await received.add_each(self._conn, seen)
        noticed = await lineage.note_each(self._conn, [batch.reached() for batch in batches], self._now_ms)
        return [
            batch.outcome(ranges, reasons, alarms, pushes)
            for batch, ranges, reasons, alarms in zip(batches, acked, lost, noticed, strict=True)
        ]

    async def _keep_aside(self, batch: _Batch) -> tuple[str, ...]:
        """Keep what a batch says was lost, giving the reasons, and what of it cannot be taken."""
        conn, found, now_ms = self._conn, batch.found, self._now_ms
        device, opened = batch.arrived.device, batch.arrived.opened
        lost = await facts.write_lost(conn, device, batch.placed, now_ms)
        await facts.write_dead(conn, device, opened, found.dead, now_ms)
        await facts.drop_dead(conn, opened.header, found.superseded)
        await facts.write_conflicts(conn, opened, found.conflicts, now_ms)
        return lost

    async def _place(self, batches: Sequence[_Batch]) -> None:
        """Give each new record its subject and its place in the ledger."""
        new = [opened for batch in batches for opened in batch.found.new]
        hashes = {name.hash for o in new for name in o.names}
        if any(_names_somebody(o) for o in new):
            hashes.add(self._own)
        self.resolved = await self._identities.resolve(self._conn, self._retailer, hashes, self._now_ms)
        idems = {o.idem for o in new if o.idem is not None}
        contents, free = await facts.known_contents(self._conn, self._retailer, idems)
        self._fresh = idems - {idem for idem, _ in contents}
        for batch in batches:
            device, epoch = batch.arrived.device, batch.arrived.opened.header.epoch
            own = device.till_id
            for o in batch.found.new:
                subjects = tuple(dict.fromkeys([self.resolved.subjects[name.hash] for name in o.names]))
                known = None if o.idem is None else contents.get((o.idem, o.content))
                subject = subjects[0] if subjects else None
                id_, first_till = known or (free, own)
                placed = Placed(device, epoch, o, id_, known is not None, first_till, subject, subjects[1:])
                batch.placed.append(placed)
                if known is None:
                    if o.idem is not None:
                        contents[o.idem, o.content] = free, own
                    free += 1

    async def _write(self, placed: Sequence[Placed]) -> list[tuple[bytes, Push]]:
        """Write new records and everything they cause."""
        if not placed:
            return []
        conn = self._conn
        entries = [_entry(p) for p in placed]
        subjects = {p.subject for p in placed if p.subject is not None}
        transactions = [entry for entry in entries if entry is not None]
        projector = await projections.load(conn, self._retailer, transactions, subjects, self._fresh)
        effects = await asyncio.to_thread(self._fold, placed, entries, projector)
        await facts.write_records(conn, placed, self._now_ms, effects.statements)
        await self._vault.write(conn, list(self._items(placed)))
        pushes = await self._campaigns.fire(conn, effects.fired) if effects.fired else []
        await self._campaigns.mark(conn, effects.marked)
        return pushes

    def _fold(self, placed: Sequence[Placed], entries: Sequence[Entry | None], projector: Projector) -> _Effects:
        """Fold the records in their order, and note what each may set off as things stand right after it."""
        effects = _Effects()
        for p, entry in zip(placed, entries, strict=True):
            body = p.opened.body
            if entry is not None and isinstance(body, Transaction):
                fired = self._fold_transaction(p, body, entry, projector)
                if fired is not None:
                    effects.fired.append(fired)
            elif p.duplicate:
                continue
            elif isinstance(body, MemberIdentified):
                effects.fired.append(self._identified(p, body, projector))
            elif isinstance(body, (OfferShown, OfferAnswered)):
                effects.marked.append(Marked(p.device, body, p.opened.at_ms))
        effects.statements = projections.statements(projector)
        return effects

    def _fold_transaction(self, p: Placed, body: Transaction, entry: Entry, projector: Projector) -> Fired | None:
        member = None if p.subject is None else projector.members[p.subject]
        last_visit_ms = None if member is None else member.last_visit_ms()
        taken = projector.take(entry)
        if p.duplicate or body.training or body.test:
            return None
        current = taken.holds and not projector.sales.voided(entry.idem)
        if not current and not p.opened.record.decisions:
            return None
        known = {} if member is None else member.facts(body.currency, p.opened.at_ms, last_visit_ms)
        facts_of = LazyFacts(partial(sale_facts, body), known)
        return self._fired(p, body, facts_of, sale_occasion_key(body), decides=current)

    def _identified(self, p: Placed, body: MemberIdentified, projector: Projector) -> Fired:
        member = None if p.subject is None else projector.members[p.subject]
        at_ms, device = p.opened.at_ms, p.device
        known = {} if member is None else member.facts(device.currency, at_ms, member.last_visit_ms())
        make = partial(identification_facts, body, retailer=device.retailer, store=device.store, at_ms=at_ms)
        return self._fired(p, body, LazyFacts(make, known), identification_occasion_key(body, device.till_id))

    def _fired(
        self,
        p: Placed,
        body: Transaction | MemberIdentified,
        known: LazyFacts,
        occasion: bytes,
        *,
        decides: bool = True,
    ) -> Fired:
        o = p.opened
        return Fired(
            ledger_id=p.ledger_id,
            device=p.device,
            record=o.record,
            body=body,
            subject=p.subject,
            store=o.store,
            facts=known,
            occasion_key=occasion,
            offer_key=self._offer_key,
            trigger="transaction" if isinstance(body, Transaction) else "member_identified",
            epoch=p.epoch,
            seq=o.seq,
            received_ms=self._now_ms,
            age_ms=max(0, self._now_ms - o.record.captured_at),
            decides=decides,
        )

    def _items(self, placed: Sequence[Placed]) -> Iterator[Item]:
        """What of the new records goes to the vault, and under whose key."""
        subjects = self.resolved.subjects
        for p in placed:
            if p.duplicate:
                continue
            parts = p.opened.parts
            record = record_name(p.epoch, p.opened.seq)
            for name in p.opened.names:
                if name not in self.names and self._identities.needs_keeping(name, self.resolved):
                    self.names.add(name)
                    yield Item(subjects[name.hash], IDENTIFIER, name.form, name.encoded())
            if parts.particulars is not None:
                yield Item(p.subject or subjects[self._own], PARTICULARS, record, parts.particulars)
            if parts.original is not None:
                yield Item(p.subject or subjects[self._own], ORIGINAL, record, parts.original)
            if parts.operation is not None:
                yield Item(subjects[self._own], OPERATION, record, parts.operation)


def _entry(placed: Placed) -> Entry | None:
    """A record as the fold takes it, if it is a transaction and no mere repeat of what the POS itself has dated."""
    o = placed.opened
    body = o.parts.body
    if not isinstance(body, Transaction) or (placed.duplicate and body.changed_at is not None):
        return None
    assert o.idem is not None
    return Entry(
        idem=o.idem,
        ledger_id=placed.ledger_id,
        captured_ms=o.record.captured_at,
        seq=o.seq,
        content=o.content,
        body=body,
        till_id=placed.device.till_id,
        first_till=placed.first_till,
        subject=placed.subject,
        targets=voided(body, o.links),
    )


def _left_out(placed: Placed) -> bool:
    """Whether a new record came without the bytes that it was read from, for lack of room."""
    original = placed.opened.record.original
    return not placed.duplicate and original is not None and original.form == "left_out"


def _names_somebody(o: Opened) -> bool:
    """Whether something of a record goes to the vault that may have no member."""
    parts = o.parts
    return parts.particulars is not None or parts.operation is not None or parts.original is not None
