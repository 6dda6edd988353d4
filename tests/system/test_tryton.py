"""A real Tryton sells, with a real agent beside it and a real server behind that."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ParamSpec, TypeVar

import aiohttp
import pytest
import pytest_asyncio

from demo.processes import RETAILER, Server, Till, command
from support.tryton_build import EAN
from support.tryton_shop import ABSENT, Cashier, Shop

pytestmark = [
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT)),
]

P = ParamSpec("P")
T = TypeVar("T")
WAIT_S = 60
DEADLINE_S = 2.0
"""Longer than the usual, which a busy test machine may need for itself."""
OFFER = "Try the pear mustard with it"
CAMPAIGN = {
    "id": "mustard",
    "version": 1,
    "name": "Mustard with cheese",
    "trigger": "transaction",
    "condition": {">=": [{"var": "sale.total"}, 1000]},
    "effects": [
        {"type": "customer_message", "text": OFFER},
        {"type": "prompt", "text": "Which cheese?", "question": "cheese"},
    ],
    "valid_for_s": 3600,
}

ON_BASKET = "Cheese knives are at half price today"
BASKET_CAMPAIGN = {
    "id": "knives",
    "version": 1,
    "name": "Knives with cheese",
    "trigger": "basket",
    "condition": {"in": ["CHEESE", {"var": "sale.skus"}]},
    "effects": [{"type": "cashier_message", "text": ON_BASKET}],
    "valid_for_s": 3600,
}


async def waited(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A call that blocks, as Tryton's clients do."""
    return await asyncio.to_thread(call, *args, **kwargs)


@dataclass
class Stand:
    """Server, agent and Tryton, with a cashier logged in."""

    server: Server
    till: Till
    shop: Shop
    cashier: Cashier

    async def ledger(self) -> list[dict[str, Any]]:
        """Every transaction in the server's ledger."""
        await self.drained()
        out = await command("tillstream-server", "ledger", "export", "--data", str(self.server.folder))
        rows = [json.loads(line) for line in out.splitlines()]
        return [row["body"] for row in rows if row["type"] == "transaction"]

    async def in_ledger(self, sale: Any) -> list[dict[str, Any]]:
        """What the ledger has of a sale, once the agent's queue is empty."""
        return [one for one in await self.ledger() if one["pos_id"] == f"shop:{sale.id}"]

    async def drained(self) -> None:
        """Wait until the server has all that the agent has."""
        async with asyncio.timeout(WAIT_S):
            while (await _get(f"{self.till.url}/v1/status", self.till.token))["queue"]["records"]:
                await asyncio.sleep(0.05)

    async def takings(self) -> int:
        """What head office sees: the sum of all that counts."""
        await self.drained()
        said = await _get(f"{self.server.url}/api/v1/ledger/summary", self.server.key)
        return sum(said["amount_minor"].values())

    @contextmanager
    def agent_hangs(self) -> Iterator[None]:
        """The agent is there and does nothing."""
        assert self.till.program.process is not None
        self.till.program.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.till.program.process.send_signal(signal.SIGCONT)


async def _get(url: str, key: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(url) as response:
        said: dict[str, Any] = await response.json()
        return said


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    folder = tmp_path_factory.mktemp("tryton")
    server = await Server.set_up(folder)
    try:
        for campaign in (CAMPAIGN, BASKET_CAMPAIGN):
            file = folder / "campaign.json"
            file.write_text(json.dumps(campaign))
            named = ("--data", str(server.folder), "--retailer", RETAILER)
            await command("tillstream-server", "campaign", "put", *named, str(file))
        till = await Till.set_up(folder, server, "north", 1)
        shop = Shop(folder / "shop", f"[tillstream]\nstate = {till.state}\ndeadline = {DEADLINE_S}\n")
        try:
            await waited(shop.set_up)
            await waited(shop.start)
            with shop.cashier() as cashier:
                yield Stand(server, till, shop, cashier)
        finally:
            shop.stop()
            await till.program.stop()
    finally:
        await server.program.stop()


async def shown(till: Till, text: str) -> bool:
    """Whether the cashier's page shows a text, now or soon."""
    headers = {"Authorization": f"Bearer {till.token}"}
    async with (
        asyncio.timeout(WAIT_S),
        aiohttp.ClientSession(headers=headers) as http,
        http.get(f"{till.url}/display/stream") as stream,
    ):
        async for line in stream.content:
            if text in line.decode():
                return True
    return False


async def test_a_sale_arrives_once_and_its_offer_shows_in_tryton_and_on_the_page(stand: Stand) -> None:
    sale = await waited(stand.cashier.sells, ("Mountain cheese", 0.5), ("Gift box", 2), customer="Jo Example")
    assert (sale.state, sale.tillstream_state, sale.tillstream_error) == ("done", "captured", None)
    effects = sale.tillstream_effects.splitlines()
    assert {f"Tell the customer: {OFFER}", "Ask: Which cheese?"} <= set(effects)
    assert await shown(stand.till, OFFER)
    await waited(sale.click, "post")
    (arrived,) = await stand.in_ledger(sale)
    assert (sale.state, sale.tillstream_state, arrived["kind"]) == ("posted", "captured", "sale")


async def test_offers_show_while_the_sale_is_rung_up_and_go_with_what_they_are_for(stand: Stand) -> None:
    sale = await waited(stand.cashier.rings_up, ("Gift box", 1.0), ("Mountain cheese", 0.5), customer="Jo Example")
    assert (sale.state, sale.tillstream_state) == ("open", None)
    effects = sale.tillstream_effects.splitlines()
    assert sorted(effects) == ["For you: A member of the loyalty programme", f"For you: {ON_BASKET}"]
    assert await shown(stand.till, ON_BASKET)
    sale.lines.remove(sale.lines[1])
    sale.tillstream_party = None
    await waited(sale.save)
    assert ON_BASKET not in (sale.tillstream_effects or "")
    await waited(sale.click, "cancel")
    assert (sale.state, sale.tillstream_state, sale.tillstream_effects) == ("cancelled", None, None)
    assert await stand.in_ledger(sale) == []


async def test_a_sale_whose_answer_was_lost_is_sent_again_and_counted_once(stand: Stand) -> None:
    sale = await waited(stand.cashier.sells, ("Gift box", 2.0))
    record = sale.tillstream_record
    lost = {"tillstream_state": "waiting", "tillstream_record": None}
    await waited(stand.shop.runs, f"Sale.write([Sale({sale.id})], {lost}); Sale.tillstream_sweep()")
    sale.reload()
    assert (sale.tillstream_state, sale.tillstream_record) == ("captured", record)
    assert len(await stand.in_ledger(sale)) == 1


async def test_a_sale_arrives_with_all_that_tryton_knows(stand: Stand) -> None:
    sale = await waited(stand.cashier.rings_up, ("Mountain cheese", 0.5), ("Gift box", 2), customer="Jo Example")
    await waited(stand.cashier.takes, sale, "Terminal", Decimal("30.00"))
    (arrived,) = await stand.in_ledger(sale)
    cheese, box = arrived["lines"]
    assert (arrived["source"]["system"], arrived["receipt"], arrived["business_date"]) == (
        "tryton",
        sale.number,
        sale.date.isoformat(),
    )
    assert (arrived["total"], arrived["currency"], arrived["totals"]["tax"]) == (2200, "USD", 382)
    assert (cheese["amount"], cheese["quantity"], cheese["unit"], cheese["price"]) == (600, "0.5", "kg", "12")
    assert (cheese["sku"], cheese["gtin"], cheese["hierarchy"]) == ("CHEESE", EAN, ["Food", "Cheese"])
    assert cheese["taxes"] == [{"code": "Tax 0.21", "amount": 104, "rate": "21", "base": 496, "included": True}]
    assert (box["amount"], box["quantity"], box["name"]) == (1600, "2", "Gift box")
    assert [(one["type"], one["amount"], one.get("refund", False)) for one in arrived["tenders"]] == [
        ("Terminal", 3000, False),
        ("cash", -800, True),
    ]
    assert arrived["end"]["offset_from"] == "store"


async def test_goods_that_come_back_are_a_return(stand: Stand) -> None:
    back = await waited(stand.cashier.sells, ("Gift box", -1.0))
    mixed = await waited(stand.cashier.sells, ("Gift box", -1.0), ("Mountain cheese", 1.0))
    returned, exchanged = (await stand.ledger())[-2:]
    assert (returned["receipt"], exchanged["receipt"]) == (back.number, mixed.number)
    assert (returned["kind"], returned["total"], returned["lines"][0]["quantity"]) == ("return", -800, "-1")
    assert (exchanged["kind"], exchanged["total"]) == ("exchange", 400)


async def test_a_sale_that_is_paid_anew_replaces_the_first_and_a_cancelled_one_is_taken_back(stand: Stand) -> None:
    before = await stand.takings()
    sale = await waited(stand.cashier.sells, ("Gift box", 1.0))
    await waited(sale.click, "open")
    sale.lines[0].quantity = 2.0
    await waited(sale.save)
    await waited(stand.cashier.takes, sale, "Cash")
    assert await stand.takings() == before + 1600
    await waited(sale.click, "open")
    for payment in list(sale.payments):
        sale.payments.remove(payment)
    await waited(sale.save)
    await waited(sale.click, "cancel")
    kinds = [one["kind"] for one in await stand.in_ledger(sale)]
    assert kinds == ["sale", "sale", "cancel"]
    assert await stand.takings() == before


async def test_a_sale_that_is_rolled_back_is_never_captured(stand: Stand) -> None:
    sale = await waited(stand.cashier.rings_up, ("Gift box", 1.0))
    payment = sale.payments.new()
    payment.method = stand.cashier.one("sale.point.payment.method", ("name", "=", "Cash"))
    await waited(sale.save)
    process = f"sale = Sale({sale.id}); Sale.process([sale]); print(sale.state, sale.tillstream_state)"
    said = await waited(stand.shop.runs, f"{process}; transaction.rollback()")
    assert said.split() == ["done", "waiting"]
    sale.reload()
    assert (sale.state, sale.tillstream_state) == ("open", None)
    later = await waited(stand.cashier.sells, ("Gift box", 1.0))
    ledger = [one["pos_id"] for one in await stand.ledger()]
    assert f"shop:{later.id}" in ledger
    assert f"shop:{sale.id}" not in ledger


async def test_an_agent_that_hangs_costs_no_more_than_the_deadline_and_what_waited_goes_with_the_next_sale(
    stand: Stand,
) -> None:
    async def ready() -> Any:
        sale = await waited(stand.cashier.rings_up, ("Gift box", 1.0))
        payment = sale.payments.new()
        payment.method = stand.cashier.one("sale.point.payment.method", ("name", "=", "Cash"))
        await waited(sale.save)
        return sale

    async def paid(sale: Any) -> float:
        started = time.monotonic()
        await waited(sale.click, "process")
        return time.monotonic() - started

    usually = await paid(await ready())
    hung = await ready()
    with stand.agent_hangs():
        seconds = await paid(hung)
    assert (hung.state, hung.tillstream_state) == ("done", "waiting")
    assert hung.tillstream_error.startswith("timeout: no answer within ")
    assert seconds < usually + DEADLINE_S + 1.0  # what a busy machine adds
    await waited(hung.click, "post")
    assert hung.state == "posted"
    await waited(stand.cashier.sells, ("Gift box", 1.0))
    hung.reload()
    assert (hung.tillstream_state, hung.tillstream_error) == ("captured", None)
    assert len(await stand.in_ledger(hung)) == 1


async def test_without_an_agent_tryton_sells_and_the_scheduled_task_catches_up_even_after_a_restart(
    stand: Stand,
) -> None:
    await stand.till.program.stop()
    try:
        sale = await waited(stand.cashier.sells, ("Gift box", 3.0))
        await waited(sale.click, "post")
        assert (sale.state, sale.tillstream_state) == ("posted", "waiting")
        assert "no agent runs" in sale.tillstream_error
        stand.shop.stop()
    finally:
        await stand.till.start()
    await waited(stand.shop.runs_scheduled_tasks)
    await waited(stand.shop.start)
    sale.reload()
    assert (sale.tillstream_state, sale.tillstream_error) == ("captured", None)
    assert len(await stand.in_ledger(sale)) == 1


async def test_the_module_passes_what_tryton_asks_of_every_module_and_is_translated(
    stand: Stand,
) -> None:
    said = await waited(stand.shop.own_tests)
    assert said.endswith("OK\n"), said
