"""Splits the person from the purchase.

Everything that names somebody goes to the vault, in up to three items: the customer's `particulars`, the POS's
`original` bytes, and `operation`, which names the cashier and the fiscal device and stays when a customer is erased.
What remains is the pseudonymous body of the ledger's row.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from tillstream_protocol.codec import encode
from tillstream_protocol.events import (
    BasketChanged,
    Body,
    MemberIdentified,
    Observation,
    Record,
    SurveyAnswer,
    WishListEntry,
)
from tillstream_protocol.transaction import (
    Customer,
    Ext,
    Fiscal,
    Identifier,
    Line,
    Tender,
    Transaction,
)

from ..customers.identity import normalise
from ..customers.masking import mask
from ..ledger.bodies import Identified, LedgerBody

PARTICULARS: Final = "particulars"
OPERATION: Final = "operation"
IDENTIFIER: Final = "identifier"


class TenderParticulars(Struct, frozen=True, omit_defaults=True):
    """What a tender says of the means of payment; `index` is its place among the tenders."""

    index: int
    gift_card: str | None = None
    card: str | None = None
    reference: str | None = None
    ext: Ext | None = None


class LineParticulars(Struct, frozen=True, omit_defaults=True):
    """What a line says that has no field; `index` is its place among the lines."""

    index: int
    ext: Ext


class Particulars(Struct, frozen=True, omit_defaults=True):
    """What a record says of its customer, in one sealed item."""

    identifiers: tuple[Identifier, ...] = ()
    """Those that name nobody, such as a card number that has been cut."""
    name: str | None = None
    personal: dict[str, str] | None = None
    note: str | None = None
    """Free text: a sale's, or what somebody said at the till."""
    ext: Ext | None = None
    lines: tuple[LineParticulars, ...] = ()
    tenders: tuple[TenderParticulars, ...] = ()


class Operation(Struct, frozen=True, omit_defaults=True):
    """Who and what made a transaction."""

    operator: str | None = None
    fiscal: Fiscal | None = None


class Split(Struct, frozen=True, gc=False):
    """A record in its parts: `body` and its bytes for the ledger, the rest (msgpack, or None) for the vault.

    `identifiers` are those that name somebody, with their normal texts. Of a record that names nobody, `body` is the
    record's own.
    """

    body: LedgerBody
    encoded: bytes
    identifiers: tuple[tuple[Identifier, str], ...]
    particulars: bytes | None
    operation: bytes | None
    original: bytes | None


def split(record: Record, body: Body) -> Split:
    """Take a record apart; `body` is its body with the till's own names filled in."""
    original = None if record.original is None else encode(record.original)
    if isinstance(body, Transaction):
        return _split_transaction(body, original)
    if isinstance(body, MemberIdentified):
        return _split_identification(body, original)
    if isinstance(body, BasketChanged | Observation | SurveyAnswer | WishListEntry):
        return _split_remark(body, original)
    return Split(body, encode(body), (), None, None, original)


def _split_remark(said: BasketChanged | Observation | SurveyAnswer | WishListEntry, original: bytes | None) -> Split:
    given = _normal(said.identifiers)
    nameless = _nameless(given)
    text = "" if isinstance(said, BasketChanged) else said.text
    bare = replace(said, identifiers=()) if isinstance(said, BasketChanged) else replace(said, identifiers=(), text="")
    masked, encoded = mask(bare, encode(bare), given)
    particulars = encode(Particulars(nameless, note=text or None)) if nameless or text else None
    return Split(masked, encoded, _named(given, nameless), particulars, None, original)


def _split_identification(event: MemberIdentified, original: bytes | None) -> Split:
    given = _normal(event.identifiers)
    nameless = _nameless(given)
    bare = Identified(event.event_id, event.basket, event.store, event.at)
    masked, encoded = mask(bare, encode(bare), given)
    particulars = encode(Particulars(nameless)) if nameless else None
    return Split(masked, encoded, _named(given, nameless), particulars, None, original)


def _split_transaction(t: Transaction, original: bytes | None) -> Split:
    customer = t.customer
    given = () if customer is None else _normal(customer.identifiers)
    nameless = _nameless(given)
    particulars = _particulars(t, customer, nameless)
    operation = None if t.operator is None and t.fiscal is None else Operation(t.operator, t.fiscal)
    bare = t if customer is None and particulars is None and operation is None else _bare(t, customer, particulars)
    encoded = encode(bare)
    if given:
        bare, encoded = mask(bare, encoded, given)
    return Split(
        body=bare,
        encoded=encoded,
        identifiers=_named(given, nameless),
        particulars=None if particulars is None else encode(particulars),
        operation=None if operation is None else encode(operation),
        original=original,
    )


def _normal(identifiers: tuple[Identifier, ...]) -> tuple[tuple[Identifier, str], ...]:
    return tuple((identifier, normalise(identifier.scheme, identifier.value)) for identifier in identifiers)


def _nameless(given: tuple[tuple[Identifier, str], ...]) -> tuple[Identifier, ...]:
    return tuple(identifier for identifier, normal in given if not normal)


def _named(
    given: tuple[tuple[Identifier, str], ...], nameless: tuple[Identifier, ...]
) -> tuple[tuple[Identifier, str], ...]:
    return tuple(pair for pair in given if pair[1]) if nameless else given


def _particulars(t: Transaction, customer: Customer | None, nameless: tuple[Identifier, ...]) -> Particulars | None:
    lines = [LineParticulars(i, line.ext) for i, line in enumerate(t.lines) if line.ext is not None]
    tenders = [
        TenderParticulars(i, tender.gift_card, tender.card, tender.reference, tender.ext)
        for i, tender in enumerate(t.tenders)
        if _names_somebody(tender)
    ]
    name, personal = (None, None) if customer is None else (customer.name, customer.personal)
    if not (lines or tenders or nameless) and (name, personal, t.note, t.ext) == (None, None, None, None):
        return None
    return Particulars(nameless, name, personal, t.note, t.ext, tuple(lines), tuple(tenders))


def _bare(t: Transaction, customer: Customer | None, particulars: Particulars | None) -> Transaction:
    lines, tenders = t.lines, t.tenders
    if particulars is not None and particulars.lines:
        lines = tuple(_bare_line(line) for line in lines)
    if particulars is not None and particulars.tenders:
        tenders = tuple(replace(x, gift_card=None, card=None, reference=None, ext=None) for x in tenders)
    return replace(
        t,
        lines=lines,
        tenders=tenders,
        customer=None if customer is None else Customer(consents=customer.consents, points=customer.points),
        operator=None,
        note=None,
        fiscal=None,
        ext=None,
    )


def _bare_line(line: Line) -> Line:
    return line if line.ext is None else replace(line, ext=None)


def _names_somebody(tender: Tender) -> bool:
    return (
        tender.gift_card is not None
        or tender.card is not None
        or tender.reference is not None
        or tender.ext is not None
    )
