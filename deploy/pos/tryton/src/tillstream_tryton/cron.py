"""The sweep's place among Tryton's scheduled tasks."""

from __future__ import annotations

from trytond.pool import PoolMeta


class Cron(metaclass=PoolMeta):
    """Scheduled tasks."""

    __name__ = "ir.cron"

    @classmethod
    def __setup__(cls) -> None:
        super().__setup__()
        cls.method.selection.append(("sale.point.sale|tillstream_sweep", "Send POS Sales to Tillstream"))
