"""Loopback is hostile ground, in a real browser: whatever a page of another origin tries at the hook, it captures
nothing and reads nothing; the page of an allowed origin can. Each case is one try of one page.

Chromium's own guard (it asks before a public page may reach loopback) is switched off: the hook's alone is seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio

from support.agents import sale
from support.browsers import chromium, needs_chromium
from support.hooked import Till, till
from support.sites import BLANK, pages

if TYPE_CHECKING:
    from playwright.async_api import Browser, Frame

pytestmark = [needs_chromium, pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

NAMES = ("evil.example", "pos.example", "rebound.example")
SALE = msgspec.json.encode(sale("hostile")).decode()
TRIES_JS = """
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const settled = (element, ms = 1500) => new Promise((resolve) => {
    element.onload = () => resolve(true);
    element.onerror = () => resolve(false);
    setTimeout(() => resolve(false), ms);
});
const embed = async (tag, put) => {
    const element = document.createElement(tag);
    const over = settled(element);
    put(element);
    document.body.append(element);
    const loaded = await over;
    let seen = "";
    try { seen = element.contentDocument?.body?.innerText ?? ""; } catch {}
    if (tag === "img" && element.naturalWidth) seen = "an image";
    if (tag === "script" && loaded) seen = "a script ran";
    if (tag === "link" && loaded) seen = "a style was taken";
    element.remove();
    return seen;
};
window.ways = {
    async fetch({url, method, mode, headers, body}) {
        const credentials = headers.Authorization ? "omit" : "include";
        const reply = await fetch(url, {method, mode, headers, body, credentials});
        return (await reply.text()) || (reply.type === "opaque" ? "" : String(reply.status));
    },
    async xhr({url, method, headers, body}) {
        return new Promise((resolve) => {
            const request = new XMLHttpRequest();
            request.open(method, url);
            request.withCredentials = true;
            for (const [name, value] of Object.entries(headers ?? {})) request.setRequestHeader(name, value);
            request.onloadend = () => resolve(request.responseText);
            request.send(body);
        });
    },
    async form({url, enctype, body}) {
        const frame = document.createElement("iframe");
        frame.name = "into" + Math.random();
        document.body.append(frame);
        const form = document.createElement("form");
        Object.assign(form, {action: url, method: "post", enctype, target: frame.name});
        const input = document.createElement("textarea");
        // With text/plain this makes the body {"…": "=…"}: JSON, but for its type.
        input.name = body.slice(0, -1) + ', "ext": {"x": "';
        input.value = '"}}';
        form.append(input);
        document.body.append(form);
        const over = settled(frame);
        form.submit();
        await over;
        let seen = "";
        try { seen = frame.contentDocument?.body?.innerText ?? ""; } catch {}
        frame.remove();
        return seen;
    },
    image: ({url}) => embed("img", (one) => (one.src = url)),
    script: ({url}) => embed("script", (one) => (one.src = url)),
    module: ({url}) => embed("script", (one) => { one.type = "module"; one.src = url; }),
    style: ({url}) => embed("link", (one) => { one.rel = "stylesheet"; one.href = url; }),
    prefetch: ({url}) => embed("link", (one) => { one.rel = "prefetch"; one.href = url; }).then(() => ""),
    frame: ({url}) => embed("iframe", (one) => (one.src = url)),
    object: ({url}) => embed("object", (one) => (one.data = url)),
    async stream({url}) {
        const source = new EventSource(url, {withCredentials: true});
        let seen = "";
        source.addEventListener("board", (event) => (seen = event.data));
        source.onmessage = (event) => (seen = event.data);
        await new Promise((resolve) => { source.onerror = resolve; setTimeout(resolve, 1500); });
        source.close();
        return seen;
    },
    async socket({url}) {
        const socket = new WebSocket(url.replace("http", "ws"));
        let seen = "";
        socket.onopen = () => (seen = "it opened");
        socket.onmessage = (event) => (seen = event.data);
        await new Promise((resolve) => { socket.onclose = resolve; setTimeout(resolve, 1500); });
        return seen;
    },
    async beacon({url, type, body}) {
        navigator.sendBeacon(url, new Blob([body], {type}));
        await wait(60);
        return "";
    },
};
window.attempt = async (way, about) => {
    try { return await ways[way](about); } catch { return ""; }
};
"""
HARNESS = f"{BLANK}<body><script>{TRIES_JS}</script>"
SANDBOXED = f"{BLANK}<body><iframe sandbox='allow-scripts allow-forms' src='/harness.html'></iframe>"


@dataclass(frozen=True)
class Try:
    """What a page tries. `{name}` and `{port}` are the hook's, `{token}` its token: suppose it leaked."""

    way: str
    path: str
    name: str = "127.0.0.1"
    about: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        more = " ".join(f"{key}={value}" for key, value in self.about.items() if key != "body")
        return f"{self.way} {self.name}{self.path} {more}".replace("[", "(")


KINDS: tuple[dict[str, str], ...] = ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/json"})
READS = ("/healthz", "/metrics", "/v1/status", "/display", "/display/app.js", "/display/stream")


def tries() -> Iterator[Try]:
    """Every way in that a page has."""
    for name, method, kind, token, mode in product(
        ("127.0.0.1", "localhost"), ("POST", "PUT"), KINDS, (False, True), ("cors", "no-cors")
    ):
        headers = {**kind, **({"Authorization": "Bearer {token}"} if token else {})}
        if mode == "cors" or method == "POST":
            yield Try(
                "fetch", "/v1/transactions", name, {"method": method, "mode": mode, "headers": headers, "body": SALE}
            )
    for path, mode, token in product(READS, ("cors", "no-cors"), (False, True)):
        headers = {"Authorization": "Bearer {token}"} if token else {}
        yield Try("fetch", path, about={"method": "GET", "mode": mode, "headers": headers})
    for method, token in product(("DELETE", "PATCH", "OPTIONS", "HEAD"), (False, True)):
        headers = {"Authorization": "Bearer {token}"} if token else {}
        yield Try("fetch", "/v1/transactions", about={"method": method, "mode": "cors", "headers": headers})
    for kind, token in product(KINDS, (False, True)):
        headers = {**kind, **({"Authorization": "Bearer {token}"} if token else {})}
        yield Try("xhr", "/v1/transactions", about={"method": "POST", "headers": headers, "body": SALE})
    for enctype in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        yield Try("form", "/v1/transactions", about={"enctype": enctype, "body": SALE})
        yield Try("form", "/v1/members/identify", about={"enctype": enctype, "body": "{}"})
    for way, path in product(("image", "script", "module", "style", "prefetch", "frame", "object"), READS):
        yield Try(way, path)
    for name in ("127.0.0.1", "localhost", "rebound.example"):
        yield Try("stream", "/display/stream", name)
        yield Try("socket", "/display/stream", name)
        yield Try("socket", "/v1/transactions", name)
    for type_ in ("text/plain", "application/json", "application/x-www-form-urlencoded"):
        yield Try("beacon", "/v1/transactions", about={"type": type_, "body": SALE})


PAGES = ("evil", "null", "rebound")
TRIES = [(page, one) for page, one in product(PAGES, tries())]


@dataclass
class Stage:
    """The hook, and a page of each kind."""

    hook: Till
    frames: dict[str, Frame]

    async def sees(self, page: str, one: Try) -> str:
        """What a page could read of a try."""
        where = "rebound.example" if page == "rebound" else one.name
        about = {**one.about, "url": f"http://{where}:{self.hook.port}{one.path}"}
        if "headers" in about:
            about["headers"] = {k: v.replace("{token}", self.hook.token) for k, v in about["headers"].items()}
        seen: str = await self.frames[page].evaluate("([way, about]) => attempt(way, about)", [one.way, about])
        return seen


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder: Path = tmp_path_factory.mktemp("pages")
    (folder / "harness.html").write_text(HARNESS)
    (folder / "sandbox.html").write_text(SANDBOXED)
    files = {name: folder / name for name in ("harness.html", "sandbox.html")}
    async with (
        pages(files) as port,
        till(folder, [f"http://pos.example:{port}"]) as hook,
        chromium("--disable-features=LocalNetworkAccessChecks", names=NAMES) as browser,
    ):
        yield Stage(hook, await frames(browser, hook, port))


async def frames(browser: Browser, hook: Till, port: int) -> dict[str, Frame]:
    """A page of another origin, one of none (sandboxed), one whose name points to this machine, and the POS's."""
    context = await browser.new_context()
    evil, sandbox, rebound, pos = [await context.new_page() for _ in range(4)]
    await evil.goto(f"http://evil.example:{port}/harness.html")
    await sandbox.goto(f"http://evil.example:{port}/sandbox.html")
    await sandbox.frames[1].wait_for_function("window.attempt")
    # As after a rebinding: the page came from the attacker's machine, and its name now stands for this one.
    here = f"http://rebound.example:{hook.port}/harness.html"
    await rebound.route(here, lambda route: route.fulfill(body=HARNESS, content_type="text/html"))
    await rebound.goto(here)
    await pos.goto(f"http://pos.example:{port}/harness.html")
    return {"evil": evil.main_frame, "null": sandbox.frames[1], "rebound": rebound.main_frame, "pos": pos.main_frame}


def is_nothing(seen: str) -> bool:
    """Whether a page learnt nothing but that it is refused."""
    return seen in ("", "403") or seen.startswith('{"error":{"code":"forbidden"')


async def test_there_are_hundreds() -> None:
    assert len({(page, str(one)) for page, one in TRIES}) == len(TRIES)
    assert len(TRIES) > 350


@pytest.mark.parametrize(("page", "one"), TRIES, ids=str)
async def test_a_page_of_another_origin_can_do_nothing(stage: Stage, page: str, one: Try) -> None:
    before = await stage.hook.captured()
    seen = await stage.sees(page, one)
    assert (is_nothing(seen), await stage.hook.captured()) == (True, before), seen


def selling(token: str = "Bearer {token}") -> Try:
    headers = {"Content-Type": "application/json", "Authorization": token}
    return Try("fetch", "/v1/transactions", about={"method": "POST", "mode": "cors", "headers": headers, "body": SALE})


async def test_the_page_of_an_allowed_origin_can(stage: Stage) -> None:
    before = await stage.hook.captured()
    assert '"seq":' in await stage.sees("pos", selling())
    assert await stage.hook.captured() == before + 1


async def test_even_it_can_do_nothing_without_the_token_and_nothing_else_with_it(stage: Stage) -> None:
    before = await stage.hook.captured()
    assert '"unauthorized"' in await stage.sees("pos", selling("Bearer wrong"))
    for path in READS:
        headers = {"Authorization": "Bearer {token}"}
        assert await stage.sees("pos", Try("fetch", path, about={"method": "GET", "headers": headers})) == ""
    assert await stage.hook.captured() == before
