"""CSV and JSON exports of any POS, read by a mapping: which column or path becomes which canonical field.

The mapping is `setting.options["mapping"]`, an object as `mapping_format.Mapping` types it; what is wrong with it
raises `InvalidInput` whose field is the mapping's, such as `mapping.sale.total`. Places in the input are
`row 3, Total` (the line of the file, then the column) or `sales[2].total`. `docs/reference/mapping.md` has an example.

CSV has a header row. Its rows are lines, of which those with the same id, store, till and business date are one sale,
wherever they stand; or each row is a sale. What is said of the sale must not differ between its rows; it may be left
empty in some. Columns and fields that the mapping does not name go to `ext`, of the line where rows are lines.

Not yet tried on genuine data.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from ..errors import InvalidInput
from ..limits import MAX_LONG_TEXT, MAX_SHORT, MAX_TEXT
from ..transaction import Customer, Discount, Identifier, Line, Link, Moment, Source, Tax, Tender, Totals, Transaction
from .base import Adapter, Notes, Reading, Setting, check_size, checked, decimal, exponent_of, moment, plain
from .mapping_format import DiscountFields, LineFields, Mapping, TaxFields, TenderFields, mapping_of
from .mapping_rows import Row, Sale, sales_of
from .parts import MAX_POS_ID, ext_of, within
from .times import local_date, possible

_MOST_REVISION: Final = 1_000_000


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The sales of an export, in the order in which they begin. Raises `InvalidInput`."""
    check_size(data)
    mapping = mapping_of(setting.options)
    sales = sales_of(data, mapping)
    return [
        Reading(_Reader(mapping, setting).transaction(sale), data if len(sales) == 1 else sale.original)
        for sale in sales
    ]


ADAPTER: Final = Adapter("mapping", "1", "application/octet-stream", read, also=("application/json", "text/csv"))


class _Reader:
    """Reads one sale by its mapping."""

    def __init__(self, mapping: Mapping, setting: Setting) -> None:
        self.mapping = mapping
        self.setting = setting
        self.notes = Notes()
        self.exponent = 2

    def transaction(self, sale: Sale) -> Transaction:
        """The sale in its canonical form."""
        row, said, mapping = sale.header, self.mapping.sale, self.mapping
        currency = self.text(row, said.currency) or mapping.currency
        currency = self.notes.currency(currency, self.setting, row.place("currency"))
        self.exponent = exponent_of(currency)
        end = self.need_moment(row, said.end)
        sums = self.amounts(row, said, *Totals.__struct_fields__)
        lines = [self.line(mapping.line, one, seq, sale.known) for seq, one in enumerate(sale.lines, 1) if mapping.line]
        taxes, discounts = self.taxes(mapping.taxes, row), self.discounts(mapping.discounts, row)
        return checked(
            Transaction(
                source=Source(mapping.system, mapping.version, ADAPTER.name, ADAPTER.version),
                kind=self.choice(row, said.kind, mapping.kinds, "mapping.kinds") if said.kind else "sale",
                pos_id=self.need(row, said.pos_id, MAX_POS_ID),
                business_date=self.business_date(row, end),
                end=end,
                begin=self.moment(row, said.begin),
                currency=currency,
                exponent=self.exponent,
                total=self.need_amount(row, said.total),
                totals=Totals(**sums) if any(value is not None for value in sums.values()) else None,
                revision=self.whole(row, said.revision, _MOST_REVISION) or 0,
                store=self.text(row, said.store, MAX_SHORT) or "",
                till=self.text(row, said.till, MAX_SHORT) or "",
                **self.texts(row, said, "session", "z_number", "sequence", "receipt", "operator", "reason"),
                **self.truths(row, said, "training", "test", "offline"),
                links=self.links(row),
                lines=tuple(lines),
                discounts=discounts,
                taxes=taxes,
                tenders=tuple(tender for one in mapping.tenders for tender in self.tender(one, row)),
                customer=self.customer(row),
                note=self.text(row, said.note, MAX_LONG_TEXT),
                ext=self.ext(sale),
            )
        )

    def ext(self, sale: Sale) -> dict[str, Any] | None:
        """What the mapping does not name, beside the lines."""
        lines = frozenset({self.mapping.lines} if self.mapping.lines else ())
        return ext_of(sale.header.rest(lines), self.notes)

    # values

    def text(self, row: Row, source: str | None, most: int = MAX_TEXT) -> str | None:
        """Text; what is too long is cut, and left whole in the rest."""
        value = row.get(source) if source else None
        if value is None or source is None:
            return None
        if isinstance(value, (dict, list)):
            raise InvalidInput("is no text", field=row.place(source))
        told = str(value).lower() if isinstance(value, bool) else str(value)
        if len(told) > most:
            row.read.discard(source)
        return told[:most]

    def need(self, row: Row, source: str, most: int = MAX_SHORT) -> str:
        """Text that has to be there, whole."""
        told = self.text(row, source, most + 1)
        if told is None or len(told) > most:
            wrong = "is missing" if told is None else "is too long"
            raise InvalidInput(wrong, field=row.place(source), limit=f"1 to {most} characters")
        return told

    def number(self, row: Row, source: str | None) -> Decimal | None:
        """A number as the mapping says it is written."""
        value = row.get(source) if source else None
        if value is None or source is None:
            return None
        if isinstance(value, str) and not source.startswith("="):
            value = "".join(value.split()) if self.mapping.grouping == " " else value.strip()
            if self.mapping.decimal == "," and "." in value.replace(self.mapping.grouping or "\0", ""):
                raise InvalidInput("is not a number with a decimal comma", field=row.place(source))
            value = value.replace(self.mapping.grouping, "") if self.mapping.grouping else value
            value = value.replace(self.mapping.decimal, ".")
        try:
            return decimal(value, row.place(source))
        except InvalidInput as error:  # without the value: a wrong column may name a person
            raise InvalidInput("is not a number", field=error.field, limit=error.limit) from None

    def plain(self, row: Row, source: str | None) -> str | None:
        """A decimal as canonical text."""
        number = self.number(row, source)
        return None if number is None else plain(number)

    def amount(self, row: Row, source: str | None) -> int | None:
        """Money in minor units."""
        number = self.number(row, source)
        if number is None or source is None:
            return None
        where = row.place(source)
        return within(self.notes.minor(number, 0 if self.mapping.minor else self.exponent, where), where)

    def need_amount(self, row: Row, source: str) -> int:
        """Money that has to be there."""
        amount = self.amount(row, source)
        if amount is None:
            raise InvalidInput("is missing", field=row.place(source))
        return amount

    def whole(self, row: Row, source: str | None, most: int) -> int | None:
        """A whole number from 0."""
        number = self.number(row, source)
        if number is None or source is None:
            return None
        if number != int(number) or not 0 <= number <= most:
            raise InvalidInput("is no such number", field=row.place(source), limit=f"0 to {most}")
        return int(number)

    def truth(self, row: Row, source: str | None) -> bool:
        """Whether a value is among the mapping's truths."""
        said = self.text(row, source)
        return said is not None and said.lower() in {truth.lower() for truth in self.mapping.truths}

    def choice(self, row: Row, source: str, meanings: dict[str, Any], where: str) -> Any:
        """What a value means by the mapping."""
        said = self.need(row, source)
        if said not in meanings:
            hint = f"add it to {where}"
            raise InvalidInput(f"the value is not in {where}", field=row.place(source), hint=hint)
        return meanings[said]

    def texts(self, row: Row, said: object, *names: str) -> dict[str, Any]:
        """Several texts by the names of their fields."""
        return {name: self.text(row, getattr(said, name)) for name in names}

    def amounts(self, row: Row, said: object, *names: str) -> dict[str, Any]:
        """Several amounts."""
        return {name: self.amount(row, getattr(said, name)) for name in names}

    def truths(self, row: Row, said: object, *names: str) -> dict[str, Any]:
        """Several truths."""
        return {name: self.truth(row, getattr(said, name)) for name in names}

    # times

    def need_moment(self, row: Row, sources: tuple[str, ...]) -> Moment:
        """A time that has to be there."""
        read = self.moment(row, sources)
        if read is None:
            raise InvalidInput("is missing", field=row.place(sources[0]))
        return read

    def moment(self, row: Row, sources: tuple[str, ...]) -> Moment | None:
        """A time, from one source or several."""
        text = " ".join(filter(None, (self.text(row, source, 64) for source in sources)))
        if not text:
            return None
        where, form = row.place(sources[0]), self.mapping.time
        try:
            if form == "iso":
                return possible(moment(text, self.setting, where), where)
            if form in ("unix", "unix_ms"):
                at = decimal(text, where) * (1000 if form == "unix" else 1)
                return possible(Moment(int(at), 0, "explicit", text), where)
        except InvalidInput:
            raise InvalidInput("is not a time", field=where, limit=form) from None
        read = self.parsed(text, form, where)
        return possible(msgspec.structs.replace(moment(read.isoformat(), self.setting, where), text=text), where)

    def parsed(self, text: str, form: str, where: str) -> datetime:
        """A text by a form of `strptime`."""
        try:
            return datetime.strptime(text, form)  # noqa: DTZ007 -- the zone is the setting's
        except ValueError:
            raise InvalidInput("is not a time", field=where, limit=form) from None

    def business_date(self, row: Row, end: Moment) -> str:
        """As it is said, or the local date of the end."""
        source = self.mapping.sale.business_date
        text = self.text(row, source)
        if text is None or source is None:
            return local_date(end, self.notes)
        form = "%Y-%m-%d" if self.mapping.date == "iso" else self.mapping.date
        return str(self.parsed(text, form, row.place(source)).date())

    # parts

    def line(self, said: LineFields | None, row: Row, count: int, known: frozenset[str]) -> Line:
        """One line."""
        assert said is not None
        seq = self.whole(row, said.seq, 1_000_000)
        return Line(
            count if seq is None else seq,
            self.need_amount(row, said.amount),
            self.plain(row, said.quantity) or "1",
            type=self.choice(row, said.type, self.mapping.types, "mapping.types") if said.type else "item",
            parent=self.whole(row, said.parent, 1_000_000),
            sku=self.need(row, said.sku) if said.sku and row.get(said.sku) is not None else None,
            gtin=self.need(row, said.gtin) if said.gtin and row.get(said.gtin) is not None else None,
            **self.texts(row, said, "scan", "name", "unit", "reason"),
            hierarchy=tuple(filter(None, (self.text(row, one) for one in said.hierarchy))),
            regular_price=self.plain(row, said.regular_price),
            price=self.plain(row, said.price),
            void=self.truth(row, said.void),
            discounts=self.discounts(said.discounts, row),
            taxes=self.taxes(said.taxes, row),
            ext=ext_of(row.rest(known)),
        )

    def discounts(self, said: tuple[DiscountFields, ...], row: Row) -> tuple[Discount, ...]:
        """The discounts that have an amount."""
        found = []
        for one in said:
            amount = self.amount(row, one.amount)
            if amount:
                texts = self.texts(row, one, "promotion", "coupon", "name", "reason")
                found.append(Discount(amount, self.text(row, one.kind) or "", **texts))
        return tuple(found)

    def taxes(self, said: tuple[TaxFields, ...], row: Row) -> tuple[Tax, ...]:
        """The taxes that have an amount."""
        found = []
        for one in said:
            amount = self.amount(row, one.amount)
            if amount is not None:
                rate, base = self.plain(row, one.rate), self.amount(row, one.base)
                found.append(Tax(self.need(row, one.code), amount, rate, base, included=one.included))
        return tuple(found)

    def tender(self, said: TenderFields, row: Row) -> Iterator[Tender]:
        """A tender, if it has an amount."""
        amount = self.amount(row, said.amount)
        if amount:
            sums = self.amounts(row, said, "tendered", "change", "tip")
            texts = self.texts(row, said, "card", "gift_card", "reference")
            yield Tender(self.need(row, said.type), amount, **sums, **texts, refund=amount < 0)

    def links(self, row: Row) -> tuple[Link, ...]:
        """The sale that came back, or that is taken back."""
        said = self.mapping.sale
        found = (("original", said.original), ("voids", said.voids))
        return tuple(
            Link(relation, self.need(row, source, MAX_POS_ID))  # type: ignore[arg-type]
            for relation, source in found
            if source and row.get(source) is not None
        )

    def customer(self, row: Row) -> Customer | None:
        """Who bought, as far as it is said."""
        named = ((scheme, self.text(row, source)) for scheme, source in self.mapping.identifiers.items())
        told = {name: self.text(row, source, MAX_LONG_TEXT) for name, source in self.mapping.personal.items()}
        customer = Customer(
            identifiers=tuple(Identifier(scheme, value) for scheme, value in named if value),
            name=self.text(row, self.mapping.sale.customer_name),
            personal={name: value for name, value in told.items() if value} or None,
        )
        return None if customer == Customer() else customer
