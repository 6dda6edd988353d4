"""Putting another webhook in the place of a source: the same till, so that what it knows is not taken for new.

WooCommerce's orders are known within their till. A shop whose source was revoked and then made anew, under a till of
its own, would tell with every change of an old order of a sale that the ledger has under the former till.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta, Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.limits import MAX_SHORT, MAX_TEXT
from tillstream_protocol.messages import Name

from .. import tills
from ..keys import Randomness, ServerKeys
from . import sources
from .signatures import Kind
from .sources import NewSource, UnknownSource

MAX_OPTIONS: Final = 1024 * 1024
"""Characters of an adapter's own settings."""


class SourceReplace(Struct, frozen=True, forbid_unknown_fields=True, tag="source_replace"):
    """Let a source's till take webhooks again or otherwise; what is left out stays as it was. It may be revoked.

    `to` is its new name.
    """

    kind: Kind
    name: Name | None = None
    to: Name | None = None
    adapter: Name | None = None
    url: Annotated[str, Meta(max_length=MAX_TEXT)] | None = None
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] | None = None
    zone: Annotated[str, Meta(max_length=MAX_SHORT)] | None = None
    options: Annotated[str, Meta(max_length=MAX_OPTIONS)] | None = None
    secret: str | None = None


async def replace(
    conn: AsyncConnection, keys: ServerKeys, order: SourceReplace, *, random: Randomness
) -> tuple[bytes, NewSource]:
    """Put it in force; the till's id, and what the source is now. Raises `UnknownSource` or `InvalidInput`."""
    name = order.name or order.kind
    found = (await conn.exec_driver_sql(_NEWEST, (order.kind, name))).mappings().first()
    if found is None:
        raise UnknownSource(f"there is no {order.kind} source {name!r}, nor was there", hint="see: source list")
    till_id = bytes(found["till_id"])
    new = _with(order, name, found)
    sources.check(new)
    other = await sources.in_force(conn, new.kind, new.name)
    if other not in (None, till_id):
        raise InvalidInput(f"there is a {new.kind} source {new.name!r} already", field="to", hint="give another --to")
    sealed, another = bytes(found["secret"]), order.secret is not None
    if another:
        sealed = sources.sealed(keys, till_id, sources.secret_for(order.kind, order.secret, random), random)
    values = (new.name, new.adapter, new.url, new.currency, new.zone, new.options, sealed, another, another, till_id)
    await conn.exec_driver_sql(_REPLACE, values)
    place = await tills.by_id(conn, till_id)
    assert place is not None
    await tills.allow_again(conn, place)
    return till_id, new


def _with(order: SourceReplace, name: str, row: Any) -> NewSource:
    """What the source was, with what the order says."""
    given = {one: row[one] if (said := getattr(order, one)) is None else said for one in _KEPT}
    before = NewSource(order.kind, name, row["retailer"], row["store"], row["till"], base_url="", **given)
    base = row["url"].removesuffix(before.path) if order.url is None else order.url
    return NewSource(order.kind, order.to or name, before.retailer, before.store, before.till, base_url=base, **given)


_KEPT: Final = ("adapter", "currency", "zone", "options")

_NEWEST: Final = """
SELECT s.till_id, s.adapter, s.url, s.currency, s.zone, s.options, s.secret, t.retailer, t.store, t.till
FROM source s JOIN till t ON t.till_id = s.till_id
WHERE s.kind = ? AND s.name = ? ORDER BY s.revoked_ms IS NOT NULL, s.revoked_ms DESC LIMIT 1
"""
_REPLACE: Final = """
UPDATE source SET name = ?, adapter = ?, url = ?, currency = ?, zone = ?, options = ?, secret = ?,
    former_secret = CASE WHEN ? THEN NULL ELSE former_secret END,
    former_until_ms = CASE WHEN ? THEN NULL ELSE former_until_ms END, revoked_ms = NULL WHERE till_id = ?
"""
"""Without another secret, the one before a rotation is taken for as long as was said: a vendor may still sign with it,
and WooCommerce sends nothing twice."""
