"""Odoo's module, as far as it can be shown without Odoo: it is whole, loads in Chromium beside stubs with the
signatures of Odoo 17 and 18, and what it sends is what the adapter reads. The strip is drawn by the real OWL."""

from __future__ import annotations

import ast
import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio

from pos.odoo import build
from support.browsers import chromium, needs_chromium
from support.golden import written
from support.sites import pages
from tillstream_protocol.adapters import Setting
from tillstream_protocol.adapters.odoo import ADAPTER

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, Route

ROOT = Path(__file__).parents[2]
STUBS = Path(__file__).parent / "odoo_stubs"
OWL = ROOT / "deploy/pos/web/node_modules/@odoo/owl/dist/owl.es.js"
SAMPLES = ROOT / "tests/data/odoo"
AGENT = "http://127.0.0.1:8710"
COMMON = {
    "@odoo/owl": "/owl.js",
    "@web/core/utils/patch": "/stubs/patch.js",
    "@web/core/network/rpc": "/stubs/rpc.js",
    "@web/core/registry": "/stubs/registry.js",
    "@point_of_sale/app/store/pos_hook": "/stubs/pos_hook.js",
    **{f"@{build.NAME}/{name}": f"/static/{name}.js" for name in ("tillstream", "bridge", "till", "hooks", "strip")},
}
STORES = {
    "17": {
        "@point_of_sale/app/store/pos_store": "/stubs/store_17.js",
        "@point_of_sale/app/store/models": "/stubs/models_17.js",
    },
    "18": {
        "@point_of_sale/app/store/pos_store": "/stubs/pos_store.js",
        "@point_of_sale/app/models/pos_order": "/stubs/pos_order.js",
    },
}
SETTING = Setting(
    "EUR",
    ZoneInfo("Europe/Berlin"),
    {"products": {"101": "COFFEE", "102": "BREAKFAST"}, "payment_methods": {"1": "cash", "2": "card", "8": "cash"}},
)
OFFER = {
    "offer": "1" * 32,
    "campaign": "welcome",
    "version": 1,
    "outcome": "offered",
    "decided_at": "edge",
    "expires_ms": 4_000_000_000_000,
    "effects": [{"type": "customer_message", "text": "Nice to see you"}],
}
needs_owl = pytest.mark.skipif(not OWL.exists(), reason="tests/support/browser.sh brings OWL")
in_the_browsers_loop = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("series", build.SERIES)
def test_the_manifest_parses_and_names_files_that_are_there(series: str, tmp_path: Path) -> None:
    made = build.build(series, tmp_path)
    manifest = ast.literal_eval((made / "__manifest__.py").read_text())
    assert (manifest["depends"], manifest["version"]) == (["point_of_sale"], f"{series}.0.1.0.0")
    (assets,) = manifest["assets"].values()
    assert [name for name in assets if not (tmp_path / name).is_file()] == []
    scripts = [tmp_path / name for name in assets if name.endswith(".js")]
    assert all(one.read_text().startswith("/** @odoo-module */\n") for one in scripts)
    assert (made / "__init__.py").exists()


def test_it_is_built_from_the_command_line_for_the_series_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main(["18", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / build.NAME}\n"
    assert build.main(["16", str(tmp_path)]) == 2
    assert "17|18" in capsys.readouterr().err


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as opened:
        yield opened


@dataclass
class Till:
    """A till's browser with the module in it, and an agent that only listens."""

    page: Page
    url: str
    calls: list[tuple[str, Any]] = field(default_factory=list)
    effects: list[dict[str, Any]] = field(default_factory=list)

    async def opens(self, *, paired: bool = True) -> None:
        """Start the POS."""
        if paired:
            about = "{ token: 't', deadlineMs: 10_000 }"
            await self.page.add_init_script(f"localStorage.tillstream ??= JSON.stringify({about})")
        await self.page.route(f"{AGENT}/**", self._answer)
        await self.page.goto(self.url)
        await self.page.wait_for_function("window.ready")

    async def called(self, count: int) -> list[tuple[str, Any]]:
        """The agent's calls, once there are so many."""
        async with asyncio.timeout(10):
            while len(self.calls) < count:
                await asyncio.sleep(0.02)
        return self.calls

    async def _answer(self, route: Route) -> None:
        body = route.request.post_data_json
        self.calls.append((route.request.url.removeprefix(AGENT), body))
        answer = {"token": "new"} if body and "code" in body else {"effects": self.effects}
        await route.fulfill(status=201, json=answer, headers={"Access-Control-Allow-Origin": "*"})


def page_of(series: str) -> str:
    """A page that loads the module as Odoo's bundle would: everything once, hooks and strip for their effects."""
    imports = json.dumps({"imports": {**COMMON, **STORES[series]}})
    store = "@point_of_sale/app/store/pos_store"
    orders = "@point_of_sale/app/models/pos_order" if series == "18" else "@point_of_sale/app/store/models"
    return f"""<!doctype html><meta charset=utf-8><title>POS</title><script type=importmap>{imports}</script>
    <body><script type=module>
    import {{ reactive, mount }} from "@odoo/owl";
    import * as store from "{store}";
    import * as orders from "{orders}";
    import {{ registry }} from "@web/core/registry";
    window.pos = reactive(new store.PosStore());
    window.Order = orders.PosOrder ?? orders.Order;
    await import("@{build.NAME}/hooks");
    await import("@{build.NAME}/strip");
    const {{ Component }} = registry.category("main_components").entries.get("TillstreamStrip");
    await mount(Component, document.body);
    window.ready = true;
    </script>"""


@pytest_asyncio.fixture(loop_scope="module")
async def till(browser: Browser, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Till]:
    static = build.build(request.param, tmp_path) / "static/src"
    files = {f"static/{one.name}": one for one in static.iterdir()}
    files |= {f"stubs/{one.name}": one for one in STUBS.iterdir()} | {"owl.js": OWL}
    async with pages(files, page_of(request.param)) as port:
        context = await browser.new_context()
        try:
            yield Till(await context.new_page(), f"http://127.0.0.1:{port}/")
        finally:
            await context.close()


with_18 = pytest.mark.parametrize("till", ["18"], indirect=True)
with_17 = pytest.mark.parametrize("till", ["17"], indirect=True)


def sample(name: str) -> Any:
    return json.loads((SAMPLES / name).read_text())


SELL = """([raw, line, state]) => {
    const order = new Order(raw);
    pos.orders.push(order);
    pos.set_order(order);
    pos.addPendingOrder([order.id]);
    order.state = state;
    pos.line = line;
    return pos.syncAllOrders({ throw: true }).then(() => "", (error) => error.constructor.name);
}"""


@needs_chromium
@needs_owl
@with_18
@in_the_browsers_loop
async def test_a_sale_made_offline_in_odoo_18_is_captured_whole(till: Till) -> None:
    raw = sample("sync_from_ui.json")[0]
    await till.opens()
    assert await till.page.evaluate(SELL, [raw, "lost", "paid"]) == "ConnectionLostError"
    ((path, orders),) = await till.called(1)
    assert path == "/v1/adapters/odoo"
    read, golden = read_by_adapter(orders, "sync_from_ui.golden.json")
    assert read == golden
    await till.page.evaluate("pos.syncAllOrders()")
    await till.page.evaluate("pos.line = 'up'; pos.syncAllOrders()")
    assert len(till.calls) == 1


def read_by_adapter(orders: Any, name: str) -> tuple[Any, Any]:
    """What the adapter reads of one order that was sent, and what its golden file says of it; `ext` left out."""
    (read,) = written(ADAPTER.read(json.dumps(orders).encode(), SETTING))
    golden = json.loads((SAMPLES / name).read_text())[0]
    for one in (read, golden):
        for part in (one, *one["lines"], *one["tenders"]):
            part.pop("ext", None)
    return read, golden


@needs_chromium
@needs_owl
@with_18
@in_the_browsers_loop
async def test_an_order_that_the_server_refuses_is_taken_back(till: Till) -> None:
    await till.opens()
    raw = sample("sync_from_ui.json")[0]
    assert await till.page.evaluate(SELL, [raw, "refuses", "paid"]) == "RPCError"
    calls = await till.called(2)
    assert [body[0]["state"] for _, body in calls] == ["paid", "cancel"]


@needs_chromium
@needs_owl
@with_18
@in_the_browsers_loop
async def test_an_open_order_is_nobodys_sale(till: Till) -> None:
    await till.opens()
    assert await till.page.evaluate(SELL, [sample("sync_from_ui.json")[0], "up", "draft"]) == ""
    assert till.calls == []


@needs_chromium
@needs_owl
@with_18
@in_the_browsers_loop
async def test_a_customer_is_identified_and_the_offer_stands_in_the_strip_until_answered(till: Till) -> None:
    till.effects = [OFFER]
    await till.opens()
    partner = {"id": 7, "barcode": "0427", "phone": "+4915112345678", "email": False}
    script = """([raw, partner]) => {
        const order = new Order(raw);
        pos.orders.push(order);
        pos.set_order(order);
        order.set_partner(partner);
    }"""
    raw = sample("sync_from_ui.json")[0]
    await till.page.evaluate(script, [raw, partner])
    identifiers = [
        {"scheme": "account", "value": "7"},
        {"scheme": "loyalty", "value": "0427"},
        {"scheme": "phone", "value": "+4915112345678"},
    ]
    assert await till.called(1) == [("/v1/members/identify", {"identifiers": identifiers, "basket": raw["uuid"]})]
    await till.page.get_by_text("Nice to see you").wait_for()
    assert await till.page.locator("dialog, [role=dialog], [aria-modal]").count() == 0
    await till.page.get_by_role("button", name="Yes").click()
    assert (await till.called(2))[1][0] == f"/v1/offers/{'1' * 32}/accepted"
    await till.page.get_by_text("Nice to see you").wait_for(state="detached")


@needs_chromium
@needs_owl
@with_18
@in_the_browsers_loop
async def test_an_offer_goes_with_its_basket_and_with_its_customer(till: Till) -> None:
    till.effects = [OFFER]
    await till.opens()
    orders = """(raws) => {
        for (const raw of raws) pos.orders.push(new Order(raw));
        pos.set_order(pos.orders[0]);
        pos.orders[0].set_partner({ id: 7 });
    }"""
    await till.page.evaluate(orders, sample("sync_from_ui.json"))
    shown = till.page.get_by_text("Nice to see you")
    await shown.wait_for()
    await till.page.evaluate("pos.set_order(pos.orders[1])")
    await shown.wait_for(state="detached")
    await till.page.evaluate("pos.set_order(pos.orders[0])")
    await shown.wait_for()
    await till.page.evaluate("pos.orders[0].set_partner(null)")
    await shown.wait_for(state="detached")


@needs_chromium
@needs_owl
@with_18
@in_the_browsers_loop
async def test_a_till_that_is_not_paired_sells_as_ever_and_is_paired_in_the_strip(till: Till) -> None:
    await till.opens(paired=False)
    assert await till.page.evaluate(SELL, [sample("sync_from_ui.json")[0], "up", "paid"]) == ""
    assert till.calls == []
    await till.page.get_by_label("Code").fill("7KQ4XW2M")
    await till.page.get_by_role("button", name="Pair").click()
    await till.page.get_by_label("Code").wait_for(state="detached")
    assert till.calls == [("/v1/pair", {"code": "7KQ4XW2M"})]
    assert await till.page.evaluate("JSON.parse(localStorage.tillstream).token") == "new"


@needs_chromium
@needs_owl
@with_17
@in_the_browsers_loop
async def test_a_sale_made_offline_in_odoo_17_is_captured(till: Till) -> None:
    raw = sample("create_from_ui.json")["params"]["args"][0][0]["data"]
    await till.opens()
    script = "(raw) => { pos.order = new Order(raw); return pos.push_single_order(pos.order).catch(() => 'offline'); }"
    assert await till.page.evaluate(script, raw) == "offline"
    ((path, orders),) = await till.called(1)
    await till.page.evaluate("pos.order.set_partner({ id: 7 })")
    assert (await till.called(2))[1][0] == "/v1/members/identify"
    read, golden = read_by_adapter(orders, "create_from_ui.golden.json")
    assert (path, read) == ("/v1/adapters/odoo", golden)


@needs_chromium
@needs_owl
@with_17
@in_the_browsers_loop
async def test_whatever_goes_wrong_here_the_pos_goes_on(till: Till) -> None:
    await till.opens()
    broken = """() => {
        const order = new Order({ uid: "1" });
        let calls = 0;
        order.export_as_JSON = () => { if (!calls++) throw new Error("a defect"); return {}; };
        return pos.push_single_order(order).catch(() => pos.kept.length);
    }"""
    assert await till.page.evaluate(broken) == 1
