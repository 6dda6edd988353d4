"""What a screen may do at the door: look with its cookie, press its own page's buttons, and nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from support.cashier import ADA, ASKS, ENGLISH, Till, question, till_with_page
from tillstream_agent.config import Button
from tillstream_agent.hooks.crowd import STRANGERS_A_SECOND
from tillstream_agent.hooks.pairing import TRIES
from tillstream_agent.journal import JournalFull

POS = "https://pos.example"
BY_HAND = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
OFFER = ENGLISH[0].offer_id.hex()


@dataclass
class Screen:
    """A paired screen, as far as the door can tell."""

    till: Till
    client: aiohttp.ClientSession
    cookie: str

    def headers(self, **more: str) -> dict[str, str]:
        return {"Cookie": f"tillstream-display={self.cookie}", "Origin": self.till.address, **more}

    async def html(self, **more: str) -> str:
        """The page as it is served."""
        async with self.client.get(self.till.address + "/display", headers=self.headers(**more)) as reply:
            assert reply.status == 200
            return await reply.text()

    def at_hand(self) -> dict[str, Any]:
        view = self.till.behind.board.take()
        return {"basket": view.basket, "member": view.member, "run": view.run, "sequence": view.sequence}

    async def says(self, path: str, fields: dict[str, Any] | None = None, **headers: str) -> tuple[int, Any]:
        """What the script sends."""
        body = msgspec.json.encode({**self.at_hand(), **(fields or {})})
        given = self.headers(**{"Content-Type": "application/json", **headers})
        async with self.client.post(self.till.address + path, data=body, headers=given) as reply:
            return reply.status, msgspec.json.decode(await reply.read())

    async def submits(self, path: str, fields: dict[str, str], **headers: str) -> tuple[int, str]:
        """What a form sends where scripts do not run: the status, and where it leads."""
        async with self.client.post(
            self.till.address + path, data=fields, headers=self.headers(**headers), allow_redirects=False
        ) as reply:
            return reply.status, reply.headers.get("Location", "")


@pytest.fixture
async def screen(tmp_path: Path) -> AsyncIterator[Screen]:
    async with (
        till_with_page(tmp_path, origins=(POS,)) as till,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
    ):
        async with client.get(till.link(), allow_redirects=False) as reply:
            cookie = reply.cookies["tillstream-display"].value
        yield Screen(till, client, cookie)


def form(html: str, action: str, label: str = "") -> dict[str, str]:
    """The hidden fields of a form."""
    (found,) = [part for part in html.split("<form")[1:] if f'action="{action}"' in part and label in part]
    inputs = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', found.partition("</form>")[0])
    return {name: unescape(value) for name, value in inputs}


async def test_the_buttons_are_passed_on(screen: Screen) -> None:
    till = screen.till
    till.serves("b1", *ENGLISH, ASKS, member=ADA)
    assert (await screen.says("/display/observations", {"kind": "in_a_hurry"}))[0] == 200
    answer = {"offer": ASKS.offer_id.hex(), "question": "visit", "answer": "Good"}
    assert (await screen.says("/display/answers", answer))[0] == 200
    status, done = await screen.says(f"/display/offers/{OFFER}/accepted")
    assert status == 200
    assert done == screen.at_hand()
    assert till.heard.calls == [
        ("observed", "in_a_hurry", "b1"),
        ("surveyed", "visit", "Good", "b1", ASKS.offer_id.hex()),
        ("accepted", OFFER),
    ]
    assert [card.offer_id for card in till.behind.board.cards()] == [d.offer_id for d in ENGLISH[1:]]


async def test_putting_away_says_nothing_about_the_customer(screen: Screen) -> None:
    screen.till.serves("b1", *ENGLISH, ASKS, member=ADA)
    assert (await screen.says("/display/dismissed", {"offer": OFFER}))[0] == 200
    assert (await screen.says("/display/dismissed", {"offer": ASKS.offer_id.hex(), "question": "visit"}))[0] == 200
    view = screen.till.behind.board.take()
    assert len(view.offers) == 2
    assert view.prompt is None
    assert screen.till.heard.calls == []


async def test_the_same_observation_is_made_once_a_basket(screen: Screen) -> None:
    for basket in ("b1", "b2"):
        screen.till.serves(basket)
        for _ in range(3):
            assert (await screen.says("/display/observations", {"kind": "other_bags"}))[0] == 200
    assert screen.till.heard.calls == [("observed", "other_bags", "b1"), ("observed", "other_bags", "b2")]


async def test_nothing_is_done_for_a_customer_who_has_left(screen: Screen) -> None:
    screen.till.serves("b1", *ENGLISH, ASKS, member=ADA)
    before = screen.at_hand()
    screen.till.serves("b2", *ENGLISH, ASKS, member=ADA)
    for path, fields in (
        ("/display/observations", {"kind": "in_a_hurry"}),
        ("/display/answers", {"offer": ASKS.offer_id.hex(), "question": "visit", "answer": "Good"}),
        ("/display/dismissed", {"offer": OFFER}),
        (f"/display/offers/{OFFER}/accepted", {}),
    ):
        status, reply = await screen.says(path, {**fields, **before})
        assert (status, reply["error"]["code"], reply["error"]["field"]) == (409, "stale", "basket")
    assert screen.till.heard.calls == []


@pytest.mark.parametrize(
    ("path", "fields", "status", "field"),
    [
        (f"/display/offers/{'0' * 32}/accepted", {}, 409, "offer"),
        ("/display/dismissed", {"offer": "0" * 32}, 409, "offer"),
        ("/display/dismissed", {"offer": OFFER, "question": "visit"}, 409, "question"),
        ("/display/answers", {"offer": ASKS.offer_id.hex(), "question": "other", "answer": "Good"}, 409, "question"),
        ("/display/answers", {"offer": ASKS.offer_id.hex(), "question": "visit", "answer": "Great"}, 400, "answer"),
        ("/display/answers", {"offer": ASKS.offer_id.hex(), "question": "visit"}, 400, "answer"),
        ("/display/observations", {"kind": "rude"}, 400, "kind"),
        ("/display/observations", {"kind": "x" * 65}, 400, "kind"),
        ("/display/observations", {"colour": "red"}, 400, "colour"),
    ],
)
async def test_what_is_not_on_the_screen_cannot_be_pressed(
    screen: Screen, path: str, fields: dict[str, str], status: int, field: str
) -> None:
    screen.till.serves("b1", *ENGLISH, ASKS)
    got, reply = await screen.says(path, fields)
    assert (got, reply["error"]["field"]) == (status, field)
    assert screen.till.heard.calls == []


async def test_free_text_is_taken_where_a_question_has_no_choices(screen: Screen) -> None:
    screen.till.serves("b1", question(1, "What were you looking for?", name="missing"))
    given = {"offer": (1).to_bytes(16, "big").hex(), "question": "missing"}
    assert (await screen.says("/display/answers", {**given, "answer": "  "}))[0] == 400
    assert (await screen.says("/display/answers", {**given, "answer": "Lamp oil"}))[0] == 200
    assert screen.till.heard.calls[0][2] == "Lamp oil"


async def test_what_could_not_be_captured_stays_on_the_screen(screen: Screen) -> None:
    screen.till.serves("b1", *ENGLISH, ASKS)
    screen.till.heard.trouble = JournalFull("no room")
    assert (await screen.says(f"/display/offers/{OFFER}/accepted"))[0] == 507
    assert (await screen.says("/display/observations", {"kind": "in_a_hurry"}))[0] == 507
    view = screen.till.behind.board.take()
    assert (len(view.offers), view.noted) == (3, frozenset())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Cookie": ""}, 401),
        ({"Cookie": "tillstream-display=wrong"}, 401),
        ({"Cookie": "", "Authorization": "Bearer " + "k" * 43}, 401),
        ({"Origin": POS}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/msgpack"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Host": "evil.example"}, 403),
    ],
)
async def test_nobody_else_presses_a_button(screen: Screen, headers: dict[str, str], status: int) -> None:
    screen.till.serves("b1", *ENGLISH)
    for path in (
        "/display/observations",
        "/display/answers",
        "/display/dismissed",
        f"/display/offers/{OFFER}/accepted",
    ):
        assert (await screen.says(path, {"kind": "in_a_hurry", "offer": OFFER}, **headers))[0] == status
    assert screen.till.heard.calls == []


async def test_without_an_origin_nothing_is_pressed(screen: Screen) -> None:
    headers = {"Cookie": screen.headers()["Cookie"], "Content-Type": "application/json"}
    address = screen.till.address + "/display/observations"
    async with screen.client.post(address, data=b"{}", headers=headers) as reply:
        assert reply.status == 403


async def test_the_forms_work_without_scripts(screen: Screen) -> None:
    till = screen.till
    till.serves("b1", *ENGLISH, ASKS, member=ADA)
    html = await screen.html()
    for path, fields in (
        ("/display/observations", {**form(html, "/display/observations", "in_a_hurry"), "kind": "in_a_hurry"}),
        ("/display/answers", {**form(html, "/display/answers"), "answer": "So-so"}),
        (f"/display/offers/{OFFER}/declined", form(html, f"/display/offers/{OFFER}/accepted")),
        ("/display/dismissed", form(html, f"/display/offers/{ENGLISH[1].offer_id.hex()}/accepted")),
    ):
        assert await screen.submits(path, fields) == (303, "/display")
    assert [call[0] for call in till.heard.calls] == ["observed", "surveyed", "declined"]
    assert [card.offer_id for card in till.behind.board.cards()] == [ENGLISH[2].offer_id]
    assert 'aria-disabled="true"' in await screen.html()


async def test_a_form_that_comes_late_leads_back_to_the_page_and_does_nothing(screen: Screen) -> None:
    screen.till.serves("b1", *ENGLISH, member=ADA)
    fields = form(await screen.html(), f"/display/offers/{OFFER}/accepted")
    screen.till.serves("b2", *ENGLISH, member=ADA)
    assert await screen.submits(f"/display/offers/{OFFER}/accepted", fields) == (303, "/display")
    assert screen.till.heard.calls == []


async def test_a_form_without_the_pages_token_does_nothing(screen: Screen) -> None:
    screen.till.serves("b1")
    fields = {**form(await screen.html(), "/display/observations", "in_a_hurry"), "kind": "in_a_hurry"}
    for change in ({"token": ""}, {"token": "wrong"}):
        assert (await screen.submits("/display/observations", {**fields, **change}))[0] == 403
    assert (await screen.submits("/display/observations", {**fields, "colour": "red"}))[0] == 400
    assert (await screen.submits("/display/observations", {**fields, "kind": "x" * 20_000}))[0] == 413
    assert (await screen.submits("/display/observations", fields, **{"Content-Encoding": "gzip"}))[0] == 415
    assert screen.till.heard.calls == []


async def test_the_page_asks_for_a_code_where_it_is_not_paired(screen: Screen) -> None:
    till = screen.till
    async with screen.client.get(till.address + "/display", headers={"Accept": "text/html"}) as reply:
        assert (reply.status, reply.content_type) == (401, "text/html")
        assert 'action="/display/pair"' in await reply.text()
    assert (await screen.submits("/display/pair", {"code": "WRONG"}))[0] == 401
    code = till.pairing.code().code
    assert (await screen.submits("/display/pair", {"code": code}, Origin=POS))[0] == 403
    assert (await screen.submits("/display/pair", {"code": code.lower()})) == (303, "/display")


async def test_what_a_page_elsewhere_loads_does_not_use_up_the_tries_of_a_code(screen: Screen) -> None:
    link = screen.till.link()
    elsewhere = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    for _ in range(TRIES):
        async with screen.client.get(screen.till.address + "/display?code=WRONG", headers=elsewhere) as reply:
            assert reply.status == 403
    async with screen.client.get(link, headers=BY_HAND, allow_redirects=False) as reply:
        assert reply.status == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Referer": "https://evil.example/"},
        {"Origin": POS},
    ],
)
async def test_frames_and_windows_of_a_page_elsewhere_get_the_form_and_try_no_code(
    screen: Screen, headers: dict[str, str]
) -> None:
    link = screen.till.link()
    for address in [screen.till.address + "/display?code=WRONG"] * TRIES + [link]:
        async with screen.client.get(address, headers={"Accept": "text/html", **headers}) as reply:
            assert reply.status == 401
            html = await reply.text()
            assert 'action="/display/pair"' in html
            assert 'role="alert"' not in html
    async with screen.client.head(link, headers={"Accept": "text/html"}) as reply:
        assert reply.status == 401, "nor is a look at the head a try"
    code = link.partition("code=")[2]
    assert await screen.submits("/display/pair", {"code": code}) == (303, "/display")


async def test_a_screen_that_is_paired_stays_so_when_a_page_leads_it_to_a_link(screen: Screen) -> None:
    led = screen.headers(Referer="http://127.0.0.1:1/", Accept="text/html")
    async with screen.client.get(screen.till.address + "/display?code=WRONG", headers=led) as reply:
        assert reply.status == 200


async def test_a_pos_on_an_allowed_origin_gets_a_bearer_of_its_own(screen: Screen) -> None:
    till, client = screen.till, screen.client
    json = {"Content-Type": "application/json", "Origin": POS}
    body = msgspec.json.encode({"code": till.pairing.code().code})
    async with client.post(till.address + "/v1/pair", data=body, headers=json) as reply:
        assert reply.status == 201
        bearer = {"Authorization": f"Bearer {msgspec.json.decode(await reply.read())['token']}"}
    async with client.post(till.address + "/v1/pair", data=body, headers=json) as reply:
        assert reply.status == 403
        assert msgspec.json.decode(await reply.read())["error"]["code"] == "not_paired"
    for headers, status in (
        ({**bearer, "Origin": POS}, 200),
        (bearer, 200),
        ({**bearer, "Origin": till.address}, 401),
        ({**bearer, "Origin": "https://evil.example"}, 403),
    ):
        async with client.get(till.address + "/v1/status", headers=headers) as reply:
            assert reply.status == status, headers
    await till.pairing.forget()
    async with client.get(till.address + "/v1/status", headers=bearer) as reply:
        assert reply.status == 401


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"code=A", 415),
        ({"Content-Type": "application/json", "Origin": "https://evil.example"}, b'{"code": "A"}', 403),
        ({"Content-Type": "application/json"}, b"{}", 400),
        ({"Content-Type": "application/json"}, b'{"code": "A", "more": 1}', 400),
    ],
)
async def test_pairing_takes_a_code_in_json_and_nothing_else(
    screen: Screen, headers: dict[str, str], body: bytes, status: int
) -> None:
    async with screen.client.post(screen.till.address + "/v1/pair", data=body, headers=headers) as reply:
        assert reply.status == status


async def test_a_screen_that_is_forgotten_sees_nothing_more(screen: Screen) -> None:
    till = screen.till
    async with screen.client.get(till.address + "/display/stream", headers=screen.headers()) as stream:
        assert (await stream.content.readline()).startswith(b"event: board")
        await till.pairing.forget()
        assert b"event: board" not in await stream.read()
    async with screen.client.get(till.address + "/display", headers=screen.headers()) as reply:
        assert reply.status == 401


async def test_a_pos_that_is_forgotten_sees_nothing_more_either(screen: Screen) -> None:
    till = screen.till
    body = {"code": till.pairing.code().code}
    async with screen.client.post(till.address + "/v1/pair", json=body, headers={"Origin": POS}) as reply:
        bearer = {"Authorization": f"Bearer {(await reply.json())['token']}", "Origin": POS}
    async with screen.client.get(till.address + "/display/stream", headers=bearer) as stream:
        assert (await stream.content.readline()).startswith(b"event: board")
        await till.pairing.forget()
        assert b"event: board" not in await stream.read()


async def test_the_hooks_own_token_sees_on_when_pairings_are_forgotten(screen: Screen) -> None:
    till = screen.till
    bearer = {"Authorization": "Bearer " + "k" * 43}
    async with screen.client.get(till.address + "/display/stream", headers=bearer) as stream:
        await stream.content.readuntil(b"\n\n")
        await till.pairing.forget()
        assert (await stream.content.readline()).startswith(b"event: board")


async def test_a_made_up_cookie_uses_up_the_calls_of_strangers_and_not_of_screens(screen: Screen) -> None:
    style = screen.till.address + "/display/style.css"
    made_up = {"Cookie": "tillstream-display=made-up"}
    statuses = []
    for _ in range(STRANGERS_A_SECOND + 1):
        async with screen.client.get(style, headers=made_up) as reply:
            statuses.append(reply.status)
    assert statuses[-1] == 429
    async with screen.client.get(style, headers=screen.headers()) as reply:
        assert reply.status == 200


@pytest.mark.parametrize(
    ("origins", "ancestors"),
    [((), "'none'"), (("https://pos.example", "http://10.0.0.1:80"), "https://pos.example http://10.0.0.1:80")],
)
async def test_the_page_may_be_framed_by_the_pages_that_the_settings_name(
    tmp_path: Path, origins: tuple[str, ...], ancestors: str
) -> None:
    async with till_with_page(tmp_path, origins=origins) as till, aiohttp.ClientSession() as client:
        async with client.get(till.link(), allow_redirects=False) as reply:
            cookie = {"Cookie": f"tillstream-display={reply.cookies['tillstream-display'].value}"}
        async with client.get(till.address + "/display", headers=cookie) as reply:
            policy = reply.headers["Content-Security-Policy"]
            assert f"frame-ancestors {ancestors}" in policy.split("; ")
            assert "form-action 'self'" in policy
            assert reply.cookies["tillstream-display"]["samesite"] == "Strict"


async def test_the_page_speaks_the_language_of_the_browser_or_of_the_setting(tmp_path: Path, screen: Screen) -> None:
    assert '<html lang="ar" dir="rtl">' in await screen.html(**{"Accept-Language": "ar-EG,en;q=0.5"})
    assert '<html lang="en" dir="ltr">' in await screen.html()


async def test_the_customers_screen_has_offers_and_no_words_for_the_cashier(screen: Screen) -> None:
    till = screen.till
    till.serves("b1", *ENGLISH, ASKS, member=ADA)
    address = till.address + "/display?screen=customer"
    async with screen.client.get(address, headers=screen.headers()) as reply:
        html = await reply.text()
    assert "Double points today" in html
    assert "Say so now" not in html
    assert "other_bags" not in html
    assert "coffee-week" not in html
    assert "For this member" in html
    assert "Say so now" in await screen.html()
    fields = {**form(html, "/display/answers"), "answer": "Good"}
    assert await screen.submits("/display/answers", fields) == (303, "/display?screen=customer")
    async with screen.client.get(
        till.link() + "&screen=customer", headers={"Host": f"127.0.0.1:{till.port}"}, allow_redirects=False
    ) as reply:
        assert reply.headers["Location"] == "/display?screen=customer"


async def test_buttons_come_from_the_settings_in_the_pages_language(tmp_path: Path) -> None:
    buttons = [Button("trolley", (("en", "Trolley"), ("de", "Wagen"))), Button("dog", (("fr", "Un chien"),))]
    bearer = {"Authorization": "Bearer " + "k" * 43}
    async with (
        till_with_page(tmp_path, buttons=buttons, language="de") as till,
        aiohttp.ClientSession() as client,
        client.get(till.address + "/display", headers=bearer) as reply,
    ):
        page = await reply.text()
    assert '<span dir="auto">Wagen</span>' in page
    assert '<span dir="auto" lang="fr">Un chien</span>' in page
    assert "other_bags" not in page
