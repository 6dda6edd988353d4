"""The browser client in a real Chromium, against an agent that is a process of its own: it never keeps a POS waiting,
and no sale is lost while the agent is away."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio

from support.agents import WELCOME, sale
from support.browsers import chromium, needs_chromium
from support.hooked import Till, till
from support.sites import pages

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page, Route

pytestmark = [needs_chromium, pytest.mark.system]
WEB = Path(__file__).parents[2] / "deploy/pos/web"
TSC = WEB / "node_modules/.bin/tsc"
JSON, BYTES = "application/json", "application/octet-stream"
CLIENT = """async ({url, token, more}) => {
    const { Tillstream } = await import("/tillstream.js");
    window.notices = [];
    const onNotice = (one) => window.notices.push(one);
    window.till = new Tillstream({ url, token, deadlineMs: 2000, ...more, onNotice });
}"""


@dataclass
class Pos:
    """A POS in a browser, before the agent of its till."""

    page: Page
    till: Till
    url: str

    async def opens(self, token: str | None = None, **more: Any) -> None:
        """Load the page and make the client anew, as a reload does."""
        await self.page.goto(self.url)
        about = {"url": self.till.url, "token": token or self.till.token, "more": more}
        await self.page.evaluate(CLIENT, about)

    async def calls(self, method: str, *arguments: Any) -> dict[str, Any]:
        """Make a call; what came of it, with the milliseconds it took."""
        script = """async ([method, values]) => {
            const began = performance.now();
            const answer = await till[method](...values);
            return {...answer, ms: performance.now() - began};
        }"""
        answer: dict[str, Any] = await self.page.evaluate(script, [method, list(arguments)])
        return answer

    async def sells(self, number: int | str) -> dict[str, Any]:
        """A sale."""
        return await self.calls("transaction", msgspec.to_builtins(sale(str(number))))

    async def notices(self) -> list[str]:
        """What the client told the POS."""
        found: list[str] = await self.page.evaluate("notices.map((one) => one.what)")
        return found

    async def sent(self, captured: int) -> None:
        """Return when nothing waits any more and the agent has so many records."""
        async with asyncio.timeout(30):
            while (await self.calls("waiting"))["waiting"] or await self.till.captured() != captured:
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium(names=["pos.example"]) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def pos(browser: Browser, tmp_path: Path) -> AsyncIterator[Pos]:
    async with pages({"tillstream.js": WEB / "tillstream.js"}) as port:
        origin = f"http://pos.example:{port}"
        async with till(tmp_path, [origin], (WELCOME,)) as agent:
            context: BrowserContext = await browser.new_context()
            try:
                yield Pos(await context.new_page(), agent, origin + "/")
            finally:
                await context.close()


in_the_browsers_loop = pytest.mark.asyncio(loop_scope="module")


@in_the_browsers_loop
async def test_a_sale_is_captured_once_and_named(pos: Pos) -> None:
    await pos.opens()
    first, again = await pos.sells(1), await pos.sells(1)
    assert (first["status"], again["status"], first["ok"]) == (201, 200, True)
    assert first["body"] == again["body"]
    assert await pos.till.captured() == 1
    assert await pos.calls("waiting") | {"ms": 0} == {"waiting": 0, "persistent": True, "ms": 0}


@in_the_browsers_loop
async def test_who_shows_a_card_gets_an_offer_and_the_answer_arrives(pos: Pos) -> None:
    await pos.opens()
    answer = await pos.calls("identify", [{"scheme": "loyalty", "value": "4711"}], {"basket": "B7"})
    (offer,) = answer["effects"]
    assert offer["effects"] == [{"type": "customer_message", "text": "Nice to see you"}]
    assert (await pos.calls("accept", offer["offer"]))["status"] == 201
    assert (await pos.calls("accept", "f" * 32))["error"]["code"] == "not_found"


@in_the_browsers_loop
async def test_the_first_question_captures_nothing(pos: Pos) -> None:
    await pos.opens()
    assert (await pos.calls("reach"))["ok"]
    await pos.opens(token="wrong")
    assert (await pos.calls("reach"))["status"] == 401
    assert await pos.till.captured() == 0


@in_the_browsers_loop
async def test_sales_made_while_the_agent_is_away_survive_a_reload_and_arrive_in_order_once_each(pos: Pos) -> None:
    await pos.opens()
    await pos.till.stops()
    answers = [await pos.sells(number) for number in (1, 2, 3, 3)]
    assert [(one["ok"], one["kept"]) for one in answers] == [(False, True)] * 4
    assert (await pos.calls("waiting"))["waiting"] == 3
    await pos.opens()
    assert (await pos.sells(4))["kept"]
    asked: list[str] = []
    pos.page.on("request", lambda request: asked.append((request.post_data_json or {}).get("pos_id", "")))
    await pos.till.starts()
    await pos.sent(captured=4)
    assert [one for one in dict.fromkeys(asked) if one] == ["1", "2", "3", "4"]
    assert await pos.notices() == []


@in_the_browsers_loop
async def test_an_agent_that_hangs_costs_the_deadline_three_times_and_then_nothing(pos: Pos) -> None:
    await pos.opens(deadlineMs=100)
    pos.till.process.send_signal(signal.SIGSTOP)
    try:
        basket: dict[str, Any] = {"revision": 1, "state": "open", "lines": [], "total": 0}
        slow = [await pos.calls("basket", "B7", basket) for _ in range(3)]
        resting = await pos.calls("basket", "B7", basket)
        kept = await pos.sells(1)
    finally:
        pos.till.process.send_signal(signal.SIGCONT)
    assert [one["reason"] for one in (*slow, resting)] == ["deadline"] * 3 + ["resting"]
    assert max(one["ms"] for one in (*slow, kept)) < 1000
    assert (resting["kept"], kept["kept"]) == (False, True)
    await pos.sent(captured=1)


@in_the_browsers_loop
async def test_what_the_agent_will_never_take_stands_in_nobodys_way(pos: Pos) -> None:
    await pos.opens()
    refused = await pos.calls("transaction", {"source": {"system": "pos"}, "kind": "nonsense"})
    assert (refused["status"], refused["error"]["code"]) == (400, "invalid_input")
    assert (await pos.sells(1))["ok"]
    assert (await pos.notices(), (await pos.calls("waiting"))["waiting"]) == (["refused"], 0)


@in_the_browsers_loop
async def test_a_wrong_token_loses_nothing(pos: Pos) -> None:
    await pos.opens(token="wrong")
    answer = await pos.sells(1)
    assert (answer["status"], answer["kept"]) == (401, True)
    assert "not_let_in" in await pos.notices()
    await pos.opens()
    await pos.sent(captured=1)


@in_the_browsers_loop
async def test_too_much_that_waits_lets_the_oldest_go_and_says_so(pos: Pos) -> None:
    await pos.opens(kept=2)
    await pos.till.stops()
    for number in range(4):
        await pos.sells(number)
    assert (await pos.calls("waiting"))["waiting"] == 2
    assert await pos.notices() == ["dropped", "dropped"]


@in_the_browsers_loop
async def test_where_the_browser_keeps_nothing_it_says_so_and_sends_from_memory(pos: Pos) -> None:
    await pos.page.add_init_script("Object.defineProperty(window, 'indexedDB', {value: undefined})")
    await pos.opens()
    await pos.till.stops()
    assert (await pos.sells(1))["kept"]
    assert (await pos.notices(), (await pos.calls("waiting"))["persistent"]) == (["not_persistent"], False)
    await pos.till.starts()
    await pos.sent(captured=1)


@in_the_browsers_loop
async def test_where_the_disk_is_full_the_call_is_made_all_the_same(pos: Pos) -> None:
    await pos.page.add_init_script(
        "IDBObjectStore.prototype.add = () => { throw new DOMException('', 'QuotaExceededError'); }"
    )
    await pos.opens()
    assert (await pos.sells(1))["ok"]
    assert await pos.notices() == ["not_kept"]
    assert await pos.till.captured() == 1


@in_the_browsers_loop
async def test_every_call_is_one_that_the_agent_has(pos: Pos) -> None:
    made: list[tuple[str, str, Any]] = []

    async def note(route: Route) -> None:
        path = route.request.url.removeprefix(pos.till.url)
        made.append((route.request.method, path, route.request.post_data_json))
        allowed = {"Access-Control-Allow-Origin": pos.url.rstrip("/")}
        await route.fulfill(status=201, json={"transactions": [{"effects": [{"offer": "1"}]}]}, headers=allowed)

    await pos.opens()
    await pos.page.route(f"{pos.till.url}/**", note)
    basket: dict[str, Any] = {"revision": 1, "state": "open", "lines": [], "total": 0}
    await pos.calls("basket", "B 7", basket)
    voided = basket | {"revision": 2, "state": "voided"}
    await pos.calls("basket", "B 7", voided)
    assert (await pos.calls("adapt", "odoo", [{"uuid": "u"}], {"key": "u paid"}))["effects"] == [{"offer": "1"}]
    await pos.calls("decline", "0" * 32)
    await pos.calls("observe", "other_bags", {"basket": "B 7"})
    await pos.calls("surveyAnswer", "nps", "9")
    await pos.calls("wish", {"text": "a boat"})
    events = [body.pop("event_id") for _, _, body in made if body and "event_id" in body]
    assert made == [
        ("PUT", "/v1/baskets/B%207", basket),
        ("PUT", "/v1/baskets/B%207", voided),
        ("POST", "/v1/adapters/odoo", [{"uuid": "u"}]),
        ("POST", f"/v1/offers/{'0' * 32}/declined", None),
        ("POST", "/v1/observations", {"kind": "other_bags", "basket": "B 7"}),
        ("POST", "/v1/survey-answers", {"question": "nps", "answer": "9"}),
        ("POST", "/v1/wish-list", {"text": "a boat"}),
    ]
    assert len({event for event in events if len(event) == 32}) == 3


async def types_of(pos: Pos, status: int, *calls: tuple[Any, ...]) -> list[tuple[str | None, bytes | None]]:
    """The content types and bodies of what is sent, to an agent that answers so to whatever comes as JSON."""
    made: list[tuple[str | None, bytes | None]] = []

    async def note(route: Route) -> None:
        kind = route.request.headers.get("content-type")
        made.append((kind, route.request.post_data_buffer))
        allowed = {"Access-Control-Allow-Origin": pos.url.rstrip("/")}
        answer: dict[str, Any] = {"transactions": []}
        if kind == JSON:
            answer = {"error": {"code": "unsupported_media_type"}}
        await route.fulfill(status=status if kind == JSON else 200, json=answer, headers=allowed)

    await pos.page.route(f"{pos.till.url}/**", note)
    for method, *arguments in calls:
        await pos.calls(method, *arguments)
    return made


@in_the_browsers_loop
async def test_text_and_bytes_go_as_what_every_adapter_takes_and_objects_as_json(pos: Pos) -> None:
    await pos.opens()
    made = await types_of(pos, 200, ("adapt", "poslog", "<POSLog/>", {"key": "1"}), ("adapt", "odoo", [], {"key": "2"}))
    await pos.page.evaluate("till.adapt('escpos', Uint8Array.of(0, 27, 64, 255).subarray(1), {key: '3'})")
    assert made == [(BYTES, b"<POSLog/>"), (JSON, b"[]"), (BYTES, b"\x1b@\xff")]
    assert (await pos.calls("waiting"))["waiting"] == 0


@in_the_browsers_loop
async def test_an_object_for_an_adapter_that_reads_no_json_goes_again_as_bytes(pos: Pos) -> None:
    await pos.opens()
    made = await types_of(pos, 415, ("adapt", "poslog", {"a": 1}, {"key": "1"}))
    assert made == [(JSON, b'{"a":1}'), (BYTES, b'{"a":1}')]
    assert (await pos.calls("waiting"))["waiting"] == 0


@in_the_browsers_loop
async def test_what_an_earlier_version_kept_without_a_type_goes_as_bytes(pos: Pos) -> None:
    await pos.opens()
    await pos.calls("waiting")
    made = await types_of(pos, 415)
    await pos.page.evaluate("""() => new Promise((resolve) => {
        const asked = indexedDB.open("tillstream");
        asked.onsuccess = () => {
            const change = asked.result.transaction("outbox", "readwrite");
            const [key, method, path] = ["adapt poslog 1", "POST", "/v1/adapters/poslog"];
            change.objectStore("outbox").add({ key, method, path, body: "<POSLog/>", since: 0 });
            change.oncomplete = () => resolve(asked.result.close());
        };
    })""")
    await pos.page.evaluate("till.flush()")
    assert (made, (await pos.calls("waiting"))["waiting"]) == ([(BYTES, b"<POSLog/>")], 0)


@in_the_browsers_loop
async def test_a_sale_that_was_sent_as_the_wrong_type_is_kept(pos: Pos) -> None:
    await pos.opens()
    await types_of(pos, 415)
    assert (await pos.sells(1))["kept"]
    assert "not_let_in" in await pos.notices()
    assert (await pos.calls("waiting"))["waiting"] == 1


@in_the_browsers_loop
async def test_a_basket_is_answered_while_it_is_open_and_kept_when_it_is_closed(pos: Pos) -> None:
    await pos.opens()
    line = {"seq": 0, "amount": 500, "sku": "1"}
    basket: dict[str, Any] = {"revision": 1, "state": "open", "lines": [line], "total": 500}
    opened = await pos.calls("basket", "B7", basket)
    assert (opened["status"], opened["body"]["state"], opened["effects"]) == (200, "open", [])
    stale = await pos.calls("basket", "B7", basket | {"total": 400})
    assert (stale["status"], stale["error"]["code"]) == (409, "stale_revision")
    await pos.till.stops()
    closed = basket | {"revision": 2, "state": "closed", "sale": msgspec.to_builtins(sale("1"))}
    assert (await pos.calls("basket", "B7", closed))["kept"]
    await pos.till.starts()
    await pos.sent(captured=1)


@in_the_browsers_loop
async def test_what_is_seen_said_and_wished_is_captured(pos: Pos) -> None:
    await pos.opens()
    answers = [
        await pos.calls("observe", "other_bags", {"text": "two"}),
        await pos.calls("surveyAnswer", "nps", "9", {"basket": "B7"}),
        await pos.calls("wish", {"text": "a boat", "basket": "B7"}),
    ]
    assert [one["status"] for one in answers] == [201, 201, 201]
    assert await pos.till.captured() == 3


@in_the_browsers_loop
async def test_a_one_time_code_becomes_a_token_and_a_wrong_one_nothing(pos: Pos) -> None:
    asked: list[Any] = []

    async def redeem(route: Route) -> None:
        asked.append(route.request.post_data_json)
        right = asked[-1] == {"code": "right"}
        body: dict[str, Any] = {"token": "t"} if right else {"error": {}}
        await route.fulfill(
            status=201 if right else 403, json=body, headers={"Access-Control-Allow-Origin": pos.url.rstrip("/")}
        )

    await pos.opens()
    await pos.page.route(f"{pos.till.url}/v1/pair", redeem)
    script = "([url, code]) => till.constructor.pair({url, code})"
    assert await pos.page.evaluate(script, [pos.till.url, "right"]) == "t"
    assert await pos.page.evaluate(script, [pos.till.url, "wrong"]) is None
    assert await pos.page.evaluate(script, ["http://127.0.0.1:1", "right"]) is None
    assert len(asked) == 2


@in_the_browsers_loop
async def test_a_page_from_outside_that_the_browser_does_not_let_through_loses_nothing(tmp_path: Path) -> None:
    """Chromium takes this page for a public one, and asks before it may reach loopback; headless, that is a no."""
    async with pages({"tillstream.js": WEB / "tillstream.js"}) as port:
        origin = f"http://pos.example:{port}"
        outside = (f"--ip-address-space-overrides=127.0.0.1:{port}=public", *as_if_https(origin))
        async with till(tmp_path, [origin]) as agent, chromium(*outside, names=["pos.example"]) as browser:
            context = await browser.new_context()
            pos = Pos(await context.new_page(), agent, origin + "/")
            await pos.opens()
            assert (await pos.calls("reach"))["reason"] == "unreachable"
            assert (await pos.sells(1))["kept"]
            await context.grant_permissions(["local-network-access"], origin=origin)
            await pos.opens()
            assert (await pos.calls("reach"))["ok"]
            await pos.sent(captured=1)


def as_if_https(origin: str) -> tuple[str, ...]:
    return (f"--unsafely-treat-insecure-origin-as-secure={origin}",)


@pytest.mark.skipif(
    not TSC.exists() or shutil.which("node") is None, reason="tests/support/browser.sh brings TypeScript"
)
@in_the_browsers_loop
async def test_the_types_say_what_the_module_is() -> None:
    process = await asyncio.create_subprocess_exec(
        str(TSC), "--project", str(WEB), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    told, _ = await process.communicate()
    assert (process.returncode, told.decode()) == (0, "")
