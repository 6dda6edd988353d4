"""Every adapter by its name, which is its module's too. A module is imported when its adapter is first asked for.

A till uses one of these formats, or two, and starts faster and in less memory without the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Final

from .base import Adapter

_NAMES: Final = (
    "digital_receipt",
    "erpnext",
    "escpos",
    "fiskaltrust",
    "mapping",
    "naxml",
    "odoo",
    "poslog",
    "shopify",
    "square",
    "square_payment",
    "woocommerce",
)


class _Registry(Mapping[str, Adapter]):
    """Looks like a dictionary. Names are known without an import; whoever takes an adapter imports its module."""

    def __getitem__(self, name: str) -> Adapter:
        if name not in _NAMES:
            raise KeyError(name)
        adapter: Adapter = import_module(f".{name}", __package__).ADAPTER
        return adapter

    def __contains__(self, name: object) -> bool:
        return name in _NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


ADAPTERS: Final[Mapping[str, Adapter]] = _Registry()
"""In alphabetical order."""
