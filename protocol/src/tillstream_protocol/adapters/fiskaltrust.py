"""fiskaltrust: the receipt that a POS sends to be signed, and the signatures it gets back.

The input is a `ReceiptRequest` in JSON (interface version 0 and 1), alone or with its `ReceiptResponse` as
`{"request": {…}, "response": {…}}`. What a receipt is follows from bit fields in `ftReceiptCase`: see
`fiskaltrust_cases`. A request to send a receipt again is no transaction.

`cbReceiptReference` is the name. Requests that tell a part of an action only (orders, deltas) share their reference
with each other, so that their moment is added to the name. The revision grows with the action (start, update, receipt)
and with the response. Times are UTC.

The request has no currency. `cbReceiptAmount` is the total; where it is left out, the format defines the total as the
sum of the charge items, and `ext.assumed` says so. Likewise for a charge item's `VATAmount`, from amount and rate.

Source: fiskaltrust/interface-doc, "Data structures" and the reference tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from ..errors import InvalidInput
from ..limits import MAX_LINES, MAX_LONG_TEXT, MAX_SHORT, MAX_TENDERS, MAX_TEXT
from ..transaction import Customer, Fiscal, Identifier, Kind, Line, Link, Tax, Tender, Transaction
from . import fiskaltrust_cases as cases
from .base import Adapter, Reading, Setting, checked, exponent_of, load_json, object_at, plain
from .parts import Part, ext_of, gtin_of, inner_object
from .times import local_date

_SIGNATURES: Final = (0x1D, 0x12, 0x01)
"""Types of signature, the best first: the receipt's, the finished transaction's, and the one that Austria has."""
_COUNTER: Final = 0x18
_SERIAL: Final = (0x23, 0x14)
_MOST_SIGNATURES: Final = 1_000
_NO_REFUND: Final = frozenset({"change", "foreign_change", "tip", "cash_transfer", "voucher", "receivable"})


@dataclass(slots=True)
class _Receipt:
    """One request on its way."""

    part: Part
    case: cases.Case
    meaning: cases.Meaning


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The transaction of a request, with its response if there is one. Raises `InvalidInput`."""
    payload = object_at(load_json(data, what="a receipt request"), "body")
    paired = "request" in payload
    part = _part(payload["request"] if paired else payload, "request" if paired else "")
    response = _part(payload["response"], "response") if paired and payload.get("response") is not None else None
    missing = [name for name in ("cbReceiptReference", "ftReceiptCase") if part.look(name) is None]
    if missing:
        hint = 'send a response together with its request, as {"request": …, "response": …}'
        raise InvalidInput("is missing in the receipt request", field=part.at(missing[0]), hint=hint)
    case = _case(part, "ftReceiptCase")
    if case.flags & cases.RECEIPT_REQUEST:
        return []
    meaning = cases.receipt(case)
    if meaning is None:
        raise InvalidInput(
            f"case {case.base:#06x} of {case.country or 'no country'} is not known", field=part.at("ftReceiptCase")
        )
    return [Reading(_transaction(_Receipt(part, case, meaning), response, setting), data)]


def _part(value: object, where: str) -> Part:
    return Part(inner_object(value, where or "body"), where)


def _case(part: Part, name: str) -> cases.Case:
    """A case, which stays for `ext` too; none is 0, as the interface has it."""
    number = part.look(name) or 0
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**63:
        raise InvalidInput("is no case", field=part.at(name), limit="0 to 2^63 - 1")
    return cases.case_of(number)


def _transaction(receipt: _Receipt, response: Part | None, setting: Setting) -> Transaction:
    part, case, meaning = receipt.part, receipt.case, receipt.meaning
    currency = part.notes.currency(None, setting, part.where or "body")
    part.exponent = exponent_of(currency)
    reference = part.need("cbReceiptReference")
    end = part.need_moment("cbReceiptMoment", setting, utc=True)
    lines = tuple(_line(one, seq) for seq, one in enumerate(part.parts("cbChargeItems", MAX_LINES, kept=False), 1))
    tenders = tuple(map(_tender, part.parts("cbPayItems", MAX_TENDERS, kept=False)))
    kind = _kind(receipt, lines, tenders)
    return checked(
        Transaction(
            source=ADAPTER.source("fiskaltrust"),
            kind=kind,
            pos_id=f"{reference}@{end.text}" if meaning.part else reference,
            business_date=local_date(end, part.notes, setting),
            end=end,
            currency=currency,
            exponent=part.exponent,
            total=_total(part, lines),
            revision=2 * meaning.stage + (response is not None),
            till=part.text("cbTerminalID", MAX_SHORT) or "",
            receipt=reference,
            operator=part.text("cbUser"),
            training=bool(case.flags & cases.TRAINING),
            offline=bool(case.flags & cases.FAILED),
            links=_links(part, kind),
            lines=lines,
            tenders=tenders,
            customer=_customer(part),
            fiscal=_fiscal(response, reference, case),
            ext=ext_of(part.rest({"case": meaning.name, "country": case.country}), part.notes),
        )
    )


def _kind(receipt: _Receipt, lines: tuple[Line, ...], tenders: tuple[Tender, ...]) -> Kind:
    """What happened: a void by its flag, a return by what came back, a pay-out by the cash that left."""
    kind = receipt.meaning.kind
    if receipt.case.flags & cases.VOID:
        return "void"
    if kind == "paid_in" and sum(tender.amount for tender in tenders if tender.type.endswith("cash")) < 0:
        return "paid_out"
    back = [Decimal(line.quantity) < 0 for line in lines if line.type == "item" and line.reason is None]
    if kind != "sale" or not any(back):
        return kind
    return "return" if all(back) else "exchange"


def _total(part: Part, lines: tuple[Line, ...]) -> int:
    total = part.amount("cbReceiptAmount")
    if total is None:
        part.notes.assumed.append("total")
        return sum(line.amount for line in lines)
    return total


def _line(part: Part, seq: int) -> Line:
    case = _case(part, "ftChargeItemCase")
    amount = part.need_amount("Amount")
    scan, group = part.text("ProductBarcode"), part.text("ProductGroup")
    return Line(
        seq=seq,
        amount=amount,
        quantity=part.plain("Quantity") or "1",
        type=cases.line(case),
        sku=part.code("ProductNumber"),
        gtin=gtin_of(scan),
        scan=scan,
        name=part.text("Description"),
        hierarchy=(group,) if group else (),
        unit=part.text("Unit"),
        price=part.plain("UnitPrice"),
        reason="position cancelled" if case.flags & cases.POSITION_CANCELLED else None,
        taxes=_taxes(part, case, amount),
        ext=ext_of(part.rest()),
    )


def _taxes(part: Part, case: cases.Case, amount: int) -> tuple[Tax, ...]:
    """A charge item's tax, which its amount contains. One that has no rate has no tax that could be told."""
    rate, tax = part.number("VATRate"), part.amount("VATAmount")
    if rate is None and tax is None:
        return ()
    if tax is None:
        part.notes.assumed.append("lines.taxes.amount")
        tax = _share(amount, rate or Decimal(), part.at("VATRate"))
    return (Tax(code=cases.tax(case), amount=tax, rate=None if rate is None else plain(rate), included=True),)


def _share(amount: int, rate: Decimal, where: str) -> int:
    """The tax of this rate in an amount that contains it."""
    if rate <= -100:
        raise InvalidInput("is no rate of tax", field=where, limit="above -100")
    rate = Decimal(plain(rate))
    return int((amount * rate / (100 + rate)).to_integral_value(ROUND_HALF_UP))


def _tender(part: Part) -> Tender:
    kind = cases.payment(_case(part, "ftPayItemCase"))
    amount = part.need_amount("Amount")
    return Tender(kind, amount, refund=amount < 0 and kind not in _NO_REFUND, ext=ext_of(part.rest()))


def _links(part: Part, kind: Kind) -> tuple[Link, ...]:
    if part.look("cbPreviousReceiptReference") is None:
        return ()
    previous = part.need("cbPreviousReceiptReference")
    if kind == "void":
        return (Link("voids", previous),)
    return (Link("original" if kind in ("return", "exchange") else "previous_receipt", previous),)


def _customer(part: Part) -> Customer | None:
    """The customer is one text: an e-mail address, a number, or JSON of the POS's own."""
    said = part.text("cbCustomer", MAX_LONG_TEXT)
    if said is None:
        return None
    if len(said) > MAX_TEXT or said.lstrip()[:1] in ("{", "["):
        return Customer(personal={"cbCustomer": said})
    return Customer(identifiers=(Identifier("email" if "@" in said else "other", said),))


def _fiscal(response: Part | None, reference: str, case: cases.Case) -> Fiscal | None:
    """What the response adds: all its signatures in `ext`, and the one that counts in its place."""
    if response is None:
        return None
    if response.take("cbReceiptReference") not in (None, reference):
        raise InvalidInput("is another receipt's", field=response.at("cbReceiptReference"))
    signatures: dict[int, str] = {}
    for one in response.parts("ftSignatures", _MOST_SIGNATURES, kept=False):
        signatures.setdefault(_case(one, "ftSignatureType").base, one.text("Data", MAX_LONG_TEXT) or "")
    found = [signatures[kind] for kind in _SIGNATURES if kind in signatures]
    serial = [signatures[kind] for kind in _SERIAL if kind in signatures]
    device = response.text("ftCashBoxIdentification") or "".join(serial[:1])
    return Fiscal(
        system=f"fiskaltrust {case.country}".strip(),
        device=device[:MAX_TEXT],
        counter=signatures.get(_COUNTER, "")[:MAX_TEXT],
        signature="".join(found[:1]),
        ext=ext_of(response.rest({"ftSignatures": response.look("ftSignatures")})),
    )


ADAPTER: Final = Adapter(
    "fiskaltrust",
    "1",
    "application/json",
    read,
    tried="three requests with their responses from fiskaltrust's documentation of its German interface",
)
