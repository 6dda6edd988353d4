"""Deciding on offers: the same function at the till and at the server.

A decision's offer id is derived from what it is about, so that both sides name one offer alike and never both make
it; its key, which only server and tills have, keeps others from guessing a sale from its offers. A campaign whose
condition needs what only the server knows is left to the server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from typing import Annotated, Literal

from msgspec import Meta, Struct

from .effects import Discount, Effect, RefusalCode
from .errors import InvalidInput
from .limits import MAX_OFFERS_SHOWN, MAX_SHORT, MAX_TEXT
from .rules import Bound, Compiled, Condition, Facts, bounds_of, compile_condition, variables_of
from .transaction import Code, Count, InstantMs

Trigger = Literal["transaction", "member_identified", "basket"]
"""A `basket` is decided on at the till alone, again with each change while it is open, and settled when it closes."""


class Budget(Struct, frozen=True, forbid_unknown_fields=True):
    """At most `units` offers in all, handed to tills in leases of `lease` offers."""

    units: Annotated[int, Meta(ge=1, le=1_000_000_000)]
    lease: Annotated[int, Meta(ge=1, le=1_000_000)]


class Campaign(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who gets what when. The JSON file that head office writes has these fields."""

    id: Code
    version: Annotated[int, Meta(ge=1, le=1_000_000)]
    name: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
    trigger: Trigger
    condition: Condition
    effects: Annotated[tuple[Effect, ...], Meta(min_length=1, max_length=8)]
    once_per: Literal["record", "member"] = "record"
    fresh_for_s: Annotated[int, Meta(ge=1, le=30 * 86_400)] = 900
    """A record captured longer ago than this fires no offer."""
    valid_for_s: Annotated[int, Meta(ge=1, le=366 * 86_400)] = 86_400
    """How long an offer may be shown after it was decided."""
    budget: Budget | None = None
    priority: Annotated[int, Meta(ge=0, le=1000)] = 100
    """Lower is shown first."""
    stores: Annotated[tuple[Annotated[str, Meta(max_length=MAX_SHORT)], ...], Meta(max_length=1000)] = ()
    """Only there; empty is everywhere."""


class Decision(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One decision, made once and never derived again."""

    offer_id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    campaign: Code
    campaign_version: Count
    outcome: Literal["offered", "withheld", "refused"]
    decided_at: Literal["edge", "server"]
    decided_ms: InstantMs
    expires_ms: InstantMs
    reason: RefusalCode | None = None
    lease: Annotated[bytes, Meta(min_length=16, max_length=16)] | None = None
    effects: tuple[Effect, ...] = ()


class Rule(Struct, frozen=True):
    """A campaign made ready to decide by."""

    campaign: Campaign
    matches: Compiled
    at_edge: bool
    bound: Bound | None = None


class Occasion(Struct, frozen=True, gc=False):
    """What a decision is about. Times are milliseconds since 1970.

    `record_key` names the fact the same way on both sides; `member_key` the person, where this side may know one.
    `offer_key` is the retailer's (32 bytes): the till has it from its pack.
    """

    trigger: Trigger
    store: str
    facts: Facts
    record_key: bytes
    member_key: bytes | None
    offer_key: bytes
    now_ms: int
    age_ms: int
    side: Literal["edge", "server"]


def ready(campaign: Campaign) -> Rule:
    """Compile a campaign. Raises `InvalidInput` naming the place in its condition or effects."""
    matches = compile_condition(campaign.condition)
    for index, effect in enumerate(campaign.effects):
        if isinstance(effect, Discount):
            _check_discount(effect, f"effects[{index}]")
    edge = campaign.once_per == "record" and all(
        variable in EDGE_VARIABLES for variable in variables_of(campaign.condition)
    )
    return Rule(campaign, matches, edge, next(bounds_of(campaign.condition), None))


def _check_discount(discount: Discount, field: str) -> None:
    money = discount.amount is not None and discount.currency is not None
    share = discount.basis_points is not None
    if money == share or (share and discount.amount is not None):
        raise InvalidInput(
            "what the discount takes off is unclear", field=field, limit="amount and currency, or basis_points"
        )


EDGE_VARIABLES = frozenset(
    {
        "sale.kind",
        "sale.total",
        "sale.currency",
        "sale.lines",
        "sale.skus",
        "sale.categories",
        "till.store",
        "till.retailer",
        "time.hour",
        "time.weekday",
        "member.known",
    }
)
"""What a till knows by itself. Every other variable makes a campaign the server's to decide."""


def offer_id(campaign: Campaign, occasion_key: bytes, offer_key: bytes) -> bytes:
    """The 16-byte name of the one offer that a campaign can make on an occasion, under the retailer's offer key."""
    digest = hashlib.blake2b(digest_size=16, key=offer_key, person=b"tillstream-offer")
    for part in (campaign.id.encode(), occasion_key):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.digest()


DrawLease = Callable[[Campaign], bytes | None]
"""Draws one unit of a campaign's budget: the lease it came from, or None when there is nothing left."""


def ranked(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Rules in the order in which their offers are shown, which is the one to decide in."""
    return tuple(sorted(rules, key=lambda rule: (rule.campaign.priority, rule.campaign.id)))


def decide(
    rules: Iterable[Rule], occasion: Occasion, *, draw: DrawLease, decided: Collection[bytes] = (), made: int = 0
) -> list[Decision]:
    """Every decision due on an occasion by `ranked` rules, best first. Offer ids in `decided` are left alone.

    At most three offers are made, less the `made` ones that the occasion already has; a budget that is spent, or an
    occasion that is no longer fresh, gives a refusal that says so.
    """
    decisions: list[Decision] = []
    offers = made
    for rule in rules:
        if offers >= MAX_OFFERS_SHOWN:
            break
        name = due(rule, occasion)
        if name is None or name in decided:
            continue
        decision = _settle(rule.campaign, name, occasion, draw)
        offers += decision.outcome == "offered"
        decisions.append(decision)
    return decisions


def due(rule: Rule, occasion: Occasion) -> bytes | None:
    """The id of the offer that a rule has for an occasion, or None where it does not apply."""
    campaign = rule.campaign
    if campaign.trigger != occasion.trigger or (occasion.side == "edge" and not rule.at_edge):
        return None
    if campaign.stores and occasion.store not in campaign.stores:
        return None
    key = occasion.record_key if campaign.once_per == "record" else occasion.member_key
    if key is None or rule.matches(occasion.facts) is not True:
        return None
    return offer_id(campaign, key, occasion.offer_key)


def _settle(campaign: Campaign, name: bytes, occasion: Occasion, draw: DrawLease) -> Decision:
    reason: RefusalCode | None = None
    lease: bytes | None = None
    if occasion.age_ms > campaign.fresh_for_s * 1000:
        reason = "stale"
    elif campaign.budget is not None:
        lease = draw(campaign)
        reason = "budget_exhausted" if lease is None else None
    return Decision(
        offer_id=name,
        campaign=campaign.id,
        campaign_version=campaign.version,
        outcome="offered" if reason is None else "refused",
        decided_at=occasion.side,
        decided_ms=occasion.now_ms,
        expires_ms=occasion.now_ms + campaign.valid_for_s * 1000,
        reason=reason,
        lease=lease,
        effects=campaign.effects if reason is None else (),
    )
