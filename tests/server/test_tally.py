"""What came in with a batch is counted once, by kind and in each currency's own units."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from support.serving import Server, identification, sale
from tillstream_protocol.transaction import Transaction
from tillstream_server.pipeline.tally import NOTHING, sum_of, tally


def yen(total: int) -> Transaction:
    """A sale in a currency without cents."""
    return replace(sale(77, total=total), currency="JPY", exponent=0)


def test_records_are_counted_by_what_they_are() -> None:
    said = tally([sale(), sale(2), identification("e1", "4711")])
    assert said.bodies == {"transaction": 2, "member_identified": 1}


def test_amounts_are_kept_by_currency_and_exponent_and_returns_apart() -> None:
    returned = replace(sale(3, total=-125), kind="return")
    said = tally([sale(total=1999), sale(2, total=1), returned, yen(700)])
    assert said.transactions == {"sale": 3, "return": 1}
    assert said.amounts == {("USD", "sold", 2): 2000, ("USD", "returned", 2): 125, ("JPY", "sold", 0): 700}


def test_neither_training_nor_test_nor_what_does_not_sell_is_money() -> None:
    quiet: Sequence[Transaction] = [
        replace(sale(), training=True),
        replace(sale(), test=True),
        replace(sale(), kind="void"),
        replace(sale(), kind="no_sale"),
    ]
    said = tally(quiet)
    assert (said.bodies, said.transactions, said.amounts) == ({"transaction": 4}, {}, {})


def test_parts_add_up() -> None:
    whole, parts = [sale(), sale(2), yen(3)], [tally([sale()]), NOTHING, tally([sale(2), yen(3)])]
    assert sum_of(parts) == tally(whole)


async def test_a_batch_is_counted_once_however_often_it_comes(server: Server) -> None:
    assert server.count("transactions_total", kind="sale") == 0
    till = await server.till()
    batch = till.batch(sale(total=1999), identification("e1", "4711"), yen(700))
    for _ in range(2):
        assert (await till.uploads(batch)).status == 200
    assert server.count("taken_records_total", body="transaction") == 2
    assert server.count("taken_records_total", body="member_identified") == 1
    assert server.count("transactions_total", kind="sale") == 2
    assert server.count("amount_total", currency="USD", direction="sold") == 19.99
    assert server.count("amount_total", currency="JPY", direction="sold") == 700


async def test_currencies_beyond_a_number_make_no_more_series(server: Server) -> None:
    till = await server.till()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    await till.sends(*(replace(sale(n), currency=f"Q{one}Q") for n, one in enumerate(letters)))
    text = (await server.get("/metrics")).body.decode()
    lines = [line for line in text.splitlines() if line.startswith("tillstream_server_amount_total{")]
    assert len(lines) == 2 * 16
    assert 'tillstream_server_amount_total{currency="USD",direction="sold"} 0.0' in lines
    assert server.count("transactions_total", kind="sale") == len(letters)
