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

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from ..errors import InvalidInput
from ..limits import MAX_LONG_TEXT, MAX_SHORT, MAX_TEXT
from ..transaction import Customer, Fiscal, Identifier, Kind, Line, Link, Tax, Tender, Transaction
from . import fiskaltrust_cases as cases
from .base import Adapter, Notes, Reading, Setting, checked, exponent_of, load_json, moment, object_at, plain
from .fields import Fields, local_date

_POS_ID: Final = 128
_SIGNATURES: Final = (0x1D, 0x12, 0x01)
"""Types of signature, the best first: the receipt's, the finished transaction's, and the one that Austria has."""
_COUNTER: Final = 0x18
_SERIAL: Final = (0x23, 0x14)
_GTIN: Final = (8, 12, 13, 14)
_NO_REFUND: Final = frozenset({"change", "foreign_change", "tip", "cash_transfer", "voucher", "receivable"})


@dataclass(slots=True)
class _Receipt:
    """One request on its way."""

    fields: Fields
    case: cases.Case
    meaning: cases.Meaning
    exponent: int
    notes: Notes = field(default_factory=Notes)


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The transaction of a request, with its response if there is one. Raises `InvalidInput`."""
    payload = object_at(load_json(data, what="a receipt request"), "body")
    paired = "request" in payload
    fields = Fields(payload["request"] if paired else payload, "request" if paired else "")
    response = Fields(payload["response"], "response") if paired and payload.get("response") is not None else None
    if "cbReceiptReference" not in fields or "ftReceiptCase" not in fields:
        hint = 'send a response together with its request, as {"request": …, "response": …}'
        missing = "ftReceiptCase" if "cbReceiptReference" in fields else "cbReceiptReference"
        raise InvalidInput("is missing in the receipt request", field=fields.place(missing), hint=hint)
    case = _case(fields, "ftReceiptCase")
    if case.flags & cases.RECEIPT_REQUEST:
        return []
    meaning = cases.receipt(case)
    if meaning is None:
        raise InvalidInput(
            f"case {case.base:#06x} of {case.country or 'no country'} is not known", field=fields.place("ftReceiptCase")
        )
    return [Reading(_transaction(fields, case, meaning, response, setting), data)]


def _case(fields: Fields, name: str) -> cases.Case:
    """A case, which stays for `ext` too; none is 0, as the interface has it."""
    number = fields.look(name) or 0
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**63:
        raise InvalidInput("is no case", field=fields.place(name), limit="0 to 2^63 - 1")
    return cases.case_of(number)


def _transaction(
    fields: Fields, case: cases.Case, meaning: cases.Meaning, response: Fields | None, setting: Setting
) -> Transaction:
    notes = Notes()
    currency = notes.currency(None, setting, fields.where or "body")
    receipt = _Receipt(fields, case, meaning, exponent_of(currency), notes)
    reference = fields.required("cbReceiptReference", _POS_ID)
    end = moment(fields.required("cbReceiptMoment"), setting, fields.place("cbReceiptMoment"), utc=True)
    lines = tuple(_line(receipt, one, seq) for seq, one in enumerate(_objects(fields, "cbChargeItems"), 1))
    tenders = tuple(_tender(receipt, one) for one in _objects(fields, "cbPayItems"))
    kind = _kind(receipt, lines, tenders)
    return checked(
        Transaction(
            source=ADAPTER.source("fiskaltrust"),
            kind=kind,
            pos_id=f"{reference}@{end.text}" if meaning.part else reference,
            business_date=local_date(end, setting, notes, fields.place("cbReceiptMoment")),
            end=end,
            currency=currency,
            exponent=receipt.exponent,
            total=_total(receipt, lines),
            revision=2 * meaning.stage + (response is not None),
            till=fields.text("cbTerminalID", MAX_SHORT) or "",
            receipt=reference,
            operator=fields.text("cbUser"),
            training=bool(case.flags & cases.TRAINING),
            offline=bool(case.flags & cases.FAILED),
            links=_links(fields, kind),
            lines=lines,
            tenders=tenders,
            customer=_customer(fields),
            fiscal=_fiscal(response, reference, case),
            ext=notes.ext(**fields.rest(case=meaning.name, country=case.country)),
        )
    )


def _objects(fields: Fields, name: str) -> Iterable[Fields]:
    return [Fields(value, f"{fields.place(name)}[{index}]") for index, value in enumerate(fields.items(name))]


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


def _total(receipt: _Receipt, lines: tuple[Line, ...]) -> int:
    total = receipt.fields.minor("cbReceiptAmount", receipt.notes, receipt.exponent)
    if total is None:
        receipt.notes.assumed.append("total")
        return sum(line.amount for line in lines)
    return total


def _line(receipt: _Receipt, fields: Fields, seq: int) -> Line:
    case = _case(fields, "ftChargeItemCase")
    amount = fields.amount("Amount", receipt.notes, receipt.exponent)
    scan, group = fields.text("ProductBarcode"), fields.text("ProductGroup")
    return Line(
        seq=seq,
        amount=amount,
        quantity=fields.plain("Quantity") or "1",
        type=cases.line(case),
        sku=fields.text("ProductNumber", MAX_SHORT),
        gtin=scan if scan and scan.isascii() and scan.isdigit() and len(scan) in _GTIN else None,
        scan=scan,
        name=fields.text("Description"),
        hierarchy=(group,) if group else (),
        unit=fields.text("Unit"),
        price=fields.plain("UnitPrice"),
        reason="position cancelled" if case.flags & cases.POSITION_CANCELLED else None,
        taxes=_taxes(receipt, fields, case, amount),
        ext=fields.rest() or None,
    )


def _taxes(receipt: _Receipt, fields: Fields, case: cases.Case, amount: int) -> tuple[Tax, ...]:
    """A charge item's tax, which its amount contains. One that has no rate has no tax that could be told."""
    rate, tax = fields.number("VATRate"), fields.minor("VATAmount", receipt.notes, receipt.exponent)
    if rate is None and tax is None:
        return ()
    if tax is None:
        receipt.notes.assumed.append("lines.taxes.amount")
        tax = _share(amount, rate or Decimal(), fields.place("VATRate"))
    return (Tax(code=cases.tax(case), amount=tax, rate=None if rate is None else plain(rate), included=True),)


def _share(amount: int, rate: Decimal, where: str) -> int:
    """The tax of this rate in an amount that contains it."""
    if rate <= -100:
        raise InvalidInput("is no rate of tax", field=where, limit="above -100")
    rate = Decimal(plain(rate))
    return int((amount * rate / (100 + rate)).to_integral_value(ROUND_HALF_UP))


def _tender(receipt: _Receipt, fields: Fields) -> Tender:
    kind = cases.payment(_case(fields, "ftPayItemCase"))
    amount = fields.amount("Amount", receipt.notes, receipt.exponent)
    return Tender(
        type=kind,
        amount=amount,
        refund=amount < 0 and kind not in _NO_REFUND,
        ext=fields.rest() or None,
    )


def _links(fields: Fields, kind: Kind) -> tuple[Link, ...]:
    if "cbPreviousReceiptReference" not in fields:
        return ()
    previous = fields.required("cbPreviousReceiptReference", _POS_ID)
    if kind == "void":
        return (Link("voids", previous),)
    return (Link("original" if kind in ("return", "exchange") else "previous_receipt", previous),)


def _customer(fields: Fields) -> Customer | None:
    """The customer is one text: an e-mail address, a number, or JSON of the POS's own."""
    said = fields.text("cbCustomer", MAX_LONG_TEXT)
    if said is None:
        return None
    if len(said) > MAX_TEXT or said.lstrip()[:1] in ("{", "["):
        return Customer(personal={"cbCustomer": said})
    return Customer(identifiers=(Identifier("email" if "@" in said else "other", said),))


def _fiscal(response: Fields | None, reference: str, case: cases.Case) -> Fiscal | None:
    """What the response adds: all its signatures in `ext`, and the one that counts in its place."""
    if response is None:
        return None
    if response.get("cbReceiptReference") not in (None, reference):
        raise InvalidInput("is another receipt's", field=response.place("cbReceiptReference"))
    signatures: dict[int, str] = {}
    for one in _objects(response, "ftSignatures"):
        signatures.setdefault(_case(one, "ftSignatureType").base, one.text("Data", MAX_LONG_TEXT) or "")
    found = [signatures[kind] for kind in _SIGNATURES if kind in signatures]
    serial = [signatures[kind] for kind in _SERIAL if kind in signatures]
    device = response.text("ftCashBoxIdentification") or "".join(serial[:1])
    return Fiscal(
        system=f"fiskaltrust {case.country}".strip(),
        device=device[:MAX_TEXT],
        counter=signatures.get(_COUNTER, "")[:MAX_TEXT],
        signature="".join(found[:1]),
        ext=response.rest(ftSignatures=response.look("ftSignatures")) or None,
    )


ADAPTER: Final = Adapter(
    "fiskaltrust",
    "1",
    "application/json",
    read,
    tried="three requests with their responses from fiskaltrust's documentation of its German interface",
)
