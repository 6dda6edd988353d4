"""The parts of the Tryton module that need no database: its settings, and what becomes of a sale's fields."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.tryton_shop import ABSENT

if ABSENT is not None or importlib.util.find_spec("trytond") is None:
    pytest.skip(str(ABSENT), allow_module_level=True)

from trytond import config

from tillstream_pos import Answer
from tillstream_protocol.codec import json_decoder
from tillstream_protocol.limits import MIB
from tillstream_protocol.transaction import Transaction, reconcile
from tillstream_tryton import delivery, mapping, settings

SCHEMES = (("identifier", "loyalty"), ("code", "account"), ("email", "email"))


@pytest.fixture
def conf(tmp_path: Path) -> Iterator[Any]:
    """Writes trytond.conf and has it read; afterwards nothing of it is left."""
    before = set(config._config.sections())

    def write(text: str) -> None:
        file = tmp_path / "trytond.conf"
        file.write_text(text)
        config.update_etc(str(file))

    yield write
    for section in set(config._config.sections()) - before:
        config.remove_section(section)
    config._cache_clear()
    settings.till.cache_clear()


def test_without_settings_the_usual_folder_and_deadline_are_taken() -> None:
    found = settings.settings("Front desk")
    assert (found.state, found.url, found.token, found.token_file, found.deadline) == (None, None, None, None, 0.25)
    assert settings.captures_when_paid()
    assert settings.follows_baskets()
    assert settings.identifiers() == (("identifier", "loyalty"), ("code", "account"))


def test_what_the_file_says_is_taken(conf: Any) -> None:
    conf("[tillstream]\nstate = /s\ndeadline = 1.5\ncapture = posted\nbaskets = no\nidentifiers = eu_vat:other junk\n")
    assert settings.settings("any") == settings.Settings("/s", None, None, None, 1.5)
    assert (settings.captures_when_paid(), settings.follows_baskets()) == (False, False)
    assert settings.identifiers() == (("eu_vat", "other"),)


def test_a_point_may_have_an_agent_of_its_own(conf: Any) -> None:
    conf(
        "[tillstream]\nstate = /common\ntoken_file = /token\n"
        "[tillstream Front desk]\nurl = http://127.0.0.1:8711\n"
        "[tillstream Garden]\nstate = /garden\ndeadline = 0.1\n"
    )
    assert settings.settings("Shop") == settings.Settings("/common", None, None, "/token", 0.25)
    assert settings.settings("Front desk") == settings.Settings(None, "http://127.0.0.1:8711", None, "/token", 0.25)
    assert settings.settings("Garden") == settings.Settings("/garden", None, None, None, 0.1)


def test_a_common_address_gives_every_point_its_token(conf: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    conf(f"[tillstream]\nurl = http://127.0.0.1:8710\ntoken_file = {tmp_path / 'token'}\n")
    first = settings.till(settings.settings("Shop"))
    assert first is settings.till(settings.settings("Garden"))


@pytest.mark.parametrize("deadline", ["0", "-1", "11", "soon", "nan"])
def test_a_deadline_that_cannot_be_meant_is_refused(conf: Any, deadline: str) -> None:
    conf(f"[tillstream]\ndeadline = {deadline}\n")
    with pytest.raises(ValueError, match=r"deadline|float"):
        settings.settings("Shop")


def tax(name: str, rate: str, amount: str) -> SimpleNamespace:
    kind = SimpleNamespace(name=name, type="percentage", rate=Decimal(rate))
    return SimpleNamespace(tax=kind, amount=Decimal(amount), base=Decimal("8.00"))


def line(quantity: float = 1.0, gross: str = "10.00", **named: Any) -> SimpleNamespace:
    food = SimpleNamespace(name="Food", parent=None)
    cheese = SimpleNamespace(name="Cheese", parent=food)
    product = SimpleNamespace(id=7, code="", name="Cheese", identifiers=(), categories=(cheese,))
    fields = {
        "product": product,
        "quantity": quantity,
        "gross_amount": Decimal(gross),
        "tax_amount": Decimal("1.60"),
        "unit": SimpleNamespace(symbol="kg"),
        "unit_gross_price": Decimal("10.0000"),
        "_get_taxes": lambda: {1: tax("Standard", ".19", "1.50"), 2: tax("Extra", ".01", "0.08")},
    }
    return SimpleNamespace(**{**fields, **named})


def sale(*lines: SimpleNamespace, **named: Any) -> SimpleNamespace:
    lines = lines or (line(),)
    total = sum((one.gross_amount for one in lines), Decimal(0))
    cash = SimpleNamespace(cash=True, name="Cash")
    paid = SimpleNamespace(id=3, method=cash, amount=total, session=SimpleNamespace(id=5))
    fields = {
        "id": 11,
        "number": "11",
        "state": "done",
        "date": date(2026, 1, 31),
        "create_date": datetime.fromisoformat("2026-01-31T10:00"),
        "tillstream_at": datetime.fromisoformat("2026-01-31T10:05"),
        "tillstream_date": date(2026, 1, 31),
        "tillstream_revision": 0,
        "tillstream_party": None,
        "company": SimpleNamespace(timezone=None),
        "currency": SimpleNamespace(code="EUR", digits=2),
        "employee": None,
        "point": SimpleNamespace(name="Front desk"),
        "lines": lines,
        "payments": (paid,),
        "total": total,
        "total_tax": Decimal("1.60"),
        "amount_paid": total,
    }
    return SimpleNamespace(**{**fields, **named})


def mapped(given: SimpleNamespace) -> dict[str, Any]:
    """The transaction, after the agent's own decoder has taken it and found that it adds up."""
    body = mapping.transaction(given, "shop", SCHEMES)
    decoded = json_decoder(Transaction, limit=MIB)(json.dumps(body).encode())
    assert reconcile(decoded) in (True, None)
    return body


def test_rounding_of_taxes_goes_to_the_largest() -> None:
    taxes = mapped(sale())["lines"][0]["taxes"]
    assert [(one["code"], one["amount"], one["rate"]) for one in taxes] == [("Standard", 152, "19"), ("Extra", 8, "1")]


def test_a_product_without_code_is_named_by_its_id_and_a_line_without_taxes_has_none() -> None:
    found = mapped(sale(line(_get_taxes=dict)))["lines"][0]
    assert (found["sku"], found["taxes"], found.get("gtin")) == ("#7", [], None)


@pytest.mark.parametrize(("digits", "total", "minor"), [(0, "100", 100), (2, "1.00", 100), (3, "1.234", 1234)])
def test_amounts_are_in_the_currencys_minor_units(digits: int, total: str, minor: int) -> None:
    currency = SimpleNamespace(code="XXX", digits=digits)
    body = mapped(sale(line(gross=total, tax_amount=Decimal(0), _get_taxes=dict), currency=currency))
    assert (body["total"], body["exponent"]) == (minor, digits)


def test_a_currency_of_many_digits_has_no_canonical_form() -> None:
    with pytest.raises(mapping.Unmapped, match="5 digits"):
        mapped(sale(currency=SimpleNamespace(code="XXX", digits=5)))


def test_quantities_are_plain_decimals() -> None:
    for quantity, text in ((0.1, "0.1"), (1e-7, "0.0000001"), (3.0, "3"), (1e10, "10000000000"), (-2.5, "-2.5")):
        assert mapping.transaction(sale(line(quantity)), "shop", ())["lines"][0]["quantity"] == text


def test_the_offset_is_the_companys() -> None:
    berlin = mapped(sale(company=SimpleNamespace(timezone="Europe/Berlin")))
    assert berlin["end"] == {"at": 1_769_853_900_000, "offset_minutes": 60, "offset_from": "store"}
    assert mapped(sale())["end"] == {"at": 1_769_853_900_000}


def test_only_identifiers_that_are_named_leave_tryton() -> None:
    party = SimpleNamespace(
        code="42",
        identifiers=(SimpleNamespace(type="eu_vat", code="DE1"), SimpleNamespace(type=None, code="9900")),
        contact_mechanisms=(
            SimpleNamespace(type="phone", value="+491"),
            SimpleNamespace(type="email", value="jo@example.org"),
        ),
    )
    body = mapped(sale(tillstream_party=party))
    assert body["customer"]["identifiers"] == [
        {"scheme": "loyalty", "value": "9900"},
        {"scheme": "account", "value": "42"},
        {"scheme": "email", "value": "jo@example.org"},
    ]


@pytest.mark.parametrize(
    ("quantities", "state", "kind"),
    [
        ((1, 2), "done", "sale"),
        ((-1, -2), "done", "return"),
        ((1, -2), "done", "exchange"),
        ((1, 2), "cancelled", "cancel"),
        ((), "cancelled", "cancel"),
    ],
)
def test_the_kind_is_what_happened_to_the_goods(quantities: tuple[float, ...], state: str, kind: str) -> None:
    body = mapping.transaction(sale(*(line(one) for one in quantities), state=state), "shop", ())
    assert body["kind"] == kind


def test_a_basket_is_the_same_goods_without_payment() -> None:
    found = mapping.basket(sale(state="open"), SCHEMES)
    assert (found["state"], found["total"], found["currency"], len(found["lines"])) == ("open", 1000, "EUR", 1)
    assert mapping.basket(sale(state="cancelled"), SCHEMES)["state"] == "voided"


@pytest.mark.parametrize(
    ("answer", "sent"),
    [
        (Answer(ok=True, status=201), 3),
        (Answer(ok=False, status=400, code="invalid_input"), 3),
        (Answer(ok=False, code="unmapped"), 3),
        (Answer(ok=False, status=409, code="stale_revision"), 3),
        (Answer(ok=False, status=401, code="unauthorized"), 3),
        (Answer(ok=False, status=503, code="journal_full", retryable=True), 1),
        (Answer(ok=False, code="settings", retryable=True), 1),
        (None, 0),
    ],
)
def test_a_sale_that_is_not_taken_holds_up_no_other_unless_the_agent_is_in_trouble(
    answer: Answer | None, sent: int
) -> None:
    round_ = AnsweringRound([answer, Answer(ok=True, status=201), Answer(ok=True, status=201)])
    sales = [SimpleNamespace(id=number, tillstream_revision=0) for number in (1, 2, 3)]
    outcomes = list(round_._in_turn(sales))
    assert [outcome.sale for outcome in outcomes] == [1, 2, 3][:sent]
    if outcomes:
        assert outcomes[0].answer is answer


class AnsweringRound(delivery._Round):
    """A round whose agent gives these answers."""

    def __init__(self, answers: list[Answer | None]) -> None:
        super().__init__("shop", "en", [], sweeps=True)
        self._answers = iter(answers)

    def _answer(self, sale: Any, ask: Any) -> Answer | None:
        return next(self._answers)
