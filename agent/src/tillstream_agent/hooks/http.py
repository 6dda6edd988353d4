"""The loopback HTTP door."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar, cast

import msgspec
from aiohttp import web

from tillstream_protocol.codec import encode, json_decoder, msgpack_decoder
from tillstream_protocol.errors import InvalidInput, TillstreamError, TooLarge
from tillstream_protocol.events import MemberIdentified, Observation, WishListEntry
from tillstream_protocol.limits import Limits
from tillstream_protocol.transaction import Transaction

from ..capture import Captured
from ..clock import Clock
from ..display.actions import Stale
from ..display.stream import Display
from ..events import Events
from ..journal import JournalError
from ..metrics import AgentMetrics, Gauges
from .cors import VARY, method_of, preflight, shared
from .counter import BasketBody, SurveyBody, Taken
from .crowd import Caps, Rates, TooManyCalls
from .guard import JSON, MSGPACK, Forbidden, Guard, Unauthorized, UnsupportedMedia, media_type
from .guard import wants_msgpack as wants
from .pairing import NotPaired, Pairing
from .payloads import Payloads
from .replies import Ack
from .requests import Answer, Desk, Refusal, status_of
from .screens import Screens
from .wire import HEADERS, QuietRunner, not_http, vouch

T = TypeVar("T")
HOST: Final = "127.0.0.1"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_GUARD_STATUSES: Final[dict[type[TillstreamError], int]] = {
    Forbidden: 403,
    NotPaired: 403,
    Stale: 409,
    TooManyCalls: 429,
    Unauthorized: 401,
    UnsupportedMedia: 415,
}
_json: Final = msgspec.json.Encoder().encode


class PortInUse(TillstreamError):
    """Something else listens on the hook's port."""

    code = "port_in_use"


class NotFound(TillstreamError):
    """There is nothing at this path."""

    code = "not_found"


class MethodNotAllowed(TillstreamError):
    """There is something at this path, but not by this method."""

    code = "method_not_allowed"


class _Decoders(Generic[T]):
    """Reads one type of body in both content types."""

    def __init__(self, kind: type[T], limit: int) -> None:
        self._decoders = {JSON: json_decoder(kind, limit=limit), MSGPACK: msgpack_decoder(kind, limit=limit)}

    async def read(self, request: web.Request) -> T:
        """The body of a request. Raises `UnsupportedMedia`, `InvalidInput` or `TooLarge`."""
        return self._decoders[media_type(request.headers)](await request.read())


class HttpDoor:
    """Serves the hook, the metrics and the cashier's page on the loopback address."""

    def __init__(
        self,
        desk: Desk,
        payloads: Payloads,
        display: Display,
        pairing: Pairing,
        events: Events,
        metrics: AgentMetrics,
        clock: Clock,
        *,
        token: str,
        origins: tuple[str, ...],
        limits: Limits,
        gauges: Callable[[], Gauges],
        caps: Caps = Caps(),  # noqa: B008 (it is frozen)
    ) -> None:
        self._desk = desk
        self._payloads = payloads
        self._display = display
        self._events = events
        self._metrics = metrics
        self._clock = clock
        self._token = token
        self._origins = origins
        self._gauges = gauges
        self._limit = limits.hook_body
        self._pairing = pairing
        self._guard = Guard(token, 0, pairing)
        self._screens = Screens(display, pairing, lambda: self._guard, events)
        self._caps = caps
        self._rates = Rates(caps)
        self._transactions = _Decoders(Transaction, self._limit)
        self._baskets = _Decoders(BasketBody, self._limit)
        self._runner: QuietRunner | None = None

    async def open(self, port: int) -> int:
        """Listen on the loopback address; port 0 takes any. Returns the port. Raises `PortInUse`."""
        runner = QuietRunner(self._application(), self._events, self._caps, shutdown_timeout=2.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, port, reuse_address=True).start()
        except OSError as error:
            await runner.cleanup()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            reason = "is in use" if error.errno == errno.EADDRINUSE else "may not be used by this user"
            raise PortInUse(f"port {port} {reason}", hint="give another with --hook-port") from error
        self._runner = runner
        bound = int(runner.addresses[0][1])
        self._guard = Guard(self._token, bound, self._pairing, self._origins)
        return bound

    async def close(self) -> None:
        """Stop listening, and end what is open."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _application(self) -> web.Application:
        identify = self._taking("member_identified", MemberIdentified, self._desk.identify)
        observe = self._taking("observation", Observation, self._desk.remark)
        survey = self._taking("survey_answer", SurveyBody, self._desk.remark)
        wish = self._taking("wish_list_entry", WishListEntry, self._desk.remark)
        app = web.Application(client_max_size=self._limit, middlewares=[self._share, self._answer_errors])
        app.add_routes(
            [
                web.post("/v1/transactions", self._for_pos(self._take_transaction)),
                web.put("/v1/baskets/{id}", self._for_pos(self._take_basket)),
                web.post("/v1/members/identify", self._for_pos(identify)),
                web.post("/v1/observations", self._for_pos(observe)),
                web.post("/v1/survey-answers", self._for_pos(survey)),
                web.post("/v1/wish-list", self._for_pos(wish)),
                web.post("/v1/offers/{offer}/{answer:accepted|declined}", self._for_pos(self._take_answer)),
                web.post("/v1/adapters/{name}", self._for_pos(self._take_payload)),
                web.get("/v1/status", self._for_pos(self._give_status)),
                web.get("/healthz", self._give_health),
                web.get("/metrics", self._give_metrics),
                *self._screens.routes(),
            ]
        )
        app.on_shutdown.append(self._display.close)
        return app

    # Who may call

    @web.middleware
    async def _share(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a page of a configured origin read the answers that are meant for it, the errors too."""
        response = await handler(request)
        if method_of(request.rel_url.raw_path) is not None and not response.prepared:
            origin = self._guard.shared_origin(request.headers)
            response.headers.update(VARY if origin is None else shared(origin))
        return response

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._admit(request)
            if request.method == "OPTIONS":
                return self._preflight(request)
            return await handler(request)
        except TillstreamError as error:
            return self._refuse(request, error)
        except web.HTTPRequestEntityTooLarge:
            return self._refuse(request, TooLarge("the body is too large", field="body", limit=f"{self._limit} bytes"))
        except web.HTTPRedirection:
            raise
        except web.HTTPException as error:
            return self._misdirected(request, error)
        except web.RequestPayloadError:
            response = self._refuse(request, not_http())
            response.force_close()
            return response
        except ConnectionError as error:
            if not _is_gone(request):
                return self._crashed(request, error)
            self._events.disconnected("http")
            raise
        except Exception as error:  # noqa: BLE001 (the border of the process: a defect must not end the door)
            return self._crashed(request, error)

    def _admit(self, request: web.Request) -> None:
        headers = request.headers
        if trusted := self._guard.knows(headers):
            vouch(request)
            caller = f"token {self._guard.shared_origin(headers)}"
        elif request.method == "OPTIONS" and (origin := self._guard.shared_origin(headers)) is not None:
            caller = origin
        else:
            caller = "screen" if self._guard.knows_screen(request.cookies) else ""
        self._rates.count(caller, self._clock.monotonic(), trusted=trusted)
        opened = request.method == "GET" and request.path.startswith("/display")
        self._guard.admit(headers, request.raw_path, opened=opened)

    def _preflight(self, request: web.Request) -> web.Response:
        if self._guard.shared_origin(request.headers) is None:
            raise Forbidden("only pages of configured origins may ask", field="Origin", hint="see hook.origins")
        granted = preflight(request.headers, request.rel_url.raw_path)
        return web.Response(status=204, headers={**HEADERS, **granted})

    def _for_pos(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self._guard.authenticate(request.headers)
            return await handler(request)

        return guarded

    # What they may call

    async def _take_transaction(self, request: web.Request) -> web.Response:
        started = self._clock.monotonic()
        ack = _ack(request)
        body = await self._transactions.read(request)
        return await self._replied("transaction", request, self._desk.transaction(body), ack, started)

    async def _take_basket(self, request: web.Request) -> web.Response:
        started = self._clock.monotonic()
        ack = _ack(request)
        body = await self._baskets.read(request)
        done = self._desk.basket(request.match_info["id"], body)
        return await self._replied("basket_changed", request, done, ack, started)

    def _taking(self, kind: str, body: type[T], take: Callable[[T], Captured]) -> Handler:
        """The handler of a call that captures its body as it is."""
        decoders = _Decoders(body, self._limit)

        async def handler(request: web.Request) -> web.StreamResponse:
            started = self._clock.monotonic()
            ack = _ack(request)
            return await self._replied(kind, request, take(await decoders.read(request)), ack, started)

        return handler

    async def _take_answer(self, request: web.Request) -> web.Response:
        started = self._clock.monotonic()
        ack = _ack(request)
        answer = cast("Answer", request.match_info["answer"])
        captured = self._desk.answer(request.match_info["offer"], answer)
        return await self._replied("offer_answered", request, captured, ack, started)

    async def _take_payload(self, request: web.Request) -> web.Response:
        started = self._clock.monotonic()
        ack, name = _ack(request), request.match_info["name"]
        kind = media_type(request.headers, await self._payloads.media_types(name))
        adapted = await self._payloads.take(name, await request.read(), ack, kind)
        response = _respond(request, adapted.status, adapted)
        for one in adapted.transactions:
            self._events.captured("http", "transaction", ack, repeat=one.repeat)
        self._events.adapted("http", self._clock.monotonic() - started)
        return response

    async def _give_status(self, request: web.Request) -> web.Response:
        return _respond(request, 200, self._desk.status())

    async def _give_health(self, _request: web.Request) -> web.Response:
        health = self._desk.health()
        return web.Response(status=200 if health.status != "failing" else 503, body=_json(health), content_type=JSON)

    async def _give_metrics(self, _request: web.Request) -> web.Response:
        text = await self._metrics.render(self._gauges())
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    # Answers

    async def _replied(
        self, kind: str, request: web.Request, done: Captured | Taken, ack: Ack, started: float
    ) -> web.Response:
        """The reply to a capture, once it is as durable as was asked for."""
        if ack == "disk":
            await self._desk.durable(done)
        reply = self._desk.reply(done, ack, always_effects=kind == "member_identified")
        response = _respond(request, 200 if done.repeat else 201, reply)
        seconds = self._clock.monotonic() - started
        if isinstance(done, Taken) and done.captured is None:
            self._events.weighed(seconds)
        else:
            self._events.captured("http", kind, ack, repeat=done.repeat, seconds=seconds)
        return response

    def _misdirected(self, request: web.Request, error: web.HTTPException) -> web.Response:
        if not isinstance(error, web.HTTPMethodNotAllowed):
            return self._refuse(request, NotFound("there is nothing here"), error.status)
        allowed = error.headers["Allow"]
        response = self._refuse(request, MethodNotAllowed("not by this method", limit=allowed), error.status)
        response.headers["Allow"] = allowed
        return response

    def _crashed(self, request: web.Request, error: Exception) -> web.Response:
        self._events.crashed("http", error)
        return _respond(request, 500, Refusal(TillstreamError("the agent failed on this call").body()))

    def _refuse(self, request: web.Request, error: TillstreamError, status: int | None = None) -> web.Response:
        if isinstance(error, JournalError):
            self._events.capture_failed("http", error)
        else:
            self._events.refused("http", error)
        status = status or _GUARD_STATUSES.get(type(error)) or status_of(error)
        return _respond(request, status, Refusal(error.body()))


def _respond(request: web.Request, status: int, content: object) -> web.Response:
    if wants(request.headers):
        return web.Response(status=status, body=encode(content), content_type=MSGPACK, headers=HEADERS)
    return web.Response(status=status, body=_json(content), content_type=JSON, headers=HEADERS)


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _ack(request: web.Request) -> Ack:
    given = request.query.get("ack", "os")
    if given not in ("os", "disk"):
        raise InvalidInput("this is no kind of acknowledgement", field="ack", limit="os or disk")
    return cast("Ack", given)
