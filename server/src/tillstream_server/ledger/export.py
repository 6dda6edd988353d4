"""The ledger as plain rows, for people and other programs. They name nobody: that is how the ledger lies on disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, TypedDict, cast

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from .bodies import LedgerDamaged

_PAGE: Final = 500
"""Rows read at a time; a body has at most about 1 MiB, and mostly 1 KiB."""


class ExportedRow(TypedDict):
    """One record. Ids are hexadecimal, times are milliseconds since 1970, amounts are in minor units.

    `till` is the till's id and `subject` the random name of the member; `body` is the pseudonymous record.
    """

    id: int
    retailer: str
    store: str
    till: str
    epoch: str
    seq: int
    type: str
    at_ms: int
    business_date: str | None
    captured_ms: int
    received_ms: int
    revision: int
    subject: str | None
    currency: str | None
    amount_minor: int | None
    training: bool
    reconciles: bool | None
    body: object


async def rows(conn: AsyncConnection, *, after: int = 0, retailer: str | None = None) -> AsyncIterator[ExportedRow]:
    """Every record whose id is above `after`, in order of id, page by page. Raises `LedgerDamaged` naming the row."""
    while True:
        page = (await conn.exec_driver_sql(_ROWS, (after, retailer, retailer, _PAGE))).all()
        for row in page:
            yield _exported(tuple(row))
        if len(page) < _PAGE:
            return
        after = page[-1][0]


def line(row: ExportedRow) -> bytes:
    """A row as one line of JSON, without its end."""
    return msgspec.json.encode(row)


_ROWS: Final = """
SELECT id, retailer, store, till_id, epoch, seq, body_type, at_ms, business_date, captured_ms, received_ms, revision,
    subject, currency, amount_minor, training, reconciles, body
FROM ledger WHERE id > ? AND (? IS NULL OR retailer = ?) ORDER BY id LIMIT ?
"""


def _exported(row: tuple[object, ...]) -> ExportedRow:
    values = dict(zip(ExportedRow.__annotations__, row, strict=True))
    values["training"] = bool(values["training"])
    values["reconciles"] = None if values["reconciles"] is None else bool(values["reconciles"])
    try:
        values["body"] = msgspec.msgpack.decode(cast("bytes", values["body"]))
    except msgspec.DecodeError as error:
        raise LedgerDamaged(f"ledger row {values['id']} does not decode", field="body") from error
    return cast("ExportedRow", _readable(values))


def _readable(value: object) -> object:
    """The same with bytes as hexadecimal text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _readable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return value
