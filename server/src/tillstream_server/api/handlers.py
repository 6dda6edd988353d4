"""What head office asks for over HTTP. Reading goes to the queries, writing to the office's commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web

from tillstream_protocol.codec import invalid
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.messages import Name

from .. import auth, office, office_fleet, tills
from ..auth import Permission
from ..campaigns.book import UnknownCampaign, parse
from ..gateway.requests import UnsupportedMedia
from ..ledger import alarms, gaps, queries
from ..ledger.database import Database
from ..office import Office
from ..office_fleet import MAX_TILLS
from .openapi import document

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a question about figures may be bounded by."""

    store: str | None = None
    to: str | None = None
    from_: str | None = msgspec.field(default=None, name="from")


class _Till(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One till by its names."""

    retailer: Name
    store: Name
    till: Name


class _Alarms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A page of alarms: those that are not settled, or all."""

    retailer: Name | None = None
    settled: bool = False
    after: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_TILLS)] = MAX_TILLS


@dataclass(frozen=True, slots=True)
class Api:
    """Head office's routes."""

    database: Database
    office: Office

    def routes(self) -> list[web.RouteDef]:
        """Every route with the permission that it asks for."""
        campaign = "/api/v1/campaigns/{retailer}/{campaign}"
        return [
            web.get("/api/v1/ledger/summary", self._guard("summaries", self.ledger_summary)),
            web.get("/api/v1/offers/summary", self._guard("summaries", self.offers_summary)),
            web.get("/api/v1/tills", self._guard("fleet", self.list_tills)),
            web.get("/api/v1/tills/counts", self._guard("fleet", self.count_tills)),
            web.get("/api/v1/tills/failed-enrolments", self._guard("fleet", self.failed_enrolments)),
            web.get("/api/v1/tills/one", self._guard("fleet", self.show_till)),
            web.get("/api/v1/tills/gaps", self._guard("fleet", self.till_gaps)),
            web.get("/api/v1/tills/alarms", self._guard("fleet", self.till_alarms)),
            web.get("/api/v1/campaigns/{retailer}", self._guard("read_campaigns", self.list_campaigns)),
            web.get(campaign, self._guard("read_campaigns", self.get_campaign)),
            web.put(campaign, self._guard("write_campaigns", self.put_campaign)),
            web.delete(campaign, self._guard("write_campaigns", self.end_campaign)),
            web.get("/api/openapi.json", self.openapi),
        ]

    async def ledger_summary(self, request: web.Request) -> web.Response:
        """Sales, returns and exchanges of a window, and what was refused."""
        window = _query(request, _Window)
        async with self.database.read() as conn:
            return _json(await queries.summary(conn, window.from_, window.to, window.store))

    async def offers_summary(self, request: web.Request) -> web.Response:
        """What campaigns decided in a window."""
        window = _query(request, _Window)
        async with self.database.read() as conn:
            return _json(await queries.offers(conn, window.from_, window.to, window.store))

    async def list_tills(self, request: web.Request) -> web.Response:
        """The fleet, a page at a time."""
        return _json(await self.office.run(_query(request, office_fleet.TillList)))

    async def count_tills(self, request: web.Request) -> web.Response:
        """How many tills are in which state, and run which version."""
        return _json(await self.office.run(_query(request, office_fleet.TillCounts)))

    async def failed_enrolments(self, request: web.Request) -> web.Response:
        """Who was not let in, the newest first."""
        return _json(await self.office.run(_query(request, office_fleet.FailedEnrolments)))

    async def show_till(self, request: web.Request) -> web.Response:
        """Everything that is known of one till."""
        return _json(await self.office.run(_query(request, office_fleet.TillShow)))

    async def till_gaps(self, request: web.Request) -> web.Response:
        """What of one till's records is not here, and what the till says it lost."""
        named = _query(request, _Till)
        async with self.database.read() as conn:
            place = await tills.require(conn, named.retailer, named.store, named.till)
            found = await gaps.of_till(conn, place.till_id)
            return _json({"gaps": [gap.plain() for gap in found], "lost": await gaps.lost_of(conn, place.till_id)})

    async def till_alarms(self, request: web.Request) -> web.Response:
        """What does not fit together in tills' histories, a page at a time."""
        page = _query(request, _Alarms)
        async with self.database.read() as conn:
            found = await alarms.listing(
                conn, retailer=page.retailer, settled=page.settled, after=page.after, limit=page.limit
            )
        return _json({"alarms": found, "next": found[-1]["id"] if len(found) == page.limit else None})

    async def list_campaigns(self, request: web.Request) -> web.Response:
        """Every version of a retailer's campaigns."""
        return _json(await self.office.run(_command(office.CampaignList, request.match_info)))

    async def get_campaign(self, request: web.Request) -> web.Response:
        """The newest version of one campaign."""
        retailer, name = request.match_info["retailer"], request.match_info["campaign"]
        async with self.database.read() as conn:
            entries = [e for e in await self.office.book.entries(conn, retailer) if e.campaign.id == name]
        if not entries:
            raise UnknownCampaign(f"there is no campaign {name!r} at {retailer!r}", field="campaign")
        newest = max(entries, key=lambda entry: entry.campaign.version)
        return _json(
            {
                "retailer": retailer,
                "active": newest.active,
                "created_ms": newest.created_ms,
                "campaign": newest.campaign,
            }
        )

    async def put_campaign(self, request: web.Request) -> web.Response:
        """Put a campaign in force."""
        if request.content_type != "application/json":
            limit = "application/json"
            raise UnsupportedMedia(f"{request.content_type!r} is not taken", field="Content-Type", limit=limit)
        data = await request.read()
        name = request.match_info["campaign"]
        campaign = parse(data)
        if campaign.id != name:
            raise InvalidInput(f"the campaign is {campaign.id!r}, the address says {name!r}", field="id")
        return _json(await self.office.run(office.CampaignPut(request.match_info["retailer"], data.decode())))

    async def end_campaign(self, request: web.Request) -> web.Response:
        """Take a campaign out of force."""
        return _json(await self.office.run(_command(office.CampaignEnd, request.match_info)))

    async def openapi(self, _: web.Request) -> web.Response:
        """This API, described."""
        return _json(document())

    def _guard(self, permission: Permission, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            async with self.database.read() as conn:
                await auth.require(conn, request.headers.get("Authorization", ""), permission)
            return await handler(request)

        return guarded


def _query(request: web.Request, of: type[T]) -> T:
    """The query string as a type. Raises `InvalidInput` naming the parameter."""
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name in given:
            raise InvalidInput(f"{name!r} is given twice", field=name)
        given[name] = value
    return _command(of, given)


def _command(of: type[T], values: Mapping[str, str]) -> T:
    try:
        return msgspec.convert(dict(values), of, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error) from error


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
