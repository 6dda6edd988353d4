"""What an ARTS line sells: the kind of line, the product's numbers and its groups."""

from __future__ import annotations

import re
from typing import Final, Literal

from .xml import Element

_GTINS: Final = re.compile(
    r"(?:acs:)?(?:GTIN|EAN|UPC|JAN|UPCA|UPCE|EAN8|EAN13|GTIN8|GTIN12|GTIN13|GTIN14)", re.IGNORECASE
)
_GROUPS: Final = ("mainGroup", "articleGroup")
_TYPES: Final[dict[str, Literal["item", "deposit", "fee", "gift_card"]]] = {
    "Stock": "item",
    "Deposit": "deposit",
    "DepositRefund": "deposit",
    "Fee": "fee",
    "FeeRefund": "fee",
}


def goods_type(goods: Element) -> Literal["item", "deposit", "fee", "gift_card"]:
    """What kind of line it is."""
    if goods.name in ("StoredValueFund", "GiftCertificate"):
        return "gift_card"
    said = goods.attributes.get("ItemType", "Stock")
    if said in ("Stock", "Deposit", "Fee"):
        goods.attribute("ItemType")
    return _TYPES.get(said, "item")


def goods_codes(goods: Element) -> dict[str, str]:
    """The numbers of a product: by `ItemID` and by the first identity of each kind."""
    codes: dict[str, str] = {}
    for identity in goods.all("POSIdentity"):
        kind, number = identity.attributes.get("POSIDType", ""), identity.first("POSItemID")
        name = "gtin" if _GTINS.fullmatch(kind) else "sku"
        if number is None or not number.text or kind in _GROUPS or name in codes:
            continue
        codes[name] = number.take()
        if kind == "GTIN":
            identity.attribute("POSIDType")
    own = goods.first("ItemID")
    if own is not None and own.text:
        name = "gtin" if _GTINS.fullmatch(own.attributes.get("Type", "")) and "gtin" not in codes else "sku"
        if name == "sku" and "sku" in codes and codes["sku"] != own.text:
            codes["scan"] = codes["sku"]
        codes[name] = own.take()
    return codes


def goods_hierarchy(goods: Element) -> tuple[str, ...]:
    """Groups of merchandise, and the Swedish ones that stand among the identities, in the order of the file."""
    groups = [one.take() for one in goods.all("MerchandiseHierarchy")[:8] if one.text]
    for identity in goods.all("POSIdentity"):
        if identity.attributes.get("POSIDType") in _GROUPS and len(groups) < 8:
            group = identity.value("Qualifier")
            groups += [group] if group else []
    return tuple(groups)
