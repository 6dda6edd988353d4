"""Receipts as they are printed: a printer's bytes, made text by `printer_bytes`, and told apart by patterns.

A receipt has no structure, so that what is read is a guess: `confidence` stays below 1, and says how much was found and
whether it adds up. A slip without a total, without a date, or with neither lines nor tenders is no receipt and gives
nothing: kitchen slips, card slips and reports pass unread. One job may hold several slips, cut from each other.

Options of the setting: `patterns` and `date_order` (see `receipt_patterns`), `code_page` (the codec to begin with),
`code_pages` (number to codec), `double_byte` (the codec of Kanji mode), `dialect` (`epson` or `star`) and `received`
(an ISO 8601 time: when the job came in, used where the receipt has no date). Without a printed number, the name of the
receipt is a hash of its bytes, and noted as assumed. Lines that no pattern knows are in `ext.unread`, the texts of QR
codes and bar codes in `ext.codes`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from typing import Any, Final

from ..errors import InvalidInput, TooLarge
from ..limits import MAX_SHORT, MAX_TENDERS, MAX_TEXT
from ..transaction import Customer, Identifier, Line, Moment, Tender, Totals, Transaction, reconcile
from .base import Adapter, Notes, Reading, Setting, checked, exponent_of, moment
from .printer_bytes import MAX_LINES, Slip, known_codec, printed
from .receipt_patterns import Patterns, at, money, number
from .times import local_date

_SYMBOLS: Final[Mapping[str, str]] = {"€": "EUR", "£": "GBP"}
_CODES: Final = re.compile(
    r"\b(?:AED|AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HKD|HUF|INR|JPY|KRW|KWD|MXN|NOK|NZD|PLN|RON|SAR|SEK|SGD|THB|TRY|USD"
    r"|ZAR)\b"
)
_SPACES: Final = re.compile(r"\s{3,}")
"""Gaps between columns: patterns see two spaces, so that none of them takes long over many."""
MAX_JOB: Final = 1024 * 1024
"""Bytes of a print job that is looked at."""
_MOST_UNREAD: Final = 500
_SURE: Final[Mapping[str, float]] = {
    "total": 0.3,
    "lines": 0.15,
    "adds up": 0.2,
    "date": 0.1,
    "receipt": 0.1,
    "tenders": 0.05,
    "paid": 0.05,
}
"""What each thing found adds to the confidence: 0.95 at the most."""
_WORD: Final = 32


@dataclass(slots=True)
class _Receipt:
    """What was found on a slip so far."""

    exponent: int
    total: int | None = None
    total_line: str = ""
    change: int | None = None
    day: date | None = None
    clock: tuple[int, int, int, bool] | None = None
    receipt: str | None = None
    loyalty: str | None = None
    operator: str | None = None
    training: bool = False
    lines: list[Line] = field(default_factory=list)
    tenders: list[Tender] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The receipts of one print job, in its order. Raises `InvalidInput` for a setting that cannot be used."""
    if len(data) > MAX_JOB:
        raise TooLarge(f"{len(data)} bytes", field="body", limit=f"{MAX_JOB} bytes")
    options = setting.options
    pages = _pages(options)
    job = printed(
        data,
        pages,
        first=_codec(options, "code_page"),
        dialect=_dialect(options),
        double=_codec(options, "double_byte"),
    )
    if job.lines > MAX_LINES:
        raise TooLarge(f"{job.lines} lines in one print job", field="body", limit=f"{MAX_LINES} lines")
    start, parts = 0, []
    for slip in job.slips:
        parts.append((slip, data[start : slip.end]))
        start = slip.end
    if len(parts) == 1:
        parts = [(job.slips[0], data)]
    notes = sorted(job.unknown)[:_MOST_UNREAD]
    readings = [_reading(slip, part, setting, {"dialect": job.dialect, "unknown": notes}) for slip, part in parts]
    return [reading for reading in readings if reading is not None]


def _codec(options: Mapping[str, Any], name: str) -> str:
    codec = options.get(name, "")
    if not isinstance(codec, str) or (codec and not known_codec(codec)):
        raise InvalidInput("there is no such codec", field=f"options.{name}")
    return codec


def _dialect(options: Mapping[str, Any]) -> str:
    dialect = options.get("dialect", "")
    if dialect not in ("", "epson", "star"):
        raise InvalidInput("there is no such dialect", field="options.dialect", limit="epson or star")
    return str(dialect)


def _pages(options: Mapping[str, Any]) -> dict[int, str]:
    """The setting's own numbers of code pages; in a configuration file, keys are text."""
    own = options.get("code_pages", {})
    if not isinstance(own, Mapping):
        raise InvalidInput("is no map of code pages", field="options.code_pages")
    for key in own:
        if not (isinstance(key, str) and key.isdecimal() and len(key) < 4):
            raise InvalidInput("is no number of a code page", field=f"options.code_pages.{str(key)[:MAX_SHORT]}")
    return {int(key): _codec({f"code_pages.{key}": codec}, f"code_pages.{key}") for key, codec in own.items()}


def _reading(slip: Slip, part: bytes, setting: Setting, about: dict[str, Any]) -> Reading | None:
    """The receipt of a slip, if it is one."""
    currency = _currency_in(slip) or setting.currency
    exponent = exponent_of(currency or "")
    found = _found(slip, Patterns(setting, exponent), exponent)
    if found.total is None or not (found.lines or found.tenders):
        return None
    notes = Notes()
    end = _end(found, setting, notes)
    if end is None:
        return None
    transaction = _transaction(found, slip, part, end, notes, setting, about)
    return Reading(transaction, part, _confidence(found, transaction))


def _currency_in(slip: Slip) -> str | None:
    """The currency that a slip names: a code in capitals, or a symbol that only one has."""
    for line in slip.lines:
        code = _CODES.search(line)
        if code is not None:
            return code[0]
        for symbol, its in _SYMBOLS.items():
            if symbol in line:
                return its
    return None


def _found(slip: Slip, patterns: Patterns, exponent: int) -> _Receipt:
    found = _Receipt(exponent)
    for line in slip.lines:
        squeezed, before = _SPACES.sub("  ", line), found.total
        known = _about(found, patterns, squeezed)
        if not (_sums(found, patterns, squeezed) or known):
            found.unread.append(line)
        if before is None and found.total is not None:
            found.total_line = line
    for _, text in slip.codes:
        _when(found, patterns, text[:MAX_TEXT])
    return found


def _sums(found: _Receipt, patterns: Patterns, line: str) -> bool:
    """Take a line's money, if it is an item before the total, the total, a tender or change after it."""
    if found.total is None:
        total = patterns.find("total", line)
        if total is not None:
            found.total = money(total)
            return True
        return patterns.find("ignore", line) is None and _item(found, patterns, line)
    change = patterns.find("change", line)
    if change is not None:
        found.change = abs(money(change))
        return True
    return _tender(found, patterns, line)


def _item(found: _Receipt, patterns: Patterns, line: str) -> bool:
    match = patterns.find("line", line)
    if match is None or patterns.day(line) is not None:
        return False
    name, parts, amount = (match["name"] or "").strip(), match.groupdict(), money(match)
    many = patterns.find("quantity", name) or patterns.find("count", name)
    said = many.groupdict() if many is not None else {}
    if many is not None:
        name = (name[: many.start()] + name[many.end() :]).strip() or name
    deposit, discount = patterns.find("deposit", name), patterns.find("discount", name)
    tax = parts.get("tax")
    found.lines.append(
        Line(
            seq=len(found.lines) + 1,
            amount=amount,
            quantity=number(said.get("quantity")) or "1",
            type="discount" if discount and amount < 0 else "deposit" if deposit else "item",
            name=name,
            unit=said.get("unit"),
            price=number(said.get("price")),
            ext={"tax": tax} if tax else None,
        )
    )
    return True


def _tender(found: _Receipt, patterns: Patterns, line: str) -> bool:
    match = patterns.find("tender", line)
    if match is None or len(found.tenders) >= MAX_TENDERS:
        return False
    amount = money(match)
    kind = (match.groupdict().get("type") or "other").lower()[:MAX_SHORT]
    found.tenders.append(Tender(kind, amount, refund=amount < 0))
    return True


def _about(found: _Receipt, patterns: Patterns, line: str) -> bool:
    """Take what a line says of the receipt itself; the first of each counts."""
    known = _when(found, patterns, line)
    for name in ("receipt", "loyalty", "operator"):
        match = patterns.find(name, line)
        if match is not None and getattr(found, name) is None:
            setattr(found, name, (match.groupdict().get(name) or "").strip()[:MAX_SHORT] or None)
            known = True
    if patterns.find("training", line) is not None:
        found.training = True
    return known


def _when(found: _Receipt, patterns: Patterns, line: str) -> bool:
    day = patterns.day(line)
    if day is not None and found.day is None:
        found.day = day
        found.clock = patterns.clock(line) or found.clock
        return True
    if found.day is not None and found.clock is None:
        found.clock = patterns.clock(line)
        return found.clock is not None
    return False


def _end(found: _Receipt, setting: Setting, notes: Notes) -> Moment | None:
    """When it was: as printed, or when the job came in; None where neither is known."""
    if found.day is not None:
        if found.clock is None:
            notes.assumed.append("time")
        return moment(at(found.day, found.clock or (0, 0, 0, False)), setting, "date")
    received = setting.options.get("received")
    if received is None:
        return None
    notes.assumed.append("end")
    return moment(received, setting, "options.received")


def _transaction(
    found: _Receipt, slip: Slip, part: bytes, end: Moment, notes: Notes, setting: Setting, about: dict[str, Any]
) -> Transaction:
    currency = notes.currency(_currency_in(slip), setting, "currency")
    if found.receipt is None:
        notes.assumed.append("pos_id")
    total = found.total or 0
    codes = [{"kind": kind, "text": text} for kind, text in slip.codes]
    day = found.day.isoformat() if found.day and not (found.clock and found.clock[3]) else None
    return checked(
        Transaction(
            source=ADAPTER.source("printer"),
            kind="return" if total < 0 else "sale",
            pos_id=found.receipt or sha256(part).hexdigest()[:_WORD],
            business_date=day or local_date(end, notes, setting),
            end=end,
            currency=currency,
            exponent=found.exponent,
            total=total,
            totals=None if found.change is None else Totals(change=found.change),
            receipt=found.receipt,
            operator=found.operator,
            training=found.training,
            lines=tuple(found.lines),
            tenders=_settled(found),
            customer=Customer((Identifier("loyalty", found.loyalty),)) if found.loyalty else None,
            ext=notes.ext(**about, codes=codes, unread=found.unread[:_MOST_UNREAD], total_line=found.total_line),
        )
    )


def _settled(found: _Receipt) -> tuple[Tender, ...]:
    """The tenders, the change taken off the last one: that is what it was given back of."""
    if not found.tenders or not found.change:
        return tuple(found.tenders)
    *others, last = found.tenders
    settled = last.amount - found.change
    return (*others, Tender(last.type, settled, tendered=last.amount, change=found.change, refund=last.refund))


def _confidence(found: _Receipt, transaction: Transaction) -> float:
    has = {
        "total": True,
        "lines": bool(found.lines),
        "adds up": reconcile(transaction) is True,
        "date": found.day is not None,
        "receipt": found.receipt is not None,
        "tenders": bool(found.tenders),
        "paid": sum(tender.amount for tender in transaction.tenders) == transaction.total,
    }
    return round(sum(_SURE[name] for name, there in has.items() if there), 2)


ADAPTER: Final = Adapter(
    "escpos",
    "1",
    "application/octet-stream",
    read,
    tried="a receipt that python-escpos 3.1 sent to a printer's port",
)
