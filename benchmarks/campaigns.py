"""Campaigns to decide by: as many as a question asks for, each a condition of a few parts."""

from __future__ import annotations

from typing import Any

_EFFECTS = [{"type": "cashier_message", "text": "An offer"}]


def at_the_till(count: int) -> list[dict[str, Any]]:
    """Campaigns that a till decides by itself, each for another group of articles. The last in priority alone applies
    to a usual basket: one offer comes of it, and the till's index leaves out the others."""
    return [_edge(number, applies=number == count - 1) for number in range(count)]


def all_visited(count: int) -> list[dict[str, Any]]:
    """The same for campaigns of which every basket has what the till's index files by: all are looked at."""
    return [_long(number, least=1 if number == count - 1 else 500 + number) for number in range(count)]


def _long(number: int, *, least: int) -> dict[str, Any]:
    return _campaign(
        f"long-{number}",
        {
            "and": [
                {"==": [{"var": "sale.currency"}, "EUR"]},
                {">=": [{"var": "sale.total"}, 1000 + number % 100]},
                {">=": [{"var": "sale.lines"}, least]},
            ]
        },
        priority=min(1000, number),
    )


def _edge(number: int, *, applies: bool) -> dict[str, Any]:
    return _campaign(
        f"edge-{number}",
        {
            "and": [
                {"==": [{"var": "sale.currency"}, "EUR"]},
                {">=": [{"var": "sale.total"}, 1000 + number % 100]},
                {"in": ["GROCERY" if applies else f"NO SUCH GROUP {number}", {"var": "sale.categories"}]},
            ]
        },
        priority=min(1000, number),
    )


def at_the_server(count: int) -> list[dict[str, Any]]:
    """Campaigns that only the server can decide, which apply to nobody: the looking is what is measured."""
    return [
        _campaign(
            f"server-{number}",
            {
                "and": [
                    {">=": [{"var": "member.visits"}, 1_000_000_000 + number]},
                    {">=": [{"var": "member.days_since_last_visit"}, 30]},
                ]
            },
        )
        for number in range(count)
    ]


def for_every_sale(total: int | None = None) -> dict[str, Any]:
    """The server's offer for every sale of a member, or for those that come to `total` cents."""
    parts: list[dict[str, Any]] = [{">=": [{"var": "member.visits"}, 0]}]
    if total is not None:
        parts.append({"==": [{"var": "sale.total"}, total]})
    return _campaign("stream", {"and": parts})


def _campaign(name: str, condition: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "version": 1,
        "name": name,
        "trigger": "transaction",
        "condition": condition,
        "effects": _EFFECTS,
        **fields,
    }
