"""The part of the loopback door that screens use: the cashier's page, what its buttons do, and pairing.

A screen shows its cookie, which no other site can have sent along (`SameSite=Strict`). A call that does something must
also come from the page itself: an exact `Origin`, and JSON, or else a form with the token that only the page knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hmac import compare_digest
from typing import Annotated, Final, cast

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from tillstream_protocol.codec import json_decoder
from tillstream_protocol.errors import InvalidInput, TillstreamError, TooLarge
from tillstream_protocol.events import Observation
from tillstream_protocol.limits import KIB

from ..capture import Captured
from ..clock import Clock
from ..display.actions import Answer, Done, Said
from ..display.stream import Display
from ..events import Events
from .counter import SurveyBody
from .guard import DISPLAY_COOKIE, JSON, Forbidden, Guard, Unauthorized, UnsupportedMedia, media_type, opened_by_hand
from .pairing import NotPaired, Pairing
from .requests import Desk
from .wire import HEADERS, vouch

PAGE: Final = "/display"
FORM: Final = "application/x-www-form-urlencoded"
COOKIE_LIFE_S: Final = 180 * 86_400
"""A screen that was not opened for this long is paired anew."""
MAX_BODY: Final = 16 * KIB
_decode: Final = json_decoder(Said, limit=MAX_BODY)
_json: Final = msgspec.json.Encoder().encode


class ByDesk:
    """The desk, as the page's buttons use it."""

    def __init__(self, desk: Desk, events: Events, clock: Clock) -> None:
        self._desk = desk
        self._events = events
        self._clock = clock

    def observe(self, kind: str, basket: str) -> None:
        """Capture an observation."""
        self._capture("observation", lambda: self._desk.remark(Observation(kind, basket=basket)))

    def survey(self, question: str, answer: str, text: str, basket: str, offer: str) -> None:
        """Capture an answer to a question."""
        body = SurveyBody(question, answer=answer, text=text, basket=basket, offer=offer)
        self._capture("survey_answer", lambda: self._desk.remark(body))

    def answer(self, offer: str, answer: Answer) -> None:
        """Capture an answer to an offer."""
        self._capture("offer_answered", lambda: self._desk.answer(offer, answer))

    def _capture(self, kind: str, capture: Callable[[], Captured]) -> None:
        started = self._clock.monotonic()
        captured = capture()
        seconds = self._clock.monotonic() - started
        self._events.captured("display", kind, "os", repeat=captured.repeat, seconds=seconds)


class PairBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/pair`."""

    code: Annotated[str, Meta(max_length=64)]


class Paired(Struct, frozen=True):
    """What a POS sends as bearer from now on."""

    token: str


_decode_pair: Final = json_decoder(PairBody, limit=MAX_BODY)
_Act = Callable[[web.Request, Said], Done]


class Screens:
    """The routes. `guard` gives the door's guard as it is when a call comes: it knows the port."""

    def __init__(self, display: Display, pairing: Pairing, guard: Callable[[], Guard], events: Events) -> None:
        self._display = display
        self._pairing = pairing
        self._guard = guard
        self._events = events

    def routes(self) -> list[web.RouteDef]:
        """What the door serves for screens."""
        actions = self._display.actions
        return [
            web.get(PAGE, self._give_page),
            web.get("/display/stream", self._give_stream),
            web.post("/display/pair", self._pair_screen),
            web.post("/display/observations", self._acting(lambda _, said: actions.observe(said))),
            web.post("/display/answers", self._acting(lambda _, said: actions.survey(said))),
            web.post("/display/dismissed", self._acting(lambda _, said: actions.dismiss(said))),
            web.post("/display/offers/{offer}/{answer:accepted|declined}", self._acting(self._answer)),
            web.get("/display/{name}", self._display.asset),
            web.post("/v1/pair", self._pair_pos),
        ]

    # Looking

    async def _give_page(self, request: web.Request) -> web.Response:
        code = request.query.get("code")
        if code is not None and request.method == "GET" and opened_by_hand(request.headers):
            return await self._pair(request, code)  # what pages can open by themselves must not use up the tries
        try:
            secret = self._guard().authenticate_display(request.headers, request.cookies)
        except Unauthorized as error:
            self._events.refused("http", error)
            if "text/html" not in request.headers.get("Accept", ""):
                raise
            return self._display.pairing_page(request)
        vouch(request)
        response = self._display.page(request, self._token(secret))
        if secret:
            _set_cookie(response, secret)
        return response

    async def _give_stream(self, request: web.Request) -> web.StreamResponse:
        secret = self._guard().authenticate_display(request.headers, request.cookies)
        vouch(request)

        def is_paired() -> bool:
            return self._guard().may_look(request.headers, request.cookies)

        return await self._display.stream(request, self._token(secret), is_paired)

    def _token(self, secret: str) -> str:
        return self._pairing.form_token(secret) if secret else ""

    # Pairing

    async def _pair_screen(self, request: web.Request) -> web.Response:
        self._guard().require_own_page(request.headers)
        return await self._pair(request, (await _form(request)).get("code", ""))

    async def _pair(self, request: web.Request, code: str) -> web.Response:
        try:
            secret = await self._pairing.redeem(code, "display")
        except NotPaired as error:
            self._events.refused("http", error)
            return self._display.pairing_page(request, wrong=True)
        query = "?screen=customer" if request.query.get("screen") == "customer" else ""
        return _set_cookie(_to_page(query), secret)

    async def _pair_pos(self, request: web.Request) -> web.Response:
        """A POS's page on an allowed origin, or a program. A code is no secret worth stealing a second time."""
        body = _decode_pair(await _json_of(request))
        origins = request.headers.getall("Origin", [])
        token = await self._pairing.redeem(body.code, "pos", origins[0] if origins else "")
        return web.Response(status=201, body=_json(Paired(token)), content_type=JSON, headers=HEADERS)

    # Doing

    def _answer(self, request: web.Request, said: Said) -> Done:
        answer = cast("Answer", request.match_info["answer"])
        return self._display.actions.answer(request.match_info["offer"], answer, said)

    def _acting(self, act: _Act) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            secret = self._guard().authenticate_page(request.headers, request.cookies)
            vouch(request)
            if request.content_type == FORM:
                return await self._act_by_form(request, secret, act)
            done = act(request, _decode(await _json_of(request)))
            return web.Response(body=_json(done), content_type=JSON, headers=HEADERS)

        return handler

    async def _act_by_form(self, request: web.Request, secret: str, act: _Act) -> web.Response:
        """Whatever becomes of it, the page is shown again, with what is there now."""
        fields = await _form(request)
        token = fields.pop("token", "").encode()
        if not compare_digest(token, self._pairing.form_token(secret).encode()):
            raise Forbidden("this form is not the page's own", field="token", hint="reload the page")
        screen = fields.pop("screen", "")
        try:
            said = msgspec.convert(fields, Said)
        except msgspec.ValidationError as error:
            raise InvalidInput("this form is not the page's own", field="body") from error
        try:
            act(request, said)
        except TillstreamError as error:
            self._events.refused("http", error)
        return _to_page("?screen=customer" if screen == "customer" else "")


async def _json_of(request: web.Request) -> bytes:
    if media_type(request.headers) != JSON:
        raise UnsupportedMedia("this content type is not read here", field="Content-Type", limit=JSON)
    return await request.read()


async def _form(request: web.Request) -> dict[str, str]:
    if request.content_type != FORM or "Content-Encoding" in request.headers:
        raise UnsupportedMedia("this content type is not read here", field="Content-Type", limit=FORM)
    if len(await request.read()) > MAX_BODY:
        raise TooLarge("the body is too large", field="body", limit=f"{MAX_BODY} bytes")
    return {name: value for name, value in (await request.post()).items() if isinstance(value, str)}


def _to_page(query: str = "") -> web.Response:
    return web.Response(status=303, headers={"Location": PAGE + query, **HEADERS})


def _set_cookie(response: web.Response, secret: str) -> web.Response:
    response.set_cookie(DISPLAY_COOKIE, secret, path=PAGE, max_age=COOKIE_LIFE_S, httponly=True, samesite="Strict")
    return response
