"""The Python client against a real agent: what it asks, what it gets, and what each refusal looks like."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest

from support.agents import WELCOME, enrolled, running_agent
from support.gateways import gateway
from tillstream_agent.config import Config
from tillstream_agent.folder import Folder
from tillstream_pos import Answer, Till, TillError
from tillstream_protocol.decisions import Campaign
from tillstream_protocol.effects import CustomerMessage

PAIR = Campaign(
    id="pair",
    version=1,
    name="A second one",
    trigger="basket",
    condition={"in": ["A", {"var": "sale.skus"}]},
    effects=(CustomerMessage("The second one is half price"),),
)

P = ParamSpec("P")
T = TypeVar("T")
PATIENT_S = 10.0
"""A deadline that a busy test machine keeps."""
CARD = [("loyalty", "4711")]


def sale(pos_id: str = "1", total: int = 500) -> dict[str, Any]:
    return {
        "source": {"system": "python-pos"},
        "kind": "sale",
        "pos_id": pos_id,
        "business_date": "2026-01-31",
        "end": {"at": 1_769_850_000_000},
        "total": total,
        "lines": [{"seq": 1, "sku": "A", "amount": total}],
    }


async def calling(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A call as a POS makes it: it waits, in a thread of its own."""
    return await asyncio.to_thread(call, *args, **kwargs)


@asynccontextmanager
async def agent(path: Path) -> AsyncIterator[Folder]:
    """A whole agent whose pack greets members, and has an offer for open baskets."""
    async with gateway() as server:
        server.campaigns = (WELCOME, PAIR)
        folder = await enrolled(path, server)
        async with running_agent(folder):
            yield folder


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Folder]:
    async with agent(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
async def till(folder: Folder) -> AsyncIterator[Till]:
    with Till(folder.path, deadline=PATIENT_S) as opened:
        yield opened


async def test_a_sale_is_captured_and_named(till: Till) -> None:
    answer = await calling(till.transaction, sale())
    assert answer.ok
    assert answer.captured is not None
    assert (answer.captured.seq, answer.captured.ack, answer.captured.repeat, len(answer.captured.epoch)) == (
        0,
        "os",
        False,
        32,
    )
    assert (answer.status, answer.effects, answer.error, answer.code, answer.retryable) == (201, (), None, None, False)


async def test_the_same_sale_again_is_the_same_record(till: Till) -> None:
    first = (await calling(till.transaction, sale())).captured
    again = (await calling(till.transaction, sale(), ack="disk")).captured
    assert first is not None
    assert again is not None
    assert (again.epoch, again.seq, again.ack, again.repeat) == (first.epoch, first.seq, "disk", True)


async def test_a_member_is_greeted(till: Till) -> None:
    answer = await calling(till.identify, CARD, basket="B7")
    assert answer.ok
    assert answer.messages() == ("Nice to see you",)
    assert answer.messages("customer_message") == ("Nice to see you",)
    assert answer.messages("receipt_line") == ()
    offer = answer.effects[0]
    assert (offer.campaign, offer.outcome, offer.decided_at) == ("welcome", "offered", "edge")


async def test_identifiers_may_be_pairs_or_mappings(till: Till) -> None:
    pair = await calling(till.identify, iter(CARD), event_id="e1")
    mapping = await calling(till.identify, [{"scheme": "loyalty", "value": "4711"}], event_id="e1")
    assert pair.captured is not None
    assert mapping.captured is not None
    assert (pair.captured.seq, mapping.captured.repeat) == (mapping.captured.seq, True)


async def test_an_offer_is_accepted_once_and_another_declined(till: Till) -> None:
    offer = (await calling(till.identify, CARD)).effects[0].offer
    taken = await calling(till.accept, offer)
    again = await calling(till.accept, offer)
    assert taken.captured is not None
    assert again.captured is not None
    assert (taken.captured.seq, again.captured.repeat) == (again.captured.seq, True)
    assert (await calling(till.decline, offer)).ok
    unknown = await calling(till.decline, "0" * 32)
    assert (unknown.ok, unknown.code, unknown.field, unknown.status) == (False, "not_found", "offer", 404)


async def test_a_basket_is_answered_while_it_is_open_and_captured_when_it_closes(till: Till) -> None:
    lines = sale()["lines"]
    opened = await calling(till.basket, "B7", revision=1, lines=lines, total=500, identifiers=CARD)
    assert opened.ok
    assert set(opened.messages()) == {"Nice to see you", "The second one is half price"}
    again = await calling(till.basket, "B7", revision=1, lines=lines, total=500, identifiers=CARD)
    assert again.messages() == opened.messages()
    first, second = [await calling(till.basket, "B7", revision=2, state="closed", sale=sale()) for _ in range(2)]
    assert first.captured is not None
    assert not first.captured.repeat
    assert second.captured == replace(first.captured, repeat=True)


async def test_an_older_state_of_a_basket_is_refused_by_name(till: Till) -> None:
    assert (await calling(till.basket, "B7", revision=3)).ok
    stale = await calling(till.basket, "B7", revision=2)
    assert (stale.code, stale.field, stale.status, stale.retryable) == ("stale_revision", "revision", 409, False)


async def test_what_is_said_at_the_till_is_captured_once_each(till: Till) -> None:
    calls: list[Callable[[], Answer]] = [
        lambda: till.observe("other_bags", text="two", basket="B7", event_id="e1"),
        lambda: till.survey_answer("nps", "9", text="Friendly", identifiers=CARD, event_id="e2"),
        lambda: till.wish(sku="S-1", text="in blue", event_id="e3"),
    ]
    first = [await calling(call) for call in calls]
    again = [await calling(call) for call in calls]
    assert [answer.captured.seq for answer in first if answer.captured] == [0, 1, 2]
    assert [answer.captured.seq for answer in again if answer.captured and answer.captured.repeat] == [0, 1, 2]


async def test_a_poss_own_bytes_are_captured_through_an_adapter(till: Till) -> None:
    order = (Path(__file__).parents[1] / "data/woocommerce/order_created_response.json").read_bytes()
    first = await calling(till.adapt, "woocommerce", order)
    again = await calling(till.adapt, "woocommerce", order)
    assert first.ok, first
    assert first.records
    assert again.records == tuple(replace(one, repeat=True) for one in first.records)
    assert (await calling(till.adapt, "nobody", b"")).code == "not_found"


async def test_a_refusal_names_the_field_and_is_not_worth_repeating(till: Till) -> None:
    answer = await calling(till.transaction, {**sale(), "business_date": "2026-02-30"})
    assert (answer.ok, answer.captured, answer.code, answer.field) == (False, None, "invalid_input", "business_date")
    assert (answer.limit, answer.retryable, answer.status) == ("YYYY-MM-DD", False, 400)


async def test_who_asks_for_it_gets_refusals_as_exceptions(folder: Folder) -> None:
    with Till(folder.path, deadline=PATIENT_S, strict=True) as strict:
        assert (await calling(strict.transaction, sale())).ok
        with pytest.raises(TillError, match="not a date") as caught:
            await calling(strict.transaction, {**sale(), "business_date": "2026-02-30"})
    assert caught.value.answer.field == "business_date"


@pytest.mark.parametrize(
    "call",
    [
        lambda till: till.transaction({"total": {1, 2}, "when": object()}),
        lambda till: till.transaction({"total": float("nan")}),
        lambda till: till.identify([5]),
        lambda till: till.identify(None),
        lambda till: till.basket(7, revision=1),
        lambda till: till.basket("\ud800", revision=1),
        lambda till: till.adapt("csv", "text"),
        lambda till: till.accept(None),
    ],
)
def test_what_cannot_be_written_is_an_answer_too(tmp_path: Path, call: Callable[[Till], Answer]) -> None:
    answer = call(Till(tmp_path))
    assert (answer.ok, answer.code, answer.retryable) == (False, "invalid_input", False)


async def test_threads_may_share_a_till(till: Till) -> None:
    calls = [calling(till.transaction, sale(str(number))) for number in range(40)]
    captured = [answer.captured.seq for answer in await asyncio.gather(*calls) if answer.captured is not None]
    assert sorted(captured) == list(range(40))


async def test_one_connection_serves_call_after_call(till: Till) -> None:
    first = threading.active_count()
    await calling(till.transaction, sale("1"))
    kept = list(till._idle)
    await calling(till.transaction, sale("2"))
    assert (len(kept), till._idle) == (1, kept)
    assert threading.active_count() <= first + 1


async def test_an_agent_that_comes_back_on_another_port_is_found_again(tmp_path: Path) -> None:
    async with gateway() as server:
        folder = await enrolled(tmp_path / "state", server)
        with Till(folder.path, deadline=PATIENT_S) as till:
            async with running_agent(folder):
                assert (await calling(till.transaction, sale("1"))).ok
            gone = [await calling(till.transaction, sale("2")) for _ in range(4)]
            assert [answer.code for answer in gone] == ["unreachable", "unreachable", "resting", "resting"]
            assert all(answer.retryable for answer in gone)
            async with running_agent(folder, Config(hook_port=0)):
                assert (await calling(till.transaction, sale("2"))).ok


async def test_an_address_and_a_token_do_as_well(folder: Folder) -> None:
    port = folder.port_file.read_text().strip()
    for url in (f"http://127.0.0.1:{port}", f"http://localhost:{port}/"):
        with Till(url=url, token=folder.hook_token(), deadline=PATIENT_S) as till:
            assert (await calling(till.transaction, sale())).ok


async def test_a_wrong_token_is_told_and_read_anew(folder: Folder) -> None:
    right = folder.token_file.read_text()
    folder.token_file.write_text("wrong")
    with Till(folder.path, deadline=PATIENT_S) as till:
        answer = await calling(till.transaction, sale())
        assert (answer.code, answer.status, answer.ok) == ("unauthorized", 401, False)
        folder.token_file.write_text(right)
        assert (await calling(till.transaction, sale())).ok
