"""Signing in and out, the page that makes the first user, and one's own password."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

from tillstream_protocol.codec import invalid
from tillstream_protocol.errors import InvalidInput, TillstreamError

from .. import users
from ..users import UserCreate
from .throttle import TooManyAttempts
from .visit import SESSION_COOKIE, Guard, Visit

_SET_UP = "set-up"


class SignInFailed(InvalidInput):
    """No such user, or not their password: which of the two is not said."""

    code = "sign_in_failed"


def routes(guard: Guard) -> list[web.RouteDef]:
    """The entrance's pages."""
    return [
        web.get("/", guard.anybody(front)),
        web.get("/sign-in", guard.anybody(sign_in_page)),
        web.post("/sign-in", guard.anybody(sign_in)),
        web.get("/set-up", guard.anybody(set_up_page)),
        web.post("/set-up", guard.anybody(set_up)),
        web.post("/sign-out", guard.needs(None, sign_out)),
        web.get("/account", guard.needs(None, account_page)),
        web.post("/account", guard.needs(None, change_password)),
    ]


async def front(visit: Visit) -> web.Response:
    """Where a visitor begins."""
    if visit.session is not None:
        return visit.goes_to("/sales")
    return visit.goes_to("/set-up" if await visit.house.first_run.is_open() else "/sign-in")


async def sign_in_page(visit: Visit) -> web.Response:
    """The form to sign in with."""
    if visit.session is not None:
        return visit.goes_to("/")
    if await visit.house.first_run.is_open():
        return visit.goes_to("/set-up")
    return visit.page("sign_in.html", name="", error=None)


async def sign_in(visit: Visit) -> web.Response:
    """Let a user in who knows their password."""
    fields = await visit.form()
    name, password = fields.get("name", "").strip(), fields.get("password", "")
    house = visit.house
    try:
        house.throttle.take(visit.address, name)
    except TooManyAttempts:
        house.events.sign_in_refused("throttled")
        raise
    if len(password) > users.MAX_PASSWORD or not await users.check_password(house.database, name, password):
        house.events.sign_in_refused("wrong")
        error = SignInFailed("name or password is wrong", field="password")
        return visit.page("sign_in.html", 401, name=name, error=error)
    house.throttle.give_back(visit.address, name)
    session = await users.begin_session(house.database, name, house.clock.now_ms(), house.random)
    house.events.signed_in(session.user.role)
    return visit.signs_in(session.id)


async def sign_out(visit: Visit) -> web.Response:
    """End the session."""
    await visit.form()
    assert visit.session is not None
    await users.end_session(visit.house.database, visit.session.id)
    response = visit.goes_to("/sign-in")
    response.del_cookie(SESSION_COOKIE, path="/")
    return response


async def set_up_page(visit: Visit) -> web.Response:
    """The form that makes the first user. The code is there when it is shown, also if all users were removed lately."""
    if not await visit.house.first_run.prepare():
        return visit.goes_to("/sign-in")
    return visit.page("set_up.html", name="", error=None, least=users.MIN_PASSWORD)


async def set_up(visit: Visit) -> web.Response:
    """Make the first user, who may do everything, and let them in."""
    fields = await visit.form()
    house = visit.house
    if not await house.first_run.is_open():
        return visit.goes_to("/sign-in")
    house.throttle.take(visit.address, _SET_UP)
    name = fields.get("name", "").strip()
    try:
        _check_code(visit, fields)
        new = _new_admin(name)
        password = _agreed(fields)
        now_ms = house.clock.now_ms()
        await users.create(house.database, new, password, now_ms, house.random, first=True)
    except TillstreamError as error:
        if not isinstance(error, InvalidInput):
            raise
        return visit.page("set_up.html", 400, name=name, error=error, least=users.MIN_PASSWORD)
    await house.first_run.prepare()
    house.events.signed_in(new.role)
    return visit.signs_in((await users.begin_session(house.database, name, now_ms, house.random)).id)


async def account_page(visit: Visit) -> web.Response:
    """Who one is here, and the form for another password."""
    return visit.page("account.html", error=None, done=False, least=users.MIN_PASSWORD)


async def change_password(visit: Visit) -> web.Response:
    """Give oneself another password; every other session ends."""
    fields = await visit.form()
    house, name = visit.house, visit.user.name
    assert visit.session is not None
    house.throttle.take(visit.address, name)
    try:
        if not await users.check_password(house.database, name, fields.get("current", "")[: users.MAX_PASSWORD + 1]):
            raise SignInFailed("the present password is another", field="current")
        house.throttle.give_back(visit.address, name)
        await users.change_password(house.database, name, _agreed(fields), house.random, keep=visit.session.id)
    except InvalidInput as error:
        return visit.page("account.html", 400, error=error, done=False, least=users.MIN_PASSWORD)
    return visit.page("account.html", error=None, done=True, least=users.MIN_PASSWORD)


def _check_code(visit: Visit, fields: Mapping[str, str]) -> None:
    """A right code is no guess, whatever else is wrong with the form. Raises `WrongCode`."""
    visit.house.first_run.check(fields.get("code", ""))
    visit.house.throttle.give_back(visit.address, _SET_UP)


def _new_admin(name: str) -> UserCreate:
    try:
        return msgspec.convert({"name": name, "role": "admin"}, UserCreate)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            "a name has letters, digits and . _ @ + -", field="name", limit="1 to 64 characters"
        ) from invalid(error)


def _agreed(fields: Mapping[str, str]) -> str:
    """The password that was typed twice. Raises `InvalidInput` where the two differ."""
    password = fields.get("password", "")
    if password != fields.get("again", ""):
        raise InvalidInput("the two passwords differ", field="again")
    return password
