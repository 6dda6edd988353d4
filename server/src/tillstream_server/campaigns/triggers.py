"""What a processed record sets off: decisions stored for ever, and offers on their way to the till.

All of it happens inside the pipeline's transaction. First the decisions that the till made are kept, each with the
verdict of deciding it again here; then the server decides on what the till could not. An offer id is decided once:
whichever decision comes first stands, and every later one is left out. The exception is a refusal to a campaign of
once a member: it is not kept, since it would stand in the way of the member's one offer for ever.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.codec import encode
from tillstream_protocol.decisions import Decision, Occasion, Rule, Trigger, decide, due
from tillstream_protocol.events import MemberIdentified, OfferAnswered, OfferShown, Record
from tillstream_protocol.facts import LazyFacts, basket_occasion_key
from tillstream_protocol.messages import OfferPush, PackPush, Push, PushBody
from tillstream_protocol.rules import Bound
from tillstream_protocol.transaction import Transaction

from ..devices import Device
from ..ledger import outbox, schema
from . import leases
from .book import CampaignBook, Shelf
from .packs import Packs


class Fired(Struct, frozen=True, gc=False):
    """A record that may set off campaigns, in the order of its batch. Times are milliseconds.

    `facts` is complete, `member.*` included; `subject` is the person, where one is known; `age_ms` says how long ago
    the record was captured. `offer_key` is what the retailer's offers are named with.
    """

    ledger_id: int
    device: Device
    record: Record
    body: Transaction | MemberIdentified
    subject: bytes | None
    store: str
    facts: LazyFacts
    occasion_key: bytes
    offer_key: bytes
    trigger: Trigger
    epoch: bytes
    seq: int
    received_ms: int
    age_ms: int
    decides: bool = True
    """Whether the server may decide on it: not on a sale that was voided, or replaced by a revision."""

    def occasion(self) -> Occasion:
        """What the server decides about."""
        return Occasion(
            trigger=self.trigger,
            store=self.store,
            facts=self.facts,
            record_key=self.occasion_key,
            member_key=self.subject,
            offer_key=self.offer_key,
            now_ms=self.received_ms,
            age_ms=self.age_ms,
            side="server",
        )


@dataclass(frozen=True, slots=True)
class Marked:
    """What a till reports about an offer, at `at_ms` by the till's clock."""

    device: Device
    body: OfferShown | OfferAnswered
    at_ms: int


class Triggers:
    """Decides on what the pipeline has just written."""

    def __init__(self, book: CampaignBook, packs: Packs) -> None:
        self._book = book
        self._packs = packs

    async def fire(self, conn: AsyncConnection, facts: Sequence[Fired]) -> list[tuple[bytes, Push]]:
        """Keep the edge's decisions, make the server's, and give the pushes with the till each is for."""
        retailers = {fired.device.retailer for fired in facts}
        shelves = {retailer: await self._book.refresh(conn, retailer) for retailer in retailers}
        due_now = _due(shelves, facts)
        if not any(due_now) and not any(fired.record.decisions for fired in facts):
            return []
        settlement = await _open(conn, facts, due_now)
        for fired, rules in zip(facts, due_now, strict=True):
            settlement.keep_edge(fired, shelves[fired.device.retailer])
            settlement.decide(fired, rules)
        now_ms = max(fired.received_ms for fired in facts)
        await settlement.write(conn, now_ms)
        return await self._push(conn, settlement, now_ms)

    async def mark(self, conn: AsyncConnection, events: Sequence[Marked]) -> None:
        """Note when offers were first shown, by the till that shows them; an answer says that one was shown too."""
        if events:
            await conn.exec_driver_sql(
                "UPDATE decision SET shown_ms = ? WHERE offer_id = ? AND till_id = ?"
                " AND (shown_ms IS NULL OR shown_ms > ?)",
                [(e.at_ms, e.body.offer_id, e.device.till_id, e.at_ms) for e in events],
            )

    async def _push(self, conn: AsyncConnection, settlement: _Settlement, now_ms: int) -> list[tuple[bytes, Push]]:
        for device in settlement.spent_out.values():
            pack = await self._packs.renew(conn, device, now_ms)
            if pack is not None:
                body = PackPush(pack)
                settlement.bodies[device.till_id].append((body, now_ms + self._packs.lifetime_ms))
        pushes: list[tuple[bytes, Push]] = []
        for till_id, bodies in settlement.bodies.items():
            pushes += [(till_id, push) for push in await outbox.enqueue(conn, till_id, bodies, now_ms)]
        return pushes


class _Reach:
    """How far the numbers of many occasions go."""

    def __init__(self, occasions: Sequence[LazyFacts]) -> None:
        self._occasions = occasions
        self._ends: dict[str, tuple[float, float] | None] = {}

    def meets(self, bound: Bound) -> bool:
        """Whether any of them may have what a bound asks for."""
        if bound.variable not in self._ends:
            found = [facts.get(bound.variable) for facts in self._occasions]
            numbers = [one for one in found if isinstance(one, (int, float))]
            self._ends[bound.variable] = (min(numbers), max(numbers)) if numbers else None
        ends = self._ends[bound.variable]
        return ends is not None and bound.admits(*ends)


def _due(shelves: Mapping[str, Shelf], facts: Sequence[Fired]) -> list[dict[bytes, Rule]]:
    """For each record the rules that apply, best first, by the offer that each has.

    Most rules apply to none of a batch: each goes through all records that its trigger may fire on at one go, or
    through none, where a bound tells that of all of them.
    """
    found: list[dict[bytes, Rule]] = [{} for _ in facts]
    waiting: defaultdict[tuple[str, Trigger], list[tuple[Fired, dict[bytes, Rule]]]] = defaultdict(list)
    for fired, its in zip(facts, found, strict=True):
        if fired.decides:
            waiting[fired.device.retailer, fired.trigger].append((fired, its))
    for (retailer, trigger), records in waiting.items():
        reach = _Reach([fired.facts for fired, _ in records])
        for rule in shelves[retailer].by_trigger.get(trigger, ()):
            if rule.bound is not None and not reach.meets(rule.bound):
                continue
            matches = rule.matches
            for fired, its in [one for one in records if matches(one[0].facts) is True]:
                name = due(rule, fired.occasion())
                if name is not None:
                    its[name] = rule
    return found


async def _open(conn: AsyncConnection, facts: Sequence[Fired], due_now: Sequence[Mapping[bytes, Rule]]) -> _Settlement:
    edge = [decision for fired in facts for decision in fired.record.decisions]
    names = {name for rules in due_now for name in rules} | {decision.offer_id for decision in edge}
    budgets = {
        (fired.device.retailer, rule.campaign.id)
        for fired, rules in zip(facts, due_now, strict=True)
        for rule in rules.values()
        if rule.campaign.budget is not None
    }
    return _Settlement(
        known=await _outcomes(conn, names),
        draws=await leases.Draws.open(conn, budgets),
        held=await leases.find(conn, {decision.lease for decision in edge if decision.lease is not None}),
    )


class _Settlement:
    """What one call of `fire` has settled so far. `known` holds the outcome of every offer id already decided."""

    def __init__(
        self,
        *,
        known: dict[bytes, str],
        draws: leases.Draws,
        held: Mapping[bytes, leases.Held],
    ) -> None:
        self._known = known
        self._draws = draws
        self._held = held
        self._spent: Counter[bytes] = Counter()
        self._rows: list[tuple[object, ...]] = []
        self.bodies: defaultdict[bytes, list[tuple[PushBody, int]]] = defaultdict(list)
        """What is for each till, with the time after which it is of no use."""
        self.spent_out: dict[bytes, Device] = {}
        """The devices that have used up a lease, by till."""

    def keep_edge(self, fired: Fired, shelf: Shelf) -> None:
        """Keep what the till decided, with a verdict on each decision."""
        for decision in fired.record.decisions:
            if decision.offer_id not in self._known:
                agreed = self._within_lease(fired, decision) and _decided_alike(fired, decision, shelf)
                self._keep(fired, decision, "agreed" if agreed else "differs")

    def decide(self, fired: Fired, rules: Mapping[bytes, Rule]) -> None:
        """Make the server's own decisions on a record that these rules apply to."""
        decisions = decide(
            rules.values(),
            fired.occasion(),
            draw=partial(self._draws.draw, fired.device.retailer),
            decided=self._known,
            made=self._made(fired, rules),
        )
        for decision in decisions:
            if decision.outcome == "offered":
                basket = fired.body.basket if isinstance(fired.body, MemberIdentified) else ""
                body = OfferPush(decision, fired.epoch, fired.seq, basket)
                self.bodies[fired.device.till_id].append((body, decision.expires_ms))
            elif rules[decision.offer_id].campaign.once_per == "member":
                continue
            self._keep(fired, decision, None)

    async def write(self, conn: AsyncConnection, now_ms: int) -> None:
        """Write the decisions and what they drew."""
        if self._rows:
            await conn.exec_driver_sql(_INSERT_DECISION, self._rows)
        await self._draws.write(conn, now_ms)

    def _made(self, fired: Fired, rules: Mapping[bytes, Rule]) -> int:
        """How many offers this occasion has already, by the till or by an earlier revision of the record."""
        names = {decision.offer_id for decision in fired.record.decisions}
        names.update(name for name, rule in rules.items() if rule.campaign.once_per == "record")
        return sum(self._known.get(name) == "offered" for name in names)

    def _keep(self, fired: Fired, decision: Decision, verdict: str | None) -> None:
        self._known[decision.offer_id] = decision.outcome
        pushed = decision.outcome == "offered" and decision.decided_at == "server"
        self._rows.append(
            (
                decision.offer_id,
                fired.device.retailer,
                fired.store,
                fired.device.till_id,
                fired.ledger_id,
                decision.campaign,
                decision.campaign_version,
                decision.outcome,
                decision.reason,
                decision.decided_at,
                decision.decided_ms,
                decision.expires_ms,
                decision.lease,
                fired.subject,
                verdict,
                encode(decision),
                fired.received_ms if pushed else None,
            )
        )

    def _within_lease(self, fired: Fired, decision: Decision) -> bool:
        """Count what the till drew, and say whether it was the till's to draw."""
        if decision.lease is None:
            if decision.reason == "budget_exhausted":
                self.spent_out[fired.device.till_id] = fired.device
            return True
        held = self._held.get(decision.lease)
        if held is None or (held.till_id, held.campaign) != (fired.device.till_id, decision.campaign):
            return False
        if decision.outcome == "offered":
            self._spent[held.id] += 1
        spent = held.spent + self._spent[held.id]
        if spent >= held.units:
            self.spent_out[fired.device.till_id] = fired.device
        return spent <= held.units


def _decided_alike(fired: Fired, decision: Decision, shelf: Shelf) -> bool:
    """Whether the version that the till decided by gives the same decision here."""
    rule = shelf.every.get((decision.campaign, decision.campaign_version))
    if rule is None:
        return False
    stale = rule.campaign.fresh_for_s * 1000 + 1 if decision.reason == "stale" else 0
    occasion = replace(fired.occasion(), side="edge", now_ms=decision.decided_ms, age_ms=stale)
    if rule.campaign.trigger == "basket" and fired.record.basket is not None:
        key = basket_occasion_key(fired.device.till_id, fired.record.basket)
        occasion = replace(occasion, trigger="basket", record_key=key)
    if decision.reason == "clock_untrusted":
        return not fired.record.clock_trusted and due(rule, occasion) == decision.offer_id
    return decide([rule], occasion, draw=lambda _: decision.lease) == [decision]


_INSERT_DECISION: Final = """
INSERT INTO decision (offer_id, retailer, store, till_id, ledger_id, campaign, campaign_version, outcome, reason,
    decided_at, decided_ms, expires_ms, lease, subject, verdict, body, pushed_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


async def _outcomes(conn: AsyncConnection, names: Collection[bytes]) -> dict[bytes, str]:
    """The outcomes of those of these offer ids that are decided."""
    decision = schema.decision.c
    known: dict[bytes, str] = {}
    for some in leases.slices(names):
        rows = await conn.execute(select(decision.offer_id, decision.outcome).where(decision.offer_id.in_(some)))
        known.update((name, outcome) for name, outcome in rows.all())
    return known
