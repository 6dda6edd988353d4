"""The book of campaigns: what head office wrote, checked and made ready to decide by.

Every version of a campaign stays in the database, since a till may still decide by an old one; at most one version
is active. Each change of a retailer's book gives it the next version, which is also the version of its packs. The
compiled rules are held in memory; a transaction that decides by them takes what `refresh` gives and keeps to it, so
that a change made by another transaction, or rolled back with it, is never missed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.codec import encode, json_decoder
from tillstream_protocol.decisions import Campaign, Rule, Trigger, ranked, ready
from tillstream_protocol.effects import Discount
from tillstream_protocol.errors import InvalidInput, TillstreamError, TooLarge
from tillstream_protocol.rules import variables_of

from ..ledger import schema
from ..ledger.lookup import rows_of

MAX_CAMPAIGN: Final = 128 * 1024
"""Bytes of a campaign's JSON file."""
MAX_ACTIVE: Final = 5_000
MAX_BOOK: Final = 6 * 1024 * 1024
"""Bytes of a retailer's active campaigns as a pack carries them, which leaves room for the leases."""

_decode = json_decoder(Campaign, limit=MAX_CAMPAIGN)


class UnknownCampaign(TillstreamError):
    """A campaign that the retailer does not have, or that is not active."""

    code = "unknown_campaign"


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of a campaign as the book holds it; `created_ms` is when it was put there."""

    retailer: str
    campaign: Campaign
    active: bool
    created_ms: int


def parse(data: bytes) -> Campaign:
    """A campaign from its JSON file. Raises `InvalidInput` or `TooLarge` naming the field."""
    campaign = _decode(data)
    check(campaign)
    return campaign


def check(campaign: Campaign) -> Rule:
    """The campaign made ready, or `InvalidInput` naming the place of what the types let through."""
    rule = ready(campaign)
    _check_trigger(rule)
    for index, effect in enumerate(campaign.effects):
        if isinstance(effect, Discount):
            _check_discount(effect, f"effects[{index}]")
    if campaign.budget is not None and campaign.budget.lease > campaign.budget.units:
        raise InvalidInput("a lease is larger than the budget", field="budget.lease", limit=str(campaign.budget.units))
    if len(set(campaign.stores)) != len(campaign.stores):
        raise InvalidInput("a store is named twice", field="stores")
    return rule


def _check_trigger(rule: Rule) -> None:
    campaign = rule.campaign
    if campaign.trigger == "basket" and not rule.at_edge:
        raise InvalidInput(
            "a till cannot decide this on an open basket",
            field="condition" if campaign.once_per == "record" else "once_per",
            hint="use what a till knows by itself, and once_per record",
        )
    if campaign.trigger != "member_identified":
        return
    for variable in variables_of(campaign.condition):
        if variable.startswith("sale."):
            raise InvalidInput(
                f"{variable} is never known when a member identifies themself",
                field="condition",
                hint="use the trigger transaction or basket, or variables of member, till and time",
            )


def _check_discount(discount: Discount, place: str) -> None:
    if discount.currency is not None and discount.amount is None:
        raise InvalidInput("a currency goes with an amount", field=f"{place}.currency")
    if (discount.scope == "line") != (discount.sku is not None):
        raise InvalidInput("a sku goes with the scope line, and only there", field=f"{place}.sku")


@dataclass(frozen=True, slots=True)
class Shelf:
    """One retailer's book as a transaction sees it: the active campaigns, ranked, and `every` version there was.

    `by_trigger` are the active ones that each trigger may set off, ranked too.
    """

    version: int
    rules: tuple[Rule, ...]
    every: Mapping[tuple[str, int], Rule]
    by_trigger: Mapping[Trigger, tuple[Rule, ...]]


_UNTOUCHED: Final = 1
"""The version of a book before its first change: a pack's version is at least 1."""
_EMPTY: Final = Shelf(_UNTOUCHED, (), {}, {})


class CampaignBook:
    """Each retailer's campaigns. Reading from memory is synchronous; `load` and `refresh` bring memory up to date."""

    def __init__(self) -> None:
        self._shelves: dict[str, Shelf] = {}

    async def load(self, conn: AsyncConnection) -> None:
        """Read the books of all retailers."""
        retailers = (await conn.execute(select(schema.book_version.c.retailer))).scalars().all()
        self._shelves = {retailer: await _read_shelf(conn, retailer) for retailer in retailers}

    async def refresh(self, conn: AsyncConnection, retailer: str) -> Shelf:
        """A retailer's book, read again if it has changed since it was last read."""
        shelf = self._shelf(retailer)
        if await _read_version(conn, retailer) != shelf.version:
            shelf = self._shelves[retailer] = await _read_shelf(conn, retailer)
        return shelf

    def version(self, retailer: str) -> int:
        """Grows with each change; 1 before the first."""
        return self._shelf(retailer).version

    def rules(self, retailer: str) -> tuple[Rule, ...]:
        """The active campaigns."""
        return self._shelf(retailer).rules

    async def put(self, conn: AsyncConnection, retailer: str, campaign: Campaign, now_ms: int) -> bool:
        """Make this version the active one, and say whether that changed anything.

        The very campaign that is active already changes nothing. Raises `InvalidInput` if it is not sound or its
        version is not above all former ones, `TooLarge` if the tills could not carry the book.
        """
        check(campaign)
        active = (await conn.exec_driver_sql(_ACTIVE, (retailer, campaign.id))).scalar_one_or_none()
        if active is not None and _stored(active) == campaign:
            return False
        highest = (await conn.exec_driver_sql(_HIGHEST, (retailer, campaign.id))).scalar_one()
        _check_version(campaign, highest)
        size = len(encode(campaign))
        others, their_size = map(int, (await conn.exec_driver_sql(_OTHERS, (retailer, campaign.id))).one())
        _check_room(others + 1, their_size + size)
        await conn.exec_driver_sql(_RETIRE, (retailer, campaign.id))
        row = (retailer, campaign.id, campaign.version, msgspec.json.encode(campaign), size, now_ms)
        await conn.exec_driver_sql(_PUT, row)
        await _next_version(conn, retailer)
        return True

    async def end(self, conn: AsyncConnection, retailer: str, campaign: str) -> None:
        """Take a campaign out of force. Raises `UnknownCampaign` where it is not active."""
        ended = await conn.exec_driver_sql(_RETIRE, (retailer, campaign))
        if ended.rowcount == 0:
            raise UnknownCampaign(
                f"no campaign {campaign!r} is active at {retailer!r}", field="campaign", hint="list the campaigns"
            )
        await _next_version(conn, retailer)

    async def entries(self, conn: AsyncConnection, retailer: str | None = None) -> list[Entry]:
        """Every version of every campaign, of one retailer or of all, in order of retailer, id and version."""
        table = schema.campaign.c
        wanted = select(table.retailer, table.body, table.active, table.created_ms)
        if retailer is not None:
            wanted = wanted.where(table.retailer == retailer)
        rows = await conn.execute(wanted.order_by(table.retailer, table.id, table.version))
        return [Entry(name, _stored(body), bool(active), created) for name, body, active, created in rows.all()]

    def _shelf(self, retailer: str) -> Shelf:
        return self._shelves.get(retailer, _EMPTY)


_stored = msgspec.json.Decoder(Campaign).decode

_ACTIVE: Final = "SELECT body FROM campaign WHERE retailer = ? AND id = ? AND active = 1"
_HIGHEST: Final = "SELECT COALESCE(MAX(version), 0) FROM campaign WHERE retailer = ? AND id = ?"
_OTHERS: Final = """
SELECT COUNT(*), COALESCE(SUM(size), 0) FROM campaign WHERE retailer = ? AND active = 1 AND id <> ?
"""
_RETIRE: Final = "UPDATE campaign SET active = 0 WHERE retailer = ? AND id = ? AND active = 1"
_PUT: Final = """
INSERT INTO campaign (retailer, id, version, body, size, active, created_ms) VALUES (?, ?, ?, ?, ?, 1, ?)
"""


async def _read_version(conn: AsyncConnection, retailer: str) -> int:
    rows = await rows_of(conn, "SELECT version FROM book_version WHERE retailer = ?", retailer)
    return int(rows[0][0]) if rows else _UNTOUCHED


async def _read_shelf(conn: AsyncConnection, retailer: str) -> Shelf:
    table = schema.campaign.c
    rows = await conn.execute(select(table.body, table.active).where(table.retailer == retailer))
    rules = [(ready(_stored(body)), bool(active)) for body, active in rows.all()]
    active_rules = ranked(rule for rule, active in rules if active)
    by_trigger: defaultdict[Trigger, list[Rule]] = defaultdict(list)
    for rule in active_rules:
        by_trigger[rule.campaign.trigger].append(rule)
    return Shelf(
        await _read_version(conn, retailer),
        active_rules,
        {(rule.campaign.id, rule.campaign.version): rule for rule, _ in rules},
        {trigger: tuple(some) for trigger, some in by_trigger.items()},
    )


async def _next_version(conn: AsyncConnection, retailer: str) -> None:
    await conn.exec_driver_sql(
        "INSERT INTO book_version (retailer, version) VALUES (?, ?)"
        " ON CONFLICT (retailer) DO UPDATE SET version = book_version.version + 1",
        (retailer, _UNTOUCHED + 1),
    )


def _check_version(campaign: Campaign, highest: int) -> None:
    if campaign.version <= highest:
        raise InvalidInput(
            f"version {highest} of {campaign.id!r} is in the book already",
            field="version",
            limit=f"at least {highest + 1}",
        )


def _check_room(active: int, size: int) -> None:
    if active > MAX_ACTIVE:
        raise TooLarge(
            f"{active} active campaigns", field="id", limit=str(MAX_ACTIVE), hint="end campaigns that are over"
        )
    if size > MAX_BOOK:
        raise TooLarge(
            f"{size} bytes of active campaigns",
            field="body",
            limit=f"{MAX_BOOK} bytes",
            hint="end campaigns that are over",
        )
