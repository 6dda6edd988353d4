"""Every adapter by its name. Whoever needs one alone imports that module: this one imports them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from . import (
    digital_receipt,
    erpnext,
    escpos,
    fiskaltrust,
    mapping,
    naxml,
    odoo,
    poslog,
    shopify,
    square,
    square_payment,
    woocommerce,
)
from .base import Adapter

_MODULES: Final = (
    digital_receipt,
    erpnext,
    escpos,
    fiskaltrust,
    mapping,
    naxml,
    odoo,
    poslog,
    shopify,
    square,
    square_payment,
    woocommerce,
)
ADAPTERS: Final[Mapping[str, Adapter]] = {module.ADAPTER.name: module.ADAPTER for module in _MODULES}
"""In alphabetical order."""
