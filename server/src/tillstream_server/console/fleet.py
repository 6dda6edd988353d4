"""The fleet and its tills: lists that filters in the address narrow, one till's life, and turning it away."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct, structs, to_builtins
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.messages import Name

from .. import fleet, office_fleet, remote
from ..states import STATES, State
from . import queries
from .live import Feed
from .pages import HEADERS, place
from .queries import Counts, Filter, Key, TillRow
from .visit import Guard, NothingHere, Visit, query

PAGE: Final = 50
CSV_PAGE: Final = 1000
LATELY_MS: Final = 24 * 3_600_000
"""Failed enrolments of so long are pointed out at the top, too."""
REFUSED: Final = 20
"""Failed enrolments that the page lists; the command lists all."""
SHARED_SECONDS: Final = 5.0
"""How long the fleet's figures are shared before they are counted again."""
ScopeKey = tuple[str | None, str | None]
_COLUMNS: Final = (
    *("retailer", "store", "till", "state", "seen_ms", "version", "queued", "lag_ms", "skew_ms", "last_error"),
    *("dead_letters", "damaged_files", "disk_free", "hook_p99", "created_ms", "revoked_ms"),
)


class FleetQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What the address may ask for. `after` is the key of the last till of the page before."""

    retailer: Name | None = None
    store: Name | None = None
    state: State | None = None
    version: Annotated[str, Meta(max_length=64)] | None = None
    name: Name | None = None
    after: Annotated[str, Meta(max_length=1024)] | None = None

    def filter(self, visit: Visit) -> Filter:
        """What of it this user may see: their own retailer and store, whatever they ask for."""
        user = visit.user
        return Filter(user.retailer or self.retailer, user.store or self.store, self.state, self.version, self.name)

    def key(self) -> Key | None:
        """The key to go on after. Raises `InvalidInput`."""
        if self.after is None:
            return None
        parts = tuple(self.after.split("\n"))
        if len(parts) != 3:
            raise InvalidInput("not the end of a page", field="after", hint="begin with the first page")
        return parts[0], parts[1], parts[2]


class Fleet:
    """The fleet's pages."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        house = guard.house

        async def count(scope: ScopeKey, _: Counts | None) -> Counts:
            async with house.database.read() as conn:
                return await queries.counts(conn, *scope, house.heard_since_ms(), as_of_ms=house.clock.now_ms())

        self.counts: Feed[ScopeKey, Counts] = Feed(count, house.events.unexpected, seconds=SHARED_SECONDS)

    def routes(self) -> list[web.RouteDef]:
        """Their routes."""
        till = "/tills/{retailer}/{store}/{till}"
        guard = self._guard
        return [
            web.get("/fleet", guard.needs("fleet", self.fleet)),
            web.get("/fleet.csv", guard.needs("fleet", self.as_csv)),
            web.get(till, guard.needs("fleet", self.till)),
            web.get(f"{till}/revoke", guard.needs("turn_away", self.ask)),
            web.post(f"{till}/revoke", guard.needs("turn_away", self.revoke)),
            web.post(f"{till}/allow-again", guard.needs("turn_away", self.allow_again)),
        ]

    async def fleet(self, visit: Visit) -> web.Response:
        """A page of tills."""
        asked = query(visit, FleetQuery)
        wanted = asked.filter(visit)
        now_ms = visit.house.clock.now_ms()
        async with visit.house.database.read() as conn:
            rows = await queries.tills(conn, wanted, visit.house.heard_since_ms(), after=asked.key(), limit=PAGE + 1)
            refused = await fleet.failures(conn, retailer=wanted.retailer, store=wanted.store, limit=REFUSED + 1)
        counts = await self.counts.latest((wanted.retailer, wanted.store))
        return visit.page(
            "fleet_rows.html" if visit.is_part() else "fleet.html",
            rows=rows[:PAGE],
            wanted=wanted,
            given={name: value for name, value in structs.asdict(wanted).items() if value},
            after="\n".join(rows[PAGE - 1].key) if len(rows) > PAGE else None,
            continued=asked.after is not None,
            counts=counts,
            states=STATES,
            refused=refused[:REFUSED],
            refused_lately=any(now_ms - int(str(one["last_ms"])) < LATELY_MS for one in refused),
            more_refused=len(refused) > REFUSED,
            as_of_ms=now_ms,
        )

    async def as_csv(self, visit: Visit) -> web.StreamResponse:
        """Every till that the filters let through."""
        asked = query(visit, FleetQuery)
        headers = {**HEADERS, "Content-Disposition": 'attachment; filename="fleet.csv"'}
        response = web.StreamResponse(headers={**headers, "Content-Type": "text/csv; charset=utf-8"})
        await response.prepare(visit.request)
        await response.write(_line(_COLUMNS))
        async for rows in _pages(visit, asked.filter(visit)):
            await response.write(b"".join(_line(_cells(row)) for row in rows))
        await response.write_eof()
        return response

    async def till(self, visit: Visit) -> web.Response:
        """One till: how it is, what happened to it, what it is set to."""
        row = await _till(visit)
        async with visit.house.database.read() as conn:
            life = await queries.life(conn, row)
            told = await remote.of_till(conn, row.till_id)
            settings = await _settings(conn, row.retailer, told)
        address = place("tills", *row.key)
        return visit.page("till.html", row=row, life=life, told=told, settings=settings, address=address)

    async def ask(self, visit: Visit) -> web.Response:
        """Whether the till is really to be turned away."""
        row = await _till(visit)
        return visit.page("revoke.html", row=row, address=place("tills", *row.key), error=None)

    async def revoke(self, visit: Visit) -> web.Response:
        """Turn a till away, if its name was typed."""
        fields = await visit.form()
        row = await _till(visit)
        address = place("tills", *row.key)
        if fields.get("confirm", "").strip() != row.till:
            error = InvalidInput("that is not the till's name", field="confirm")
            return visit.page("revoke.html", 400, row=row, address=address, error=error)
        await visit.house.office.run(office_fleet.TillRevoke(*row.key))
        visit.house.events.done_in_console(visit.user.role, "till_revoke")
        return visit.goes_to(address)

    async def allow_again(self, visit: Visit) -> web.Response:
        """Let a till in again."""
        await visit.form()
        row = await _till(visit)
        await visit.house.office.run(office_fleet.TillAllowAgain(*row.key))
        visit.house.events.done_in_console(visit.user.role, "till_allow_again")
        return visit.goes_to(place("tills", *row.key))


async def _settings(conn: AsyncConnection, retailer: str, told: Mapping[str, object] | None) -> Mapping[str, str]:
    """What head office sets in the version that a till runs with: nothing where it has none, or one from elsewhere."""
    if not told or not told["running"]:
        return {}
    try:
        return await remote.settings_of(conn, retailer, int(str(told["running"])))
    except remote.UnknownVersion:
        return {}


async def _till(visit: Visit) -> TillRow:
    """The till of the address. Raises `NothingHere`, for tills of others too."""
    named = visit.request.match_info
    key = named["retailer"], named["store"], named["till"]
    async with visit.house.database.read() as conn:
        row = await queries.till(conn, key, visit.house.heard_since_ms())
    if row is None or not visit.user.sees(row.retailer, row.store):
        raise NothingHere(f"there is no till {key[2]!r} in store {key[1]!r} of {key[0]!r}", hint="see the fleet")
    return row


async def _pages(visit: Visit, wanted: Filter) -> AsyncIterator[list[TillRow]]:
    """All tills, each page in a transaction of its own, so that a slow reader holds none open."""
    after: Key | None = None
    while True:
        async with visit.house.database.read() as conn:
            rows = await queries.tills(conn, wanted, visit.house.heard_since_ms(), after=after, limit=CSV_PAGE)
        if rows:
            yield rows
            after = rows[-1].key
        if len(rows) < CSV_PAGE:
            return


def _cells(row: TillRow) -> tuple[object, ...]:
    fields = to_builtins(row, builtin_types=(bytes,))
    return tuple(fields[name] for name in _COLUMNS)


def _line(cells: tuple[object, ...]) -> bytes:
    """One line of CSV, in which no spreadsheet takes a text for a formula."""
    made = io.StringIO(newline="")
    csv.writer(made).writerow(["" if cell is None else _harmless(cell) for cell in cells])
    return made.getvalue().encode()


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
