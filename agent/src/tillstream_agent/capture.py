"""From what a door was given to a sealed record: the one path that every captured fact takes."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Final

import msgspec

from tillstream_protocol.codec import encode
from tillstream_protocol.decisions import Decision
from tillstream_protocol.errors import InvalidInput, TooLarge
from tillstream_protocol.events import (
    KIND_NUMBERS,
    BasketChanged,
    MemberIdentified,
    OfferAnswered,
    OfferShown,
    Original,
    Record,
    RecordsLost,
    Remark,
    SurveyAnswer,
    WishListEntry,
    version_of,
)
from tillstream_protocol.facts import (
    Goods,
    LazyFacts,
    basket_facts,
    basket_occasion_key,
    identification_facts,
    identification_occasion_key,
    sale_facts,
    sale_occasion_key,
)
from tillstream_protocol.framing import NO_TAG, Spend
from tillstream_protocol.limits import DEFAULT, KIB
from tillstream_protocol.packing import fitted
from tillstream_protocol.redaction import cut_cards, cut_identifiers, cut_original
from tillstream_protocol.transaction import Customer, Identifier, Transaction, check, idempotency_key, reconcile

from .clock import Clock
from .journal import Journal, JournalError, Name, Randomness, Seen
from .offers.edge import Edge

REMEMBERED: Final = 1_000
"""How many recent records' decisions are kept, for POS systems that ask twice."""
DISK_DEADLINE: Final = 2.0
"""Seconds after which a caller that waits for the disk is told that it has to do without."""
MAX_ORIGINAL: Final = DEFAULT.record - 64 * KIB
"""Bytes of a transaction and what it was read from; the rest of a record is for what the till decides on it."""
_PLACED: Final = KIB
"""Bytes that a sale may gain when it is told where it was made."""
_TELLING: Final = 6
"""Characters of an identifier from which on it is in no longer id by chance."""
_GOODS: Final = attrgetter("seq", "type", "sku", "gtin", "quantity", "amount", "void")
"""What of a line names nobody."""


class NotOnDisk(JournalError):
    """The record is captured and survives the process, but the disk has not confirmed it in time."""

    code = "not_on_disk"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Where this till stands. `till_id` is 16 bytes."""

    till_id: bytes
    retailer: str
    store: str
    till: str
    currency: str


@dataclass(frozen=True, slots=True)
class Closing:
    """The basket that a sale closes: its key, and the offers that were shown on it and not declined.

    `member` is who it was, for a sale that names nobody. A POS that says the sale again need not know of that.
    """

    key: bytes
    offers: frozenset[bytes]
    member: tuple[Identifier, ...] = ()


class CutOriginal(Original, frozen=True):
    """A POS's own bytes whose card numbers are cut already, and how many there were. Only `cut_ahead` makes one."""

    redactions: int = 0


@dataclass(frozen=True, slots=True)
class Captured:
    """A record's name, whether it was captured before, and what the till decided on it."""

    name: Name
    repeat: bool
    decisions: tuple[Decision, ...]
    redactions: int = 0
    left_out: bool = False
    """Whether a record was sealed that had no room for the POS's own bytes."""


class Capture:
    """Validates, cuts card numbers, decides, seals, appends. Nothing here waits for anything."""

    def __init__(
        self,
        journal: Journal,
        edge: Edge,
        enrolment: Enrolment,
        *,
        tag_key: bytes,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._journal = journal
        self._edge = edge
        self._where = enrolment
        self._tag_key = tag_key
        self._check_key = randomness(32)
        self._random = randomness
        self._clock = clock
        self._recent: OrderedDict[bytes, tuple[Decision, ...]] = OrderedDict()

    def transaction(
        self, given: Transaction, original: Original | None = None, closes: Closing | None = None
    ) -> Captured:
        """Capture a transaction. Empty retailer, store, till and currency become this till's.

        What was offered on the basket that it `closes` is settled with it, and its member is the sale's if that names
        nobody; a POS that says the sale again need not know of either. Raises `InvalidInput` naming the field,
        `TooLarge`, or `JournalError`; then nothing was written.
        """
        placed = self._place(given)
        check(placed)
        content = encode(placed)
        cut, redactions = cut_cards(placed, content)
        if redactions:
            content = encode(cut)
        people = cut.customer.identifiers if cut.customer is not None else ()
        tag = NO_TAG if _names_one_of(cut.pos_id, people) else _sale_tag(self._tag_key, cut)
        tag, seen = self._find(tag, content)
        if seen is not None:
            return Captured(seen.name, True, self._recent.get(tag, ()))
        if original is not None:
            original, more = _without_cards(original)
            redactions += more
        basket, body = None, cut
        if closes is not None:
            basket, body = closes.key, _with_member(cut, closes.member)
        return self._append(
            Record(
                body=body,
                captured_at=self._clock.now_ms(),
                version=version_of(body, basket, original),
                clock_trusted=self._edge.clock_trusted,
                decisions=self._decide(body, closes),
                pack=self._edge.pack_version,
                redactions=redactions,
                reconciles=reconcile(cut),
                original=original,
                basket=basket,
            ),
            tag,
            self._checksum(content),
        )

    def admit(self, given: Transaction, original: Original) -> None:
        """Raise `InvalidInput` or `TooLarge` where `transaction` would for what was given; nothing is written."""
        placed = self._place(given)
        check(placed)
        size = len(encode(placed)) + len(original.data)
        if size > MAX_ORIGINAL:
            raise TooLarge(f"{size} bytes, with the POS's own", field="body", limit=f"{MAX_ORIGINAL} bytes")

    def member_identified(self, given: MemberIdentified, basket: bytes | None = None) -> Captured:
        """Capture that somebody was identified. With an event id, a repeat is answered as one. `basket` is a key.

        Raises as `transaction` does; `InvalidInput` also when card numbers were all that was given.
        """
        identifiers, redactions = cut_identifiers(given.identifiers)
        if not identifiers:
            raise InvalidInput("a card number does not identify a member", field="identifiers")
        now = self._clock.now_ms()
        at = now if given.at is None else given.at
        named = not given.event_id or _names_one_of(given.event_id, given.identifiers)
        event_id = self._random(16).hex() if named else given.event_id
        store = given.store or self._where.store
        event = msgspec.structs.replace(given, identifiers=identifiers, event_id=event_id, store=store, at=at)
        content = encode(given)
        tag, seen = self._find(NO_TAG if named else self._tag(b"identified", given.event_id.encode()), content)
        if seen is not None:
            return Captured(seen.name, True, self._recent.get(tag, ()))
        facts = LazyFacts(partial(identification_facts, event, retailer=self._where.retailer, store=store, at_ms=at))
        key = identification_occasion_key(event, self._where.till_id)
        record = Record(
            body=event,
            captured_at=now,
            version=version_of(event, basket),
            clock_trusted=self._edge.clock_trusted,
            decisions=tuple(self._edge.decide("member_identified", store, facts, key, self._journal)),
            pack=self._edge.pack_version,
            redactions=redactions,
            basket=basket,
        )
        return self._append(record, tag, self._checksum(content))

    def is_here(self, sale: Transaction) -> bool:
        """Whether a sale is this till's own."""
        return sale.store in ("", self._where.store) and sale.till in ("", self._where.till)

    def remark(self, given: Remark, basket: bytes | None = None, member: tuple[Identifier, ...] = ()) -> Captured:
        """Capture what somebody said or noticed. With an event id, a repeat is answered as one. `basket` is a key.

        `member` is who it was, where the POS does not say.

        Raises `InvalidInput`, `TooLarge` or `JournalError`; then nothing was written.
        """
        _check_remark(given)
        now = self._clock.now_ms()
        content = encode(given)
        cut, redactions = cut_cards(given, content)
        named = not given.event_id or _names_one_of(given.event_id, given.identifiers)
        kind = str(type(given).__struct_config__.tag).encode()
        tag, seen = self._find(NO_TAG if named else self._tag(kind, given.event_id.encode()), content)
        if seen is not None:
            return Captured(seen.name, True, ())
        event_id = self._random(16).hex() if named else given.event_id
        body = msgspec.structs.replace(
            cut,
            event_id=event_id,
            at=now if given.at is None else given.at,
            identifiers=cut.identifiers or cut_identifiers(member)[0],
        )
        return self._append(self._told(body, now, basket, redactions), tag, self._checksum(content))

    def basket(self, change: BasketChanged, basket: bytes) -> Captured:
        """Capture what became of a basket that ended in no sale, or not yet. Raises `TooLarge` or `JournalError`."""
        now = self._clock.now_ms()
        cut, redactions = cut_cards(change, encode(change))
        return self._append(self._told(msgspec.structs.replace(cut, at=now), now, basket, redactions), NO_TAG, 0)

    def weigh(self, goods: Goods, basket: bytes, *, offset_minutes: int, made: int) -> list[Decision]:
        """What would be offered on an open basket by its key: nothing is captured, and no lease is drawn on.

        `made` is how many offers it has already.
        """
        where = self._where
        if not goods.currency:
            goods = replace(goods, currency=where.currency)
        make = partial(
            basket_facts,
            goods,
            retailer=where.retailer,
            store=where.store,
            at_ms=self._clock.now_ms(),
            offset_minutes=offset_minutes,
        )
        key = basket_occasion_key(where.till_id, basket)
        return self._edge.decide("basket", where.store, LazyFacts(make), key, self._journal, made=made)

    def event(self, body: OfferShown | OfferAnswered) -> Captured:
        """Capture what became of an offer. Raises `TooLarge` or `JournalError`."""
        answer = body.answer if isinstance(body, OfferAnswered) else "shown"
        tag = self._tag(b"offer", body.offer_id, answer.encode())
        seen = self._journal.find(tag)
        if seen is not None:
            return Captured(seen.name, True, ())
        return self._append(self._bare(body), tag, 0)

    def lost(self, fact: RecordsLost) -> Captured:
        """Capture that records of this till may be lost; the same again is a repeat. Raises `JournalError`."""
        last = b"" if fact.last is None else b"%d" % fact.last
        tag = self._tag(b"lost", fact.epoch, b"%d" % fact.first, last, fact.reason.encode())
        seen = self._journal.find(tag)
        if seen is not None:
            return Captured(seen.name, True, ())
        return self._append(self._bare(fact), tag, 0)

    async def durable(self, captured: Captured, deadline: float = DISK_DEADLINE) -> None:
        """Return when a captured record survives a power cut. Raises `NotOnDisk` after `deadline` seconds."""
        try:
            async with asyncio.timeout(deadline):
                await self._journal.synced(captured.name)
        except TimeoutError as error:
            raise NotOnDisk(
                "captured, but the disk has not confirmed it", limit=f"{deadline} s", hint="ask again with the same id"
            ) from error

    def _decide(self, sale: Transaction, closes: Closing | None) -> tuple[Decision, ...]:
        """The till's own decisions on a sale; one that is only training makes no offers."""
        shown = closes.offers if closes is not None else frozenset()
        if sale.training or sale.test or not (shown or self._edge.has_rules("transaction")):
            return ()
        facts = LazyFacts(partial(sale_facts, sale))
        decide = partial(self._edge.decide, store=sale.store, facts=facts, journal=self._journal)
        settled: list[Decision] = []
        if closes is not None and shown:
            settled = decide("basket", key=basket_occasion_key(self._where.till_id, closes.key), among=shown)
        made = sum(decision.outcome == "offered" for decision in settled)
        return (*settled, *decide("transaction", key=sale_occasion_key(sale), made=made))

    def _bare(self, body: OfferShown | OfferAnswered | RecordsLost) -> Record:
        return Record(body=body, captured_at=self._clock.now_ms(), clock_trusted=self._edge.clock_trusted)

    def _told(self, body: Remark | BasketChanged, now_ms: int, basket: bytes | None, redactions: int) -> Record:
        return Record(
            body=body,
            captured_at=now_ms,
            version=version_of(body, basket),
            clock_trusted=self._edge.clock_trusted,
            redactions=redactions,
            basket=basket,
        )

    def _append(self, record: Record, tag: bytes, checksum: int) -> Captured:
        spends = [Spend(d.lease, 1) for d in record.decisions if d.lease is not None]
        kind = KIND_NUMBERS[type(record.body)]
        name = self._journal.append(encode(record), kind=kind, tag=tag, check=checksum, spends=spends)
        if record.decisions and tag != NO_TAG:
            self._recent[tag] = record.decisions
            if len(self._recent) > REMEMBERED:
                self._recent.popitem(last=False)
        left_out = record.original is not None and record.original.form == "left_out"
        return Captured(name, False, record.decisions, record.redactions, left_out)

    def _place(self, given: Transaction) -> Transaction:
        where = self._where
        if given.retailer not in ("", where.retailer):
            raise InvalidInput(
                f"this till belongs to another retailer than {given.retailer!r}", field="retailer", limit=where.retailer
            )
        if given.retailer and given.store and given.till and given.currency:
            return given
        return msgspec.structs.replace(
            given,
            retailer=where.retailer,
            store=given.store or where.store,
            till=given.till or where.till,
            currency=given.currency or where.currency,
        )

    def _find(self, tag: bytes, content: bytes) -> tuple[bytes, Seen | None]:
        """The tag under which this content is known, or may become known.

        The tag on disk leaves the customer out (see the decision record on tags), so while the process lives a
        checksum of everything tells a repeat from a sale that came again with another member.
        """
        checksum: int | None = None
        while (seen := self._journal.find(tag)) is not None:
            if checksum is None:
                checksum = self._checksum(content)
            if seen.check is None or seen.check == checksum:
                return tag, seen
            tag = self._tag(b"again", tag)
        return tag, None

    def _checksum(self, content: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=self._check_key).digest())

    def _tag(self, *parts: bytes) -> bytes:
        return keyed_tag(self._tag_key, parts)


def _with_member(sale: Transaction, member: tuple[Identifier, ...]) -> Transaction:
    """A sale with the member of its basket, where it names none itself."""
    customer = sale.customer or Customer()
    if customer.identifiers or not member:
        return sale
    known, _ = cut_identifiers(member)
    return msgspec.structs.replace(sale, customer=msgspec.structs.replace(customer, identifiers=known))


def cut_ahead(original: Original, sale: Transaction) -> CutOriginal:
    """What `Capture.transaction` would do to the bytes, for callers that can do it in a thread: it may take long.

    They are fitted into what room a record has beside the sale.
    """
    cut, redactions = cut_original(original)
    cut = fitted(cut, MAX_ORIGINAL - _PLACED - len(encode(sale)))
    return CutOriginal(cut.media_type, cut.sha256, cut.data, cut.form, redactions)


def _without_cards(original: Original) -> tuple[Original, int]:
    """The bytes as they may be written, and how many numbers were cut: nothing else writes any."""
    if isinstance(original, CutOriginal):
        return Original(original.media_type, original.sha256, original.data, original.form), original.redactions
    return cut_original(original)


def _check_remark(given: Remark) -> None:
    if isinstance(given, SurveyAnswer) and not (given.answer or given.text):
        raise InvalidInput("there is no answer", field="answer", hint="give an answer, a text, or both")
    if isinstance(given, WishListEntry) and not (given.sku or given.text):
        raise InvalidInput("there is no wish", field="text", hint="give a sku, a text, or both")


def _names_one_of(own_id: str, people: Sequence[Identifier]) -> bool:
    """Whether a POS's own id gives away who it was: what is derived from it could be guessed, so there is no tag.

    A repeated sale is then captured again, and the server counts it as the duplicate that it is; an identification
    gets an id of our own. A short identifier is in many ids by chance, a customer's number 7 in most UUIDs: it counts
    where it stands by itself.
    """
    return any(_names(own_id.casefold(), person.value.casefold()) for person in people)


def _names(own_id: str, person: str) -> bool:
    at = own_id.find(person)
    while at >= 0:
        around = own_id[max(0, at - 1) : at] + own_id[at + len(person) : at + len(person) + 1]
        if len(person) >= _TELLING or not any(map(str.isalnum, around)):
            return True
        at = own_id.find(person, at + 1)
    return False


def _sale_tag(key: bytes, transaction: Transaction) -> bytes:
    """The idempotency key, and of the content only what cannot name anybody: goods, amounts and times.

    Whoever holds a stolen till, and knows a sale from its receipt, could otherwise try every telephone number.
    """
    t = transaction
    people = len(t.customer.identifiers) if t.customer is not None else 0
    content = (
        idempotency_key(t),
        (t.kind, t.revision, t.currency, t.total, t.totals, t.begin, t.end, t.training, t.test, t.links, people),
        [(*_GOODS(x), [d.amount for d in x.discounts] if x.discounts else ()) for x in t.lines],
        [d.amount for d in t.discounts],
        [x.amount for x in t.taxes],
        [(x.type, x.amount, x.refund) for x in t.tenders],
        *([] if t.changed_at is None else [t.changed_at]),
    )
    return keyed_tag(key, [encode(content)])


def keyed_tag(key: bytes, parts: Sequence[bytes]) -> bytes:
    """The 16-byte tag of some parts under a till's tag key."""
    digest = hashlib.blake2b(digest_size=16, key=key)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.digest()
