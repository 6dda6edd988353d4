"""The sale: what is captured of it, when, and what came back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from trytond.model import Index, ModelView, fields
from trytond.pool import PoolMeta
from trytond.pyson import Eval
from trytond.transaction import Transaction

from .delivery import Delivery
from .settings import captures_when_paid, follows_baskets


def tell_of(sales: Iterable[Any]) -> None:
    """Tell the agent how these stand, once that is committed. Which of them are open shows then."""
    if follows_baskets():
        Transaction().join(Delivery()).tells_of(sale.id for sale in sales)


class POSSaleLine(metaclass=PoolMeta):
    """A line of a sale."""

    __name__ = "sale.point.sale.line"

    @classmethod
    def on_modification(cls, mode: str, lines: list[Any], field_names: set[str] | None = None) -> None:
        """A line was made, changed or struck out."""
        super().on_modification(mode, lines, field_names=field_names)
        tell_of({line.sale for line in lines if line.sale})


class POSSale(metaclass=PoolMeta):
    """A sale at a point of sale."""

    __name__ = "sale.point.sale"

    tillstream_party = fields.Many2One(
        "party.party",
        "Customer",
        ondelete="RESTRICT",
        states={"readonly": Eval("state") != "open"},
        context={"company": Eval("company", -1)},
        depends={"company"},
        help="Whom offers are for. Leave empty for a customer who is not known.",
    )
    tillstream_effects = fields.Text(
        "Offers",
        readonly=True,
        states={"invisible": ~Eval("tillstream_effects")},
        help="What Tillstream answered to this sale.",
    )
    tillstream_state = fields.Selection(
        [
            (None, ""),
            ("waiting", "Waiting"),
            ("captured", "Captured"),
            ("refused", "Refused"),
        ],
        "Tillstream",
        readonly=True,
        sort=False,
        help="Whether the till's agent has this sale. What waits is sent again by itself.",
    )
    tillstream_error = fields.Char(
        "Reason",
        readonly=True,
        states={"invisible": ~Eval("tillstream_error")},
        help="Why the sale waits or was refused.",
    )
    tillstream_record = fields.Char("Record", readonly=True, help="The name of the sale's record, for support.")
    tillstream_revision = fields.Integer(
        "Revision", readonly=True, help="How often the sale was changed after payment."
    )
    tillstream_at = fields.Timestamp("Paid At", readonly=True)
    tillstream_date = fields.Date(
        "Business Date", readonly=True, help="The date under which the sale was first captured."
    )

    @classmethod
    def __setup__(cls) -> None:
        super().__setup__()
        table = cls.__table__()
        waiting = table.tillstream_state == "waiting"
        cls._sql_indexes.add(Index(table, (table.id, Index.Range()), where=waiting))
        cls._buttons.update(
            tillstream_again={
                "invisible": ~Eval("tillstream_state").in_(["waiting", "refused"]),
                "depends": ["tillstream_state"],
            }
        )

    @classmethod
    def on_modification(cls, mode: str, sales: list[Any], field_names: set[str] | None = None) -> None:
        """A sale was made or changed. While it is open, the agent is told how it stands."""
        super().on_modification(mode, sales, field_names=field_names)
        if mode != "delete":
            tell_of(sales)

    @classmethod
    def copy(cls, sales: list[Any], default: dict[str, Any] | None = None) -> list[Any]:
        """A copy is a sale of its own: nothing of it is captured."""
        default = dict(default or {})
        for name in ("party", "effects", "state", "error", "record", "revision", "at", "date"):
            default.setdefault(f"tillstream_{name}", None)
        copies: list[Any] = super().copy(sales, default=default)
        return copies

    @classmethod
    def do(cls, sales: list[Any]) -> None:
        """The sales are paid."""
        changing = [sale for sale in sales if sale.state == "open"]
        super().do(sales)
        if captures_when_paid():
            cls._tillstream_mark(sale for sale in changing if sale.state == "done")

    @classmethod
    def post(cls, sales: list[Any]) -> None:
        """The sales are in the books. What was not captured when it was paid is captured now."""
        changing = [sale for sale in sales if sale.state == "done"]
        super().post(sales)
        cls._tillstream_mark(sale for sale in changing if sale.state == "posted" and sale.tillstream_revision is None)

    @classmethod
    def cancel(cls, sales: list[Any]) -> None:
        """The sales did not take place. One that was captured before it was reopened is taken back."""
        changing = [sale for sale in sales if sale.state == "open"]
        super().cancel(sales)
        cls._tillstream_mark(
            sale for sale in changing if sale.state == "cancelled" and sale.tillstream_revision is not None
        )

    @classmethod
    @ModelView.button
    def tillstream_again(cls, sales: list[Any]) -> None:
        """Try sales that wait or were refused once more."""
        marked = [sale for sale in sales if sale.tillstream_state in ("waiting", "refused")]
        cls.write(marked, {"tillstream_state": "waiting"})
        Transaction().join(Delivery()).wants(sale.id for sale in marked)

    @classmethod
    def tillstream_sweep(cls) -> None:
        """Send every marked sale, once this transaction is committed. Called by the scheduler."""
        Transaction().join(Delivery()).sweeps()

    @classmethod
    def _tillstream_mark(cls, sales: Iterable[Any]) -> None:
        """Note in the sale's own transaction that this revision is to be sent."""
        marked = list(sales)
        now = datetime.now(timezone.utc).replace(tzinfo=None)
        with Transaction().set_context(_check_access=False):
            for sale in marked:
                before = sale.tillstream_revision
                values = {
                    "tillstream_state": "waiting",
                    "tillstream_revision": 0 if before is None else before + 1,
                    "tillstream_at": now,
                    "tillstream_date": sale.tillstream_date or sale.date,
                }
                cls.write([sale], values)
        if marked:
            Transaction().join(Delivery()).wants(sale.id for sale in marked)
