"""Who asks for a page, and what every page has in common: the session, the forms, the language, the errors."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, TypeVar
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web

from tillstream_protocol.codec import invalid
from tillstream_protocol.errors import InvalidInput, TillstreamError
from tillstream_protocol.signing import to_text

from .. import states, users
from ..auth import Forbidden, Randomness
from ..callers import Proxies, place_of
from ..clock import Clock
from ..events import Events
from ..ledger.database import Database
from ..office import Office
from ..users import Permission, Session, User
from .first_run import FirstRun
from .pages import HEADERS, Pages, with_query
from .showing import Showing
from .throttle import Throttle, TooManyAttempts
from .words import Dictionary, Words

T = TypeVar("T")

SESSION_COOKIE: Final = "tillstream_session"
FORM_COOKIE: Final = "tillstream_form"
MAX_FORM: Final = 16 * 1024
"""Bytes of a form."""
_FORM_LIMIT: Final = f"{MAX_FORM} bytes"
_MAX_FIELDS: Final = 32
_FORM_SECONDS: Final = 3600


class ForeignForm(InvalidInput):
    """A form that this server did not serve to this browser, or not lately."""

    code = "foreign_form"


class NothingHere(TillstreamError):
    """No such store or till, or none that this user may see: the answer is the same."""

    code = "not_found"


@dataclass(frozen=True, slots=True)
class House:
    """What the pages are made with."""

    database: Database
    office: Office
    first_run: FirstRun
    throttle: Throttle
    pages: Pages
    dictionary: Dictionary
    clock: Clock
    random: Randomness
    events: Events
    zone: ZoneInfo
    proxies: Proxies
    silent_s: float

    def heard_since_ms(self) -> int:
        """Tills that were last heard before are silent."""
        return states.heard_since_ms(self.clock.now_ms(), self.silent_s)


@dataclass(frozen=True, slots=True)
class Visit:
    """One request for a page. `session` is None for who has not signed in."""

    house: House
    request: web.Request
    words: Words
    showing: Showing
    session: Session | None

    @property
    def user(self) -> User:
        """Who is signed in, on pages that ask for it."""
        assert self.session is not None
        return self.session.user

    @property
    def address(self) -> str:
        """Where the request comes from, as far as the connection and our own proxies tell."""
        return place_of(self.request, self.house.proxies)

    def page(self, template: str, status: int = 200, **context: object) -> web.Response:
        """A page of this visit."""
        form_token = self.session.form_token if self.session else self._form_cookie()
        response = self.house.pages.response(template, {**self.context(), "form_token": form_token, **context}, status)
        if self.session is None:
            self._give(response, FORM_COOKIE, form_token, _FORM_SECONDS)
        return response

    def context(self) -> dict[str, object]:
        """What every template may show."""
        user = self.session.user if self.session else None
        return {"t": self.words, "show": self.showing, "user": user, "path": self.request.path, "form_token": ""}

    def is_part(self) -> bool:
        """Whether htmx asks for a piece of the page that is open, and not for all of it on the way back to it."""
        headers = self.request.headers
        return headers.get("HX-Request") == "true" and headers.get("HX-History-Restore-Request") != "true"

    def goes_to(self, path: str, **query: object) -> web.Response:
        """Have the browser go on to another page of ours."""
        return web.Response(status=303, headers={"Location": with_query(path, query)})

    def anew(self, path: str) -> web.Response:
        """Have htmx load a whole page, where it asked for a piece of the one that is open."""
        return web.Response(status=204, headers={**HEADERS, "HX-Redirect": path})

    def signs_in(self, id_: str) -> web.Response:
        """The answer to who has just signed in."""
        response = self.goes_to("/")
        self._give(response, SESSION_COOKIE, id_, users.SESSION_MS // 1000)
        response.del_cookie(FORM_COOKIE, path="/")
        return response

    async def form(self) -> Mapping[str, str]:
        """The fields of a form that this browser was served. Raises `ForeignForm` or `InvalidInput`."""
        if self.request.content_type != "application/x-www-form-urlencoded":
            raise InvalidInput("a form is expected", field="Content-Type", limit="application/x-www-form-urlencoded")
        size = self.request.content_length
        if size is None or size > MAX_FORM:
            raise InvalidInput("the form is too large, or does not say its length", field="body", limit=_FORM_LIMIT)
        self._refuse_other_sites()
        fields = _fields(await self.request.read())
        wanted = self.session.form_token if self.session else self.request.cookies.get(FORM_COOKIE, "")
        given = fields.get("form_token", "")
        if not wanted or not hmac.compare_digest(wanted.encode(errors="replace"), given.encode()):
            raise ForeignForm("the form is too old, or not one of ours", hint="load the page anew and try again")
        return fields

    def _refuse_other_sites(self) -> None:
        headers = self.request.headers
        origin = headers.get("Origin")
        foreign = origin is not None and origin.partition("://")[2] != self.request.host
        if foreign or headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise ForeignForm("the form comes from another site", field="Origin", hint="open the page itself")

    def _form_cookie(self) -> str:
        """What a form is known by before anybody has signed in: the browser's own, or a new one."""
        given = self.request.cookies.get(FORM_COOKIE, "")
        return given if len(given) == len(to_text(bytes(32))) and given.isascii() else to_text(self.house.random(32))

    def _give(self, response: web.Response, name: str, value: str, seconds: int) -> None:
        """A cookie that no script reads and no other site sends."""
        secure = self.request.scheme == "https" or not _is_loopback(self.request.host)
        response.set_cookie(name, value, max_age=seconds, path="/", httponly=True, samesite="Strict", secure=secure)


View = Callable[[Visit], Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Guard:
    """Turns views into handlers: who may not see them is told so, and so is what goes wrong."""

    house: House
    status_of: Callable[[TillstreamError], int]

    def anybody(self, view: View) -> Handler:
        """A page that needs no session."""

        async def handler(request: web.Request) -> web.StreamResponse:
            return await self._answer(await self._visit(request), view)

        return handler

    def needs(self, permission: Permission | None, view: View) -> Handler:
        """A page for who has signed in and has a permission."""

        async def allowed(visit: Visit) -> web.StreamResponse:
            if permission is not None and not visit.user.may(permission):
                raise Forbidden(f"the role {visit.user.role} may not do this")
            return await view(visit)

        async def handler(request: web.Request) -> web.StreamResponse:
            visit = await self._visit(request)
            if visit.session is None:
                return visit.goes_to("/sign-in") if not visit.is_part() else visit.anew("/sign-in")
            return await self._answer(visit, allowed)

        return handler

    async def _visit(self, request: web.Request) -> Visit:
        house = self.house
        now_ms = house.clock.now_ms()
        words = house.dictionary.words(request.headers.get("Accept-Language", ""))
        id_ = request.cookies.get(SESSION_COOKIE, "")
        session = await users.find_session(house.database, id_, now_ms) if id_ else None
        return Visit(house, request, words, Showing(words, house.zone, now_ms), session)

    async def _answer(self, visit: Visit, view: View) -> web.StreamResponse:
        try:
            return await view(visit)
        except TillstreamError as error:
            if visit.request.writer.output_size:  # too late for a page of it
                raise
            if visit.is_part():
                return visit.anew(visit.request.path_qs)
            status = _status(error) or self.status_of(error)
            response = visit.page("error.html", status, error=error, answer=status)
            if isinstance(error, TooManyAttempts):
                response.headers["Retry-After"] = str(error.seconds)
            return response


def query(visit: Visit, of: type[T]) -> T:
    """The query string as a type; what is empty is left out. Raises `InvalidInput` naming the parameter."""
    given = {name: value for name, value in visit.request.query.items() if value}
    try:
        return msgspec.convert(given, of, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error) from error


def _fields(body: bytes) -> Mapping[str, str]:
    """A form's fields; browsers send it in UTF-8, as the page has it. Raises `InvalidInput`."""
    try:
        return dict(
            parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
        )
    except ValueError as error:
        raise InvalidInput("this is not a form in UTF-8", field="body") from error


def _status(error: TillstreamError) -> int | None:
    if isinstance(error, ForeignForm):
        return 403
    if isinstance(error, NothingHere):
        return 404
    return 429 if isinstance(error, TooManyAttempts) else None


def _is_loopback(host: str) -> bool:
    """Whether a Host header names this machine itself: there, cookies need no TLS to be safe."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name in ("localhost", "") or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
