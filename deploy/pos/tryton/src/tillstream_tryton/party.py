"""Parties that turn out to be the same."""

from __future__ import annotations

from trytond.pool import PoolMeta


class Replace(metaclass=PoolMeta):
    """The wizard that puts one party in the place of another."""

    __name__ = "party.replace"

    @classmethod
    def fields_to_replace(cls) -> list[tuple[str, str]]:
        """Where parties stand; among them, on sales."""
        return [*super().fields_to_replace(), ("sale.point.sale", "tillstream_party")]
