"""A decision as a screen shows it: what the customer gets, why, and a question if it asks one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tillstream_protocol.decisions import Decision, Trigger
from tillstream_protocol.effects import CashierMessage, Prompt, ReceiptLine


@dataclass(frozen=True, slots=True)
class Card:
    """One decision on a screen: an offer, a question, or both. Its texts are the campaign's own."""

    offer_id: bytes
    campaign: str
    title: str
    """Empty if the decision does nothing but ask."""
    details: tuple[str, ...]
    asides: tuple[str, ...]
    """For the cashier's eyes."""
    trigger: Trigger
    """The kind of occasion that it applies to."""
    decided_at: Literal["edge", "server"]
    expires_ms: int
    for_staff: bool = False
    """Whether all that it says is for the cashier's eyes."""
    prompt: Prompt | None = None


def card_of(decision: Decision, trigger: Trigger) -> Card:
    """A decision in words: what the customer gets, then messages to the cashier. Receipt lines only get printed."""
    prompt = next((effect for effect in decision.effects if isinstance(effect, Prompt)), None)
    effects = [effect for effect in decision.effects if not isinstance(effect, Prompt)]
    given = [effect for effect in effects if not isinstance(effect, ReceiptLine)] or effects
    texts = [effect.text for effect in given if not isinstance(effect, CashierMessage)]
    asides = [effect.text for effect in given if isinstance(effect, CashierMessage)]
    for_staff = bool(asides) and not texts
    if not asides and not texts and prompt is None:
        texts = [decision.campaign]
    title, *details = texts or [asides.pop(0) if asides else ""]
    return Card(
        decision.offer_id,
        decision.campaign,
        title,
        tuple(details),
        tuple(asides),
        trigger,
        decision.decided_at,
        decision.expires_ms,
        for_staff,
        prompt,
    )
