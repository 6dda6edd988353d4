"""Adapters: what a POS wrote, as canonical transactions. One module a format, each pure.

An adapter reads bytes and a till's `Setting`, and gives `Reading`s in the order of the input. What the format says
goes where the canonical transaction has a place for it, header totals verbatim; what has no place goes into `ext`;
the bytes themselves travel sealed beside it all. What the payload lacks comes from the setting, and is named in
`ext.assumed`. Bad input raises `InvalidInput`, whose `field` is the place in the input as its own format writes it.
"""

from __future__ import annotations

from .base import Adapter, Reading, Setting

__all__ = ["Adapter", "Reading", "Setting"]
