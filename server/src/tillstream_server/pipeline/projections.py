"""The projections of one retailer: reads what a set of ledger entries touches, folds them in memory, writes back.

The pipeline runs a batch through here, a rebuild the whole ledger page by page: one fold, so that both come to the
same. `load` → `Projector.take` for each entry, in order → `write`, all in one transaction.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.transaction import Transaction

from ..ledger.bodies import decode_transaction
from ..ledger.database import Statement, execute_all
from ..ledger.lookup import Row, among, look_up
from ..ledger.quarters import HOUR_MS, QUARTER_MS, QUARTERS
from . import members as figured
from .figures import Products, figures, is_visit
from .members import Member, Members
from .sales import Entry, Holding, Sales, Taken


class Deltas:
    """What the entries of a fold add to the figures, or take away.

    It knows nothing of the fold: in a circle, all that a batch has made would stay until a garbage collection.
    """

    def __init__(self, members: Members) -> None:
        self.members = members
        self.hours: defaultdict[tuple[str, int, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        """(store, hour, currency) → transactions, amount, lines."""
        self.quarters: defaultdict[tuple[int, str, str], list[int]] = defaultdict(lambda: [0, 0] * QUARTERS)
        """(hour of UTC, store, currency) → transactions and amount, of each quarter in turn."""
        self.products: defaultdict[tuple[str, str, str], Products] = defaultdict(dict)
        """(business date, store, currency) → SKU → quantity, amount, lines."""
        self.reversed = False
        """Whether anything was taken back, so that a row may have come to nothing."""

    def apply(self, entry: Entry, sign: int) -> None:
        """Add an entry that begins to count, or take back one that ceases to."""
        body = entry.body
        products = self.products[body.business_date, body.store, body.currency]
        made = figures(body, products, sign)
        if sign < 0:
            self.reversed = True
        hour = self.hours[body.store, made.hour_ms, made.currency]
        hour[0] += sign
        hour[1] += sign * made.amount
        hour[2] += sign * made.lines
        place = made.at_ms % HOUR_MS // QUARTER_MS * 2
        quarters = self.quarters[made.at_ms - made.at_ms % HOUR_MS, body.store, made.currency]
        quarters[place] += sign
        quarters[place + 1] += sign * made.amount
        if entry.subject is not None:
            self.members.apply(entry.subject, made, sign)


class Projector:
    """Folds entries into deltas. `load` makes one with everything that its entries may touch."""

    def __init__(
        self,
        retailer: str,
        holdings: dict[bytes, Holding],
        voided_by: dict[bytes, set[bytes]],
        members: dict[bytes, Member],
    ) -> None:
        self.retailer = retailer
        self.members = Members(members)
        self.deltas = Deltas(self.members)
        self.sales = Sales(holdings, voided_by, self.deltas.apply)

    def take(self, entry: Entry) -> Taken:
        """Fold one entry of the ledger in."""
        return self.sales.take(entry)


async def load(
    conn: AsyncConnection,
    retailer: str,
    entries: Collection[Entry],
    subjects: Iterable[bytes] = (),
    fresh: Collection[bytes] = (),
) -> Projector:
    """A projector that knows what the database has on these entries, their members, and further subjects.

    `fresh` are keys of which the ledger is known to hold nothing.
    """
    keys = {entry.idem for entry in entries}.union(*(entry.targets for entry in entries))
    held = await _held(conn, retailer, keys.difference(fresh))
    targets = await _targets_of(conn, retailer, [one.idem for one in held if one.body.kind == "void"])
    further = set[bytes]().union(*targets.values()) - keys
    held += await _held(conn, retailer, further)
    holdings = {one.idem: one.holding(frozenset(targets.get(one.idem, ()))) for one in held}
    buyers = {e.subject for e in entries}
    held_by = {h.entry.subject: h.counted for h in sorted(holdings.values(), key=lambda h: h.counted)}
    touched = {s for s in {*subjects, *buyers, *held_by} if s is not None}
    reversible = {s for s, counted in held_by.items() if counted and s is not None}
    voids, stats, visits = await look_up(
        conn,
        (_READ_VOIDS, keys | further, (retailer,)),
        (_READ_MEMBERS, sorted(touched), ()),
        (_READ_VISITS, {member_number(s) for s in reversible}, ()),
    )
    paid = [visit for visit in visits if visit[0] in reversible]
    return Projector(retailer, holdings, _gathered(voids), figured.read(stats, paid, reversible))


async def write(conn: AsyncConnection, p: Projector) -> None:
    """Write what the fold came to."""
    await execute_all(conn, statements(p))


def statements(p: Projector) -> list[Statement]:
    """What writes what the fold came to. It only computes, for as long as the fold itself."""
    return [*_puts(p), *(_drops(p) if p.deltas.reversed else ())]


def _puts(p: Projector) -> Iterator[Statement]:
    yield "DELETE FROM sale WHERE ledger_id = ?", [(ledger_id,) for ledger_id in p.sales.outdated()]
    yield _ADD_SALE, [_sale_row(held) for held in p.sales.changed.values()]
    yield _DROP_VOIDING, [(p.retailer, *pair) for pair, voids in p.sales.voidings.items() if not voids]
    yield _ADD_VOIDING, [(p.retailer, *pair) for pair, voids in p.sales.voidings.items() if voids]
    yield _ADD_HOURS, [(p.retailer, *key, *delta) for key, delta in p.deltas.hours.items() if any(delta)]
    yield (
        _ADD_QUARTERS,
        [
            (hour_ms, p.retailer, *key, *delta)
            for (hour_ms, *key), delta in sorted(p.deltas.quarters.items())
            if any(delta)
        ],
    )
    yield _ADD_DAYS, [(day_id(p.retailer, *day), p.retailer, *day) for day, sold in p.deltas.products.items() if sold]
    yield _ADD_PRODUCTS, _product_rows(p)
    yield _PUT_MEMBER, [_member_row(p, *key) for key in sorted(p.members.touched)]


@lru_cache(maxsize=4_096)
def day_id(retailer: str, business_date: str, store: str, currency: str) -> int:
    """The id of a `product_day`: 63 bits of a hash, so that a rebuild finds the same, in whatever order."""
    named = "\0".join((retailer, business_date, store, currency)).encode()
    return int.from_bytes(hashlib.blake2b(named, digest_size=8).digest(), "big") >> 1


def member_number(subject: bytes) -> int:
    """What visits are found by: 31 bits of the subject, since an index of small numbers takes half the room and time.

    A few subjects share one. Whose a visit is, the ledger's row says.
    """
    return int.from_bytes(subject[:4], "big") >> 1


@lru_cache(maxsize=4_096)
def place_number(till_id: bytes, store: str) -> int:
    """What a till's sales in a store are found by: 63 bits of a hash, so that no two of them share one."""
    return int.from_bytes(hashlib.blake2b(till_id + store.encode(), digest_size=8).digest(), "big") >> 1


def _product_rows(p: Projector) -> list[tuple[object, ...]]:
    """Rows in the order of the table's key, so that neighbours are written together."""
    days = {day_id(p.retailer, *day): products for day, products in p.deltas.products.items()}
    rows: list[tuple[object, ...]] = []
    for id_ in sorted(days):
        products = days[id_]
        rows += [(id_, sku, *delta) for sku, delta in sorted(products.items())]
    return [row for row in rows if any(row[2:])] if p.deltas.reversed else rows


def _member_row(p: Projector, subject: bytes, currency: str) -> tuple[object, ...]:
    return (subject, currency, p.retailer, *p.members[subject].purses[currency].row())


def _drops(p: Projector) -> Iterator[Statement]:
    """A row that nothing contributes to is no row: so a rebuild finds it too."""
    yield _DROP_HOURS, [(p.retailer, *key) for key in p.deltas.hours]
    yield _DROP_QUARTERS, [(hour_ms, p.retailer, *key) for hour_ms, *key in p.deltas.quarters]
    days = {day_id(p.retailer, *day): products for day, products in p.deltas.products.items()}
    yield _DROP_PRODUCTS, [(id_, sku) for id_, products in days.items() for sku in products]
    yield _DROP_DAYS, [(id_,) for id_ in days]
    yield _DROP_MEMBERS, list(p.members.touched)


# Reading


@dataclass(frozen=True, slots=True)
class _Held:
    """What holds, as the ledger has it. `names` are when it was captured, seq and till: as it came first, which is the
    ledger's own, and where it came again, the highest of those."""

    idem: bytes
    ledger_id: int
    content: bytes
    subject: bytes | None
    counted: bool
    body: Transaction
    names: Sequence[tuple[int, int, bytes]]

    def holding(self, targets: frozenset[bytes]) -> Holding:
        """It has the highest of its ranks; the first where the POS dates its changes. See `sales`."""
        captured_ms, seq, till_id = max(self.names) if self.body.changed_at is None else self.names[0]
        entry = Entry(
            idem=self.idem,
            ledger_id=self.ledger_id,
            captured_ms=captured_ms,
            seq=seq,
            content=self.content,
            body=self.body,
            till_id=till_id,
            first_till=self.names[0][2],
            subject=self.subject,
            targets=targets,
        )
        return Holding(entry, self.counted)


async def _held(conn: AsyncConnection, retailer: str, keys: Collection[bytes]) -> list[_Held]:
    rows, copies = await look_up(conn, (_READ_HELD, keys, (retailer,)), (_READ_COPIES, keys, (retailer,)))
    further: defaultdict[int, list[tuple[int, int, bytes]]] = defaultdict(list)
    for ledger_id, *name in copies:
        further[ledger_id].append(tuple(name))
    return [
        _Held(idem, id_, content, subject, bool(counted), decode_transaction(body), [tuple(name), *further[id_]])
        for idem, id_, content, subject, counted, body, *name in rows
    ]


async def _targets_of(conn: AsyncConnection, retailer: str, voids: Iterable[bytes]) -> dict[bytes, set[bytes]]:
    """Void → the transactions that it voids."""
    return _gathered(await among(conn, _READ_TARGETS, voids, retailer))


def _gathered(pairs: Iterable[Row]) -> dict[bytes, set[bytes]]:
    """What goes with each key, from rows of a key and something."""
    found: defaultdict[bytes, set[bytes]] = defaultdict(set)
    for key, one in pairs:
        found[key].add(one)
    return found


_READ_HELD: Final = """
SELECT l.idem, l.id, l.content, l.subject, s.counted_ms IS NOT NULL, l.body, l.captured_ms, l.seq, l.till_id
FROM ledger l JOIN sale s ON s.ledger_id = l.id
WHERE l.retailer = ? AND l.idem IN (?)
"""
_READ_COPIES: Final = """
SELECT d.ledger_id, d.captured_ms, d.seq, d.till_id FROM ledger l JOIN duplicate d ON (d.till_id, d.epoch, d.seq) = (
    SELECT till_id, epoch, seq FROM duplicate WHERE ledger_id = l.id
    ORDER BY captured_ms DESC, seq DESC, till_id DESC LIMIT 1
)
WHERE l.retailer = ? AND l.idem IN (?)
"""
"""Of the names of a content the highest: a POS may say the same all day long."""
_READ_VOIDS: Final = "SELECT target, idem FROM voiding WHERE retailer = ? AND target IN (?)"
_READ_TARGETS: Final = "SELECT idem, target FROM voiding WHERE retailer = ? AND idem IN (?)"
_READ_MEMBERS: Final = """
SELECT subject, currency, transactions, visits, spend_minor, last_visit_ms, categories FROM member_stats
WHERE subject IN (?)
"""
_READ_VISITS: Final = """
SELECT l.subject, l.currency, l.at_ms FROM sale s JOIN ledger l ON l.id = s.ledger_id WHERE s.member IN (?)
"""


# Writing


def _sale_row(held: Holding) -> tuple[int, int | None, int | None, int | None]:
    entry = held.entry
    if not held.counted:
        return (entry.ledger_id, None, None, None)
    body = entry.body
    member = member_number(entry.subject) if entry.subject is not None and is_visit(body) else None
    return (entry.ledger_id, body.end.at, member, place_number(entry.first_till, body.store))


_ADD_SALE: Final = "INSERT INTO sale (ledger_id, counted_ms, member, place) VALUES (?, ?, ?, ?)"

_DROP_VOIDING: Final = "DELETE FROM voiding WHERE retailer = ? AND target = ? AND idem = ?"
_ADD_VOIDING: Final = "INSERT INTO voiding (retailer, target, idem) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"

_ADD_HOURS: Final = """
INSERT INTO sales_by_hour (retailer, store, hour_ms, currency, transactions, amount_minor, lines)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (retailer, store, hour_ms, currency) DO UPDATE SET
    transactions = transactions + excluded.transactions,
    amount_minor = amount_minor + excluded.amount_minor,
    lines = lines + excluded.lines
"""
_DROP_HOURS: Final = """
DELETE FROM sales_by_hour
WHERE retailer = ? AND store = ? AND hour_ms = ? AND currency = ? AND transactions = 0
"""

_COUNTED: Final = [f"{name}_{quarter}" for quarter in range(QUARTERS) for name in ("transactions", "amount_minor")]
_ADD_QUARTERS: Final = f"""
INSERT INTO sales_by_quarter (hour_ms, retailer, store, currency, {", ".join(_COUNTED)})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (hour_ms, retailer, store, currency) DO UPDATE SET
    {", ".join(f"{name} = {name} + excluded.{name}" for name in _COUNTED)}
"""  # noqa: S608
_DROP_QUARTERS: Final = f"""
DELETE FROM sales_by_quarter
WHERE hour_ms = ? AND retailer = ? AND store = ? AND currency = ?
    AND ({", ".join(["0"] * QUARTERS)}) = ({", ".join(_COUNTED[::2])})
"""  # noqa: S608

_ADD_DAYS: Final = """
INSERT INTO product_day (id, retailer, business_date, store, currency) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_DROP_DAYS: Final = """
DELETE FROM product_day WHERE id = ? AND NOT EXISTS (SELECT 1 FROM products_by_day WHERE day = product_day.id)
"""
_ADD_PRODUCTS: Final = """
INSERT INTO products_by_day (day, sku, quantity_micro, amount_minor, lines) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (day, sku) DO UPDATE SET
    quantity_micro = quantity_micro + excluded.quantity_micro,
    amount_minor = amount_minor + excluded.amount_minor,
    lines = lines + excluded.lines
"""
_DROP_PRODUCTS: Final = """
DELETE FROM products_by_day WHERE day = ? AND sku = ? AND lines = 0
"""

_PUT_MEMBER: Final = """
INSERT OR REPLACE INTO member_stats (subject, currency, retailer, transactions, visits, spend_minor, last_visit_ms,
    categories)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_DROP_MEMBERS: Final = "DELETE FROM member_stats WHERE subject = ? AND currency = ? AND transactions = 0"
