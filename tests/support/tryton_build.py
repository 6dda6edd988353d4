"""Builds the shop that tests of the Tryton module begin with: `python tryton_build.py FOLDER` writes `shop.sqlite`.

A company with a chart of accounts, two products, a point of sale with two ways to pay, and a customer with a card; our
own module is not in it yet. Activating Tryton's modules takes a minute, so this is run once, by `make .venv/tryton`.
"""

from __future__ import annotations

import os
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

DATABASE = "shop"
PASSWORD = "only for tests on this machine"
POINT = "Front desk"
CARD = "9900112233"
EAN = "4006381333931"


def build(folder: str) -> None:
    """Make the database in this folder."""
    os.environ.update(
        DB_NAME=DATABASE, TRYTOND_DATABASE__URI="sqlite://", TRYTOND_DATABASE__PATH=str(Path(folder).resolve())
    )
    from trytond.modules.account.tests.tools import create_chart
    from trytond.modules.company.tests.tools import create_company
    from trytond.tests.tools import activate_modules

    activate_modules("sale_point", create_company, create_chart)
    accounts = _books()
    _products(accounts)
    _point(accounts)
    _people()


def _model(name: str, /, **values: Any) -> Any:
    from proteus import Model

    kind = Model.get(name)
    return kind(**values) if values else kind


def _one(name: str, /, *domain: tuple[str, str, Any]) -> Any:
    return _model(name).find(list(domain), limit=1)[0]


def _books() -> dict[str, Any]:
    from trytond.modules.account.tests.tools import create_fiscalyear, get_accounts
    from trytond.modules.account_invoice.tests.tools import set_fiscalyear_invoice_sequences

    year = date.today().year  # noqa: DTZ011 (Tryton's own)
    fiscal = create_fiscalyear(today=(date(year, 1, 1), date(year + 4, 12, 31)))
    set_fiscalyear_invoice_sequences(fiscal).click("create_period")
    accounts: dict[str, Any] = get_accounts()
    return accounts


def _products(accounts: dict[str, Any]) -> None:
    from trytond.modules.account.tests.tools import create_tax

    tax = create_tax(Decimal(".21"))
    tax.save()
    books = _model("product.category", name="Goods at 21", accounting=True)
    books.account_revenue = accounts["revenue"]
    books.customer_taxes.append(tax)
    books.save()
    food = _model("product.category", name="Food")
    food.save()
    cheese = _model("product.category", name="Cheese", parent=food)
    cheese.save()
    _product("Mountain cheese", "Kilogram", Decimal("12.00"), books, categories=[cheese], code="CHEESE", ean=EAN)
    _product("Gift box", "Unit", Decimal("8.00"), books)


def _product(
    name: str, unit: str, price: Decimal, books: Any, *, categories: tuple[Any, ...] | list[Any] = (), **named: str
) -> None:
    template = _model("product.template", name=name)
    template.default_uom = _one("product.uom", ("name", "=", unit))
    template.type = "goods"
    template.salable = True
    template.account_category = books
    template.gross_price = price
    template.categories.extend(categories)
    product = template.products[0]
    if named:
        product.suffix_code = named["code"]
        product.identifiers.new(type="ean", code=named["ean"])
    template.save()


def _point(accounts: dict[str, Any]) -> None:
    point = _model("sale.point", name=POINT)
    point.journal = _one("account.journal", ("type", "=", "revenue"))
    kind = _one("ir.sequence.type", ("name", "=", "POS"))
    point.sequence = _model("ir.sequence.strict", name="POS", company=point.company, sequence_type=kind)
    point.sequence.save()
    point.storage_location = point.return_location = _one("stock.location", ("code", "=", "STO"))
    point.customer_location = _one("stock.location", ("code", "=", "CUS"))
    point.save()
    terminal = accounts["cash"].duplicate(default={"name": "Terminal"})[0]
    _model("sale.point.payment.method", name="Cash", account=accounts["cash"], cash=True).save()
    _model("sale.point.payment.method", name="Terminal", account=terminal).save()


def _people() -> None:
    customer = _model("party.party", name="Jo Example")
    customer.identifiers.new(code=CARD)
    customer.contact_mechanisms.new(type="email", value="jo@example.org")
    customer.save()
    company = _model("company.company").find([])[0]
    company.timezone = "Europe/Berlin"
    company.save()
    admin = _one("res.user", ("login", "=", "admin"))
    admin.password = PASSWORD
    admin.save()


if __name__ == "__main__":
    build(sys.argv[1])
