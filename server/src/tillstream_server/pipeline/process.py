"""`Pipeline.process`: the heart of the server. A sealed batch goes in; ledger, projections and offers come out.

    verify the chunk's header · open and decode each record, split person from purchase (a worker thread)
    one transaction: sort out repeats → subjects → dedupe by content → fold → write → vault → triggers
    then the caller acknowledges, and pushes

Whatever a batch causes is in that one transaction, so that a repeat finds all of it or nothing. What cannot be taken
is dead-lettered and acknowledged, and never holds up its neighbours; nor does a record that the server itself fails
over, for whose sake a batch is taken in several transactions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.events import MemberIdentified, OfferAnswered, OfferShown
from tillstream_protocol.facts import (
    identification_facts,
    identification_occasion_key,
    sale_facts,
    sale_occasion_key,
)
from tillstream_protocol.framing import MAX_SEQ, ChunkHeader, verify_header
from tillstream_protocol.limits import DEFAULT, Limits
from tillstream_protocol.messages import Batch, DeadLetter, Push
from tillstream_protocol.ranges import collect, merge
from tillstream_protocol.transaction import Transaction

from ..campaigns.triggers import Fired, Marked
from ..clock import Clock
from ..customers.identity import Identities, Name, Namer, Resolved
from ..customers.vault import Item, Vault
from ..devices import Device
from ..keys import Randomness, ServerKeys
from ..ledger import lineage, received
from ..ledger.database import Database
from . import facts, projections
from .facts import Placed
from .isolation import take_apart
from .members import LazyFacts
from .opening import ForeignChunk, Opened, OpenedBatch, Opener, Report, unheard
from .outcome import Outcome
from .projections import Projector
from .sales import Entry, voided
from .sorting import Sorted, sort
from .split import IDENTIFIER, OPERATION, ORIGINAL, PARTICULARS


class Campaigns(Protocol):
    """What a processed record sets off, inside the pipeline's transaction. `campaigns.triggers` has it."""

    async def fire(self, conn: AsyncConnection, facts: Sequence[Fired]) -> list[tuple[bytes, Push]]:
        """Keep the till's decisions, make the server's, and give what is to be pushed to which till."""
        ...

    async def mark(self, conn: AsyncConnection, events: Sequence[Marked]) -> None:
        """Note what tills report about offers."""
        ...


@dataclass(slots=True)
class _Effects:
    """What folding a batch has come to, beyond the projections."""

    fired: list[Fired] = field(default_factory=list)
    marked: list[Marked] = field(default_factory=list)


class Pipeline:
    """Takes batches. One instance a database; batches may come at the same time, and are written one by one."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        keys: ServerKeys,
        campaigns: Campaigns,
        clock: Clock,
        randomness: Randomness,
        *,
        limits: Limits = DEFAULT,
        report: Report = unheard,
    ) -> None:
        """`report` is told of the server's own defects that a record has set off."""
        self._database = database
        self._vault = vault
        self._keys = keys
        self._campaigns = campaigns
        self._clock = clock
        self._report = report
        self._opener = Opener(keys, limits, report)
        self._identities = Identities(randomness)

    async def process(self, device: Device, batch: Batch) -> Outcome:
        """Take a batch from the device that wrote its chunk; when this returns, all of it is on the disk.

        Raises `BadSignature`, `DamagedChunk`, `ForeignChunk`, `CannotOpen` or `DamagedBatch` for a batch that cannot
        be read as one, and `LedgerFault` when the database fails; then nothing was taken.
        """
        header = ChunkHeader.decode(batch.header)
        verify_header(batch.header, device.public_key)
        if header.till != device.till_id:
            raise ForeignChunk("the chunk was written by another till", field="header.till")
        opened = await asyncio.to_thread(self._opener.open, device, header, batch)
        return await take_apart(partial(self._take, device), opened, self._report)

    async def _take(self, device: Device, opened: OpenedBatch) -> Outcome:
        """One transaction."""
        async with self._database.write() as conn:
            taking = _Taking(self._vault, self._keys, self._campaigns, self._identities, conn, device, opened)
            outcome = await taking.run(self._clock.now_ms())
        self._identities.remember(taking.resolved, taking.names)
        return outcome

    def forget(self) -> None:
        """Drop cached identities: an erasure changed them."""
        self._identities.forget()


class _Taking:
    """One batch inside its transaction."""

    def __init__(
        self,
        vault: Vault,
        keys: ServerKeys,
        campaigns: Campaigns,
        identities: Identities,
        conn: AsyncConnection,
        device: Device,
        opened: OpenedBatch,
    ) -> None:
        self._vault = vault
        self._campaigns = campaigns
        self._identities = identities
        self._own = Namer(keys.identifier_key, device.retailer).own()
        self._offer_key = keys.offer_key(device.retailer)
        self._conn = conn
        self._device = device
        self._opened = opened
        self._now_ms = 0
        self._fresh: set[bytes] = set()
        self.resolved = Resolved({}, frozenset())
        self.names: set[Name] = set()

    async def run(self, now_ms: int) -> Outcome:
        """Take the batch at `now_ms`."""
        self._now_ms = now_ms
        conn, opened, header = self._conn, self._opened, self._opened.header
        seqs = [item.seq for item in opened.items]
        stretch = await received.near(conn, header.till, header.epoch, received.spanning(seqs))
        found = await sort(conn, opened, stretch)
        placed = await self._place(found.new)
        pushes = await self._write(placed)
        lost = await facts.write_lost(conn, self._device, placed, now_ms)
        await facts.write_dead(conn, self._device, opened, found.dead, now_ms)
        await facts.drop_dead(conn, header, found.superseded)
        await facts.write_conflicts(conn, opened, found.conflicts, now_ms)
        acked = await received.add(conn, stretch, merge(collect(seqs)))
        noticed = await lineage.note(conn, header, now_ms)
        if found.new:
            reached = lineage.Mark(header.till, header.epoch, min(max(item.seq for item in found.new), MAX_SEQ - 1) + 1)
            noticed += await lineage.reached(conn, reached, now_ms)
        counts = _counts(found, placed)
        await facts.count_refusals(conn, ((reason, n) for reason, n in counts.items() if reason != "stored"))
        return Outcome(
            reply_acked=acked,
            repeated=found.repeated,
            dead=tuple(_dead_letters(found)),
            counts=counts,
            pushes=tuple(pushes),
            conflicts=tuple(item.seq for _, item in found.conflicts),
            alarms=tuple(noticed),
            lost=lost,
            gaps=opened.gaps,
        )

    async def _place(self, new: Sequence[Opened]) -> list[Placed]:
        """Give each new record its subject and its place in the ledger."""
        hashes = {name.hash for o in new for name in o.names}
        if any(_names_somebody(o) for o in new):
            hashes.add(self._own)
        self.resolved = await self._identities.resolve(self._conn, self._device.retailer, hashes, self._now_ms)
        idems = {o.idem for o in new if o.idem is not None}
        contents = await facts.known_contents(self._conn, self._device.retailer, idems)
        self._fresh = idems - {idem for idem, _ in contents}
        free = await facts.next_id(self._conn)
        placed = []
        for o in new:
            subjects = tuple(dict.fromkeys(self.resolved.subjects[name.hash] for name in o.names))
            known = None if o.idem is None else contents.get((o.idem, o.content))
            subject = subjects[0] if subjects else None
            placed.append(Placed(o, known or free, known is not None, subject, subjects[1:]))
            if known is None:
                if o.idem is not None:
                    contents[o.idem, o.content] = free
                free += 1
        return placed

    async def _write(self, placed: Sequence[Placed]) -> list[tuple[bytes, Push]]:
        """Write new records and everything they cause."""
        if not placed:
            return []
        conn = self._conn
        entries = {
            p.opened.seq: _entry(p, self._device) for p in placed if isinstance(p.opened.parts.body, Transaction)
        }
        subjects = {p.subject for p in placed if p.subject is not None}
        retailer = self._device.retailer
        projector = await projections.load(conn, retailer, list(entries.values()), subjects, self._fresh)
        effects = await asyncio.to_thread(self._fold, placed, entries, projector)
        await facts.write_records(conn, self._device, self._opened.header.epoch, placed, self._now_ms)
        await projections.write(conn, projector)
        await self._vault.write(conn, list(self._items(placed)))
        pushes = await self._campaigns.fire(conn, effects.fired) if effects.fired else []
        await self._campaigns.mark(conn, effects.marked)
        return pushes

    def _fold(self, placed: Sequence[Placed], entries: Mapping[int, Entry], projector: Projector) -> _Effects:
        """Fold the records in their order, and note what each may set off as things stand right after it."""
        effects = _Effects()
        for p in placed:
            body = p.opened.body
            if isinstance(body, Transaction):
                fired = self._fold_transaction(p, body, entries[p.opened.seq], projector)
                if fired is not None:
                    effects.fired.append(fired)
            elif p.duplicate:
                continue
            elif isinstance(body, MemberIdentified):
                effects.fired.append(self._identified(p, body, projector))
            elif isinstance(body, (OfferShown, OfferAnswered)):
                effects.marked.append(Marked(self._device, body, p.opened.at_ms))
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
        at_ms, device = p.opened.at_ms, self._device
        known = {} if member is None else member.facts(device.currency, at_ms, member.last_visit_ms())
        make = partial(identification_facts, body, retailer=device.retailer, store=device.store, at_ms=at_ms)
        return self._fired(p, body, LazyFacts(make, known), identification_occasion_key(body, self._device.till_id))

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
            device=self._device,
            record=o.record,
            body=body,
            subject=p.subject,
            store=o.store,
            facts=known,
            occasion_key=occasion,
            offer_key=self._offer_key,
            trigger="transaction" if isinstance(body, Transaction) else "member_identified",
            epoch=self._opened.header.epoch,
            seq=o.seq,
            received_ms=self._now_ms,
            age_ms=max(0, self._now_ms - o.record.captured_at),
            decides=decides,
        )

    def _items(self, placed: Sequence[Placed]) -> Iterator[Item]:
        """What of the new records goes to the vault, and under whose key."""
        epoch = self._opened.header.epoch
        subjects = self.resolved.subjects
        for p in placed:
            if p.duplicate:
                continue
            parts = p.opened.parts
            record = epoch + p.opened.seq.to_bytes(8, "big")
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


def _entry(placed: Placed, device: Device) -> Entry:
    o = placed.opened
    body = o.parts.body
    assert isinstance(body, Transaction)
    assert o.idem is not None
    return Entry(
        idem=o.idem,
        ledger_id=placed.ledger_id,
        captured_ms=o.record.captured_at,
        seq=o.seq,
        content=o.content,
        body=body,
        till_id=device.till_id,
        subject=placed.subject,
        targets=voided(body, o.links),
    )


def _names_somebody(o: Opened) -> bool:
    """Whether something of a record goes to the vault that may have no member."""
    parts = o.parts
    return parts.particulars is not None or parts.operation is not None or parts.original is not None


def _counts(found: Sorted, placed: Sequence[Placed]) -> dict[str, int]:
    duplicates = sum(p.duplicate for p in placed)
    return {
        "stored": len(placed) - duplicates,
        "repeat": found.repeated,
        "duplicate": duplicates,
        "dead": len(found.dead),
        "conflict": len(found.conflicts),
    }


def _dead_letters(found: Sorted) -> Iterator[DeadLetter]:
    for item in (*(refused for _, refused in found.dead), *found.still_dead):
        yield DeadLetter(item.seq, item.code, item.reason)
    for _, opened in found.conflicts:
        yield DeadLetter(opened.seq, "conflict", "another content came under this name before")
