"""One sale's way through the whole server, over real sockets."""

from __future__ import annotations

from support.serving import Server, Till, campaign_document, sale
from tillstream_protocol.messages import OfferPush, Range, Receipt

JSON = {"Content-Type": "application/json"}
REGULAR = campaign_document(id="regular", condition={">=": [{"var": "member.visits"}, 2]})


async def test_a_sale_goes_from_a_sealed_batch_to_the_ledger_and_an_offer_comes_back(server: Server) -> None:
    put = await server.send(
        "PUT", "/api/v1/campaigns/acme/regular", REGULAR.encode(), {**JSON, **await server.key("marketer")}
    )
    assert put.status == 200

    till = Till(server)
    who = await till.enrols(await server.token("checkout-1"))
    assert (who.retailer, who.store, who.till) == ("acme", "north", "checkout-1")

    async with till.on_push() as pushes:
        first = await till.sends(sale(1, total=1999, member="1234567"))
        assert first.acked == (Range(0, 0),)
        second = await till.sends(sale(2, total=501, member="1234567"))
        assert second.acked == (Range(0, 1),)
        push, offer = await pushes.next(OfferPush)
        assert (offer.decision.campaign, offer.decision.outcome) == ("regular", "offered")
        assert (offer.epoch, offer.seq) == (till.epoch, 1)  # the second visit's sale, not the first's
        await pushes.says(Receipt(push.seq))

    viewer = await server.key("viewer")
    summary = (await server.get("/api/v1/ledger/summary?store=north", viewer)).json()
    assert (summary["transactions"], summary["amount_minor"], summary["tills"]) == (2, {"USD": 2500}, 1)
    offers = (await server.get("/api/v1/offers/summary", viewer)).json()
    assert offers["totals"]["offered"] == offers["totals"]["pushed"] == 1


async def test_neither_log_nor_ledger_names_the_member(server: Server) -> None:
    member = "5550123456789"
    till = await server.till()
    await till.sends(sale(1, member=member))
    assert member not in server.log.getvalue()
    files = [path for path in server.folder.root.rglob("*") if path.is_file()]
    assert files
    assert not any(member.encode() in path.read_bytes() for path in files)
