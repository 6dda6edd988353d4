"""Sales as they come in. The ledger has the exact figures; here is whether and how fast they come."""

from __future__ import annotations

from typing import Final

from .panels import SERVER, Dashboard, Query, Row, lines, number, rate, stack


def _hour(metric: str, where: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (increase({metric}{{{SERVER}, {where}}}[1h]))"


_AMOUNT = "tillstream_server_amount_total"
_COUNT = "tillstream_server_transactions_total"

SALES: Final = Dashboard(
    "sales",
    "Tillstream · Sales",
    "Sales as they come in, training left out. What is revised or voided later stays counted here; the ledger has the "
    "figures to go by.",
    (
        Row(
            "The last hour",
            (
                number("Sales", "Sales that came in.", _hour(_COUNT, 'kind="sale"'), width=6),
                number(
                    "Sold",
                    "By currency, in its main unit.",
                    _hour(_AMOUNT, 'direction="sold"', "currency"),
                    legend="{{currency}}",
                    width=6,
                ),
                number(
                    "Returned",
                    "By currency, in its main unit.",
                    _hour(_AMOUNT, 'direction="returned"', "currency"),
                    legend="{{currency}}",
                    width=6,
                ),
                number(
                    "Opening hours",
                    "By the setting opening_hours; the alert on no sales heeds them.",
                    f'max(tillstream_server_opening{{{SERVER}, state="open"}})',
                    width=6,
                ),
            ),
        ),
        Row(
            "Over time",
            (
                stack(
                    "Transactions a second",
                    "Sales, returns and exchanges as they come in. A drain after an outage shows as a peak.",
                    Query(rate(_COUNT, "kind"), "{{kind}}"),
                    unit="cps",
                    width=12,
                ),
                lines(
                    "Amounts a second",
                    "By currency, in its main unit; returns apart.",
                    Query(
                        f"sum by (currency, direction) (tillstream:amount:rate5m{{{SERVER}}})",
                        "{{currency}} {{direction}}",
                    ),
                    width=12,
                ),
                lines(
                    "Sales a second, averaged",
                    "Over five minutes: the line that the alert on no sales looks along.",
                    Query(f"sum(tillstream:sales:rate5m{{{SERVER}}})", "sales"),
                    unit="cps",
                ),
                lines(
                    "Offers",
                    "Offers that were shown, and answers to them, a second.",
                    Query(
                        rate("tillstream_server_taken_records_total", "body", f'{SERVER}, body=~"offer_.*"'), "{{body}}"
                    ),
                    unit="cps",
                ),
                lines(
                    "Cloud POS systems",
                    "Deliveries of webhooks a second, by kind of source and outcome.",
                    Query(rate("tillstream_server_hooks_total", "kind, outcome"), "{{kind}} {{outcome}}"),
                    unit="cps",
                ),
            ),
        ),
    ),
)
