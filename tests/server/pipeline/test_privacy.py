"""A dump of ledger and projections names nobody; the vault opens for those who hold the keys."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec
import pytest

from support.pipelining import NOW, Server, sale
from tillstream_protocol.codec import encode
from tillstream_protocol.events import (
    BasketChanged,
    MemberIdentified,
    Observation,
    Original,
    Record,
    SurveyAnswer,
    WishListEntry,
)
from tillstream_protocol.transaction import (
    ConsentGiven,
    Customer,
    Fiscal,
    Identifier,
    Line,
    PointsSaid,
    Tender,
    Transaction,
)
from tillstream_server.customers.identity import Namer
from tillstream_server.ledger.bodies import decode as ledger_body
from tillstream_server.pipeline.split import Operation, Particulars

PHONE = "+1 555 867-5309"
PLAIN_PHONE = "5558675309"
EMAIL = "Ann.Canary@example.com"
ANN = Customer(
    identifiers=(Identifier("phone", PHONE), Identifier("email", EMAIL)),
    name="Ann Canary",
    personal={"street": "1 Canary Road"},
    consents=(ConsentGiven("offers", 4),),
    points=PointsSaid(earned="10"),
)
POS_BYTES = b"<sale member='5558675309' cashier='c-canary'/>"


def revealing() -> Transaction:
    """A sale that says too much in every place that it can."""
    line = Line(seq=0, amount=1000, sku="sku-0", name=f"for {PLAIN_PHONE}", ext={"engraving": "To Canary Ann"})
    tender = Tender(
        "card",
        1000,
        card="411111******1111",
        reference="ref-canary",
        gift_card="gift-canary",
        ext={"holder": "A CANARY"},
    )
    return sale(
        lines=(line,),
        tenders=(tender,),
        customer=ANN,
        operator="c-canary",
        note="call Ann Canary",
        reason=f"mailed {EMAIL}",
        fiscal=Fiscal("tse", signature="sig-canary"),
        ext={"deep": {"deeper": ["canary in a mine"]}},
    )


def record() -> Record:
    return Record(revealing(), NOW, original=Original("text/xml", hashlib.sha256(POS_BYTES).digest(), POS_BYTES))


def files(server: Server) -> bytes:
    """Everything that lies in the databases, keys apart."""
    folder = server.database.path.parent
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.db*")))


async def test_nothing_that_names_somebody_is_in_any_file(server: Server) -> None:
    await server.take(record(), MemberIdentified(ANN.identifiers, basket=PLAIN_PHONE))
    found = files(server).lower()
    canaries = (b"canary", b"8675309", b"867-5309", b"867 5309", b"411111", b"1111", b"a canary")
    assert [canary for canary in canaries if canary in found] == []


async def test_no_telephone_number_can_be_tried_against_what_is_there(server: Server) -> None:
    await server.take(record())
    found = files(server)
    for text in (PHONE, PLAIN_PHONE, "+15558675309", "15558675309"):
        for prefix in ("", "phone", "phone\0", "phone:", "acme\0phone\0", "acmephone"):
            data = (prefix + text).encode()
            for name in ("md5", "sha1", "sha256", "sha512", "blake2b", "blake2s"):
                digest = hashlib.new(name, data).digest()
                assert digest[:8] not in found
            for size in (8, 16, 32):
                assert hashlib.blake2b(data, digest_size=size).digest() not in found


async def test_the_ledger_keeps_what_names_nobody(server: Server) -> None:
    await server.take(record())
    ((body,),) = await server.rows("SELECT body FROM ledger")
    kept = msgspec.msgpack.decode(body, type=Transaction)
    assert kept.customer == Customer(consents=ANN.consents, points=ANN.points)
    assert kept.lines[0].name == "for ****"
    assert kept.reason == "mailed ****"
    assert (kept.total, kept.tenders[0].amount, kept.tenders[0].type) == (1000, 1000, "card")


async def test_the_server_opens_it_all(server: Server) -> None:
    await server.take(record())
    items: dict[str, list[bytes]] = {}
    for item in await server.reveal(ANN.identifiers[0]):
        items.setdefault(item.field, []).append(item.plain)
    assert [msgspec.msgpack.decode(p, type=Identifier) for p in items["identifier"]] == [ANN.identifiers[0]]
    particulars = msgspec.msgpack.decode(items["particulars"][0], type=Particulars)
    assert (particulars.name, particulars.personal, particulars.note) == (ANN.name, ANN.personal, "call Ann Canary")
    assert particulars.lines[0].ext == {"engraving": "To Canary Ann"}
    assert particulars.tenders[0].card == "411111******1111"
    assert particulars.ext == {"deep": {"deeper": ["canary in a mine"]}}
    assert msgspec.msgpack.decode(items["original"][0], type=Original).data == POS_BYTES


async def test_nothing_of_a_record_is_lost_between_ledger_and_vault(server: Server) -> None:
    given = msgspec.structs.replace(revealing(), reason=None)
    given = msgspec.structs.replace(given, lines=(msgspec.structs.replace(given.lines[0], name="plain"),))
    await server.take(given)
    ((body,),) = await server.rows("SELECT body FROM ledger")
    left: dict[str, Any] = msgspec.to_builtins(msgspec.msgpack.decode(body, type=Transaction))
    vault = {item.field: item.plain for item in await server.reveal(ANN.identifiers[0])}
    own = {item.field: item.plain for item in await reveal_own(server)}
    taken = msgspec.msgpack.decode(vault["particulars"])
    operation = msgspec.msgpack.decode(own["operation"])
    left["customer"] |= {"identifiers": msgspec.to_builtins(ANN.identifiers)}
    left["customer"] |= {"name": taken.pop("name"), "personal": taken.pop("personal")}
    for part in ("lines", "tenders"):
        left[part] = list(left[part])
        for fields in taken.pop(part):
            left[part][fields.pop("index")] |= fields
    assert msgspec.convert({**left, **taken, **operation}, Transaction) == given


async def reveal_own(server: Server) -> tuple[Any, ...]:
    """What the vault holds under the retailer's own subject."""
    own = Namer(server.keys.identifier_key, "acme").own()
    ((subject,),) = await server.rows("SELECT subject FROM identifier WHERE hash = ?", own)
    async with server.database.read() as conn:
        return await server.vault.reveal(conn, subject)


async def test_the_cashier_and_the_fiscal_block_are_the_retailers_own(server: Server) -> None:
    await server.take(record())
    items = {item.field: item.plain for item in await reveal_own(server)}
    operation = msgspec.msgpack.decode(items["operation"], type=Operation)
    assert (operation.operator, operation.fiscal) == ("c-canary", Fiscal("tse", signature="sig-canary"))
    assert set(items) == {"operation"}


async def test_without_a_member_it_all_is_the_retailers_own(server: Server) -> None:
    await server.take(Record(sale(note="no name given"), NOW, original=Original("text/xml", bytes(32), POS_BYTES)))
    assert {item.field for item in await reveal_own(server)} == {"particulars", "original"}


@pytest.mark.parametrize(
    "said",
    [
        Observation("other_bags", f"Ann Canary, {PLAIN_PHONE}", basket=PLAIN_PHONE, identifiers=ANN.identifiers),
        SurveyAnswer("nps", "9", "says Ann Canary", basket=EMAIL, identifiers=ANN.identifiers),
        WishListEntry("A2", "for Ann Canary", identifiers=ANN.identifiers),
    ],
)
async def test_what_is_said_at_a_till_lies_with_the_person(
    server: Server, said: Observation | SurveyAnswer | WishListEntry
) -> None:
    await server.take(Record(said, NOW, version=2, basket=bytes(16)))
    found = files(server).lower()
    assert [canary for canary in (b"canary", b"8675309") if canary in found] == []
    ((body, subject),) = await server.rows("SELECT body, subject FROM ledger")
    assert subject == await server.subject_of(ANN.identifiers[0])
    kept = msgspec.msgpack.decode(body, type=type(said))
    assert (kept.identifiers, kept.text) == ((), "")
    (particulars,) = [item.plain for item in await server.reveal(ANN.identifiers[0]) if item.field == "particulars"]
    assert msgspec.msgpack.decode(particulars, type=Particulars).note == said.text


async def test_what_counts_of_a_remark_stays_in_the_ledger(server: Server) -> None:
    await server.take(SurveyAnswer("nps", "9", offer_id=bytes(16)), Observation("other_bags"), WishListEntry("A2"))
    bodies = [ledger_body(body) for (body,) in await server.rows("SELECT body FROM ledger ORDER BY id")]
    assert bodies == [SurveyAnswer("nps", "9", offer_id=bytes(16)), Observation("other_bags"), WishListEntry("A2")]
    assert await server.rows("SELECT subject FROM ledger") == [(None,)] * 3


async def test_a_basket_that_was_left_is_the_members(server: Server) -> None:
    await server.take(BasketChanged("b-1", "abandoned", 2, 900, "USD", ANN.identifiers, NOW - 5))
    ((body, subject, at_ms),) = await server.rows("SELECT body, subject, at_ms FROM ledger")
    assert subject == await server.subject_of(ANN.identifiers[0])
    assert (ledger_body(body), at_ms) == (BasketChanged("b-1", "abandoned", 2, 900, "USD", at=NOW - 5), NOW - 5)


async def test_a_remark_with_an_id_counts_once_for_each_kind(server: Server) -> None:
    twice = (Observation("other_bags", event_id="e1"), Observation("other_bags", event_id="e1"))
    await server.take(*twice, WishListEntry("A2", event_id="e1"))
    assert await server.rows("SELECT count(*) FROM duplicate") == [(1,)]


async def test_every_way_of_writing_an_identifier_is_kept_once(server: Server) -> None:
    for number in ("+1 555 867-5309", "+15558675309", "001 555 8675309", "+1 555 867-5309"):
        await server.take(MemberIdentified((Identifier("phone", number),)))
    assert await server.rows("SELECT count(*) FROM subject") == [(1,)]
    plain = [item.plain for item in await server.reveal(Identifier("phone", "+15558675309"))]
    values = {msgspec.msgpack.decode(data, type=Identifier).value for data in plain}
    assert values == {"+1 555 867-5309", "001 555 8675309"}


async def test_a_cut_card_number_names_nobody_and_is_kept(server: Server) -> None:
    await server.take(sale(customer=Customer(identifiers=(Identifier("card", "411111******1111"),))))
    assert await server.rows("SELECT subject FROM ledger") == [(None,)]
    assert b"411111" not in files(server)
    (item,) = await reveal_own(server)
    assert b"411111******1111" in item.plain


async def test_dead_letters_are_kept_as_sealed_as_they_came(server: Server) -> None:
    await server.take(encode({"note": PLAIN_PHONE}))
    await server.take(Record(sale(business_date=PLAIN_PHONE), NOW))
    assert await server.rows("SELECT count(*) FROM dead_letter") == [(2,)]
    assert PLAIN_PHONE.encode() not in files(server)


def test_the_canaries_are_ones() -> None:
    data = encode(record()).lower()
    assert re.search(rb"8675309", data)
    assert data.count(b"canary") >= 10
