"""An hour's four quarters lie in one row: head office's days are read from a quarter of the rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_SUMS = [
    f"SUM(CASE quarter WHEN {quarter} THEN {name} ELSE 0 END)"
    for quarter in range(4)
    for name in ("transactions", "amount_minor")
]
_GATHERED = f"""
INSERT INTO sales_by_quarter
SELECT quarter_ms - quarter * 900000, retailer, store, currency, {", ".join(_SUMS)} FROM (
    SELECT *, ((quarter_ms % 3600000) + 3600000) % 3600000 / 900000 AS quarter FROM former
) GROUP BY 1, 2, 3, 4
"""  # noqa: S608
_SPREAD = """
INSERT INTO sales_by_quarter
SELECT hour_ms + {0} * 900000, retailer, store, currency, transactions_{0}, amount_minor_{0} FROM former
WHERE transactions_{0} <> 0
"""


def _anew(instant: str, counted: list[str]) -> None:
    """The table as `former`, and an empty one beside it."""
    op.rename_table("sales_by_quarter", "former")
    op.create_table(
        "sales_by_quarter",
        sa.Column(instant, sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("retailer", "store", "currency")),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in counted),
        sa.PrimaryKeyConstraint(instant, "retailer", "store", "currency", name=op.f("pk_sales_by_quarter")),
        sqlite_with_rowid=False,
    )


def upgrade() -> None:
    _anew("hour_ms", [f"{name}_{quarter}" for quarter in range(4) for name in ("transactions", "amount_minor")])
    op.execute(_GATHERED)
    op.drop_table("former")


def downgrade() -> None:
    _anew("quarter_ms", ["transactions", "amount_minor"])
    for quarter in range(4):
        op.execute(_SPREAD.format(quarter))
    op.drop_table("former")
